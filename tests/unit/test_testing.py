"""The broker for tests: virtual processes, faults on demand, and what was sent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from channels_mpx import (
    ClosedError,
    InvalidArgument,
    InvalidTimeout,
    LinkUnavailable,
    MultiplexedChannelLayer,
)
from channels_mpx.couriers import Courier, LoopIsGone
from channels_mpx.testing import Broker, ChannelLayerTestMixin, Sent
from tests.helpers import eventually
from tests.layers import QUICK, receive, receive_all

NOTICES = {"on_disconnect": "gap.opened", "on_reconnect": "gap.closed"}


@contextlib.asynccontextmanager
async def pair(
    broker: Broker, **config: object
) -> AsyncIterator[tuple[MultiplexedChannelLayer, MultiplexedChannelLayer]]:
    """Yield two virtual processes, both connected."""
    layers = [broker.layer(**{**QUICK, **config}) for _ in range(2)]
    try:
        for layer in layers:
            await layer.new_channel()
        yield layers[0], layers[1]
    finally:
        for layer in layers:
            await layer.aclose()


async def test_layers_of_a_broker_are_processes_of_their_own() -> None:
    """A group has members in both, and either reaches both."""
    async with pair(Broker()) as (here, there):
        channels = [await here.new_channel(), await there.new_channel()]
        await here.group_add("room", channels[0])
        await here.group_add("room", channels[1])
        await there.group_send("room", {"type": "a"})
        assert await receive(here, channels[0]) == {"type": "a"}
        assert await receive(there, channels[1]) == {"type": "a"}


async def test_outbox_notes_what_was_sent_and_nothing_else() -> None:
    """Groups, direct and worker channels; neither bells, requests, probes nor other people's bytes."""
    broker = Broker()
    async with pair(broker, probe_interval=0.05) as (here, there):
        channel = await here.new_channel()
        await there.group_add("room", channel)
        await there.group_send("room", {"type": "a"})
        await there.send(channel, {"type": "b", "data": b"\0"})
        await there.send("work", {"type": "c"})
        assert await receive(there, "work") == {"type": "c"}
        broker.publish(b"mpx:group:room", b"garbage")
        await eventually(lambda: here.statistics().connection.probe_rtt is not None)
        local = channel.partition("!")[2]
        assert broker.outbox == [
            Sent("group", "room", {"type": "a"}),
            Sent("direct", local, {"type": "b", "data": b"\0"}),
            Sent("worker", "work", {"type": "c"}),
        ]


async def test_outbox_holds_what_was_encrypted_in_the_clear() -> None:
    """The broker reads with the keys of its layers."""
    broker = Broker()
    async with pair(broker, symmetric_encryption_keys=["key"]) as (here, _):
        await here.group_send("room", {"type": "a"})
        assert broker.outbox == [Sent("group", "room", {"type": "a"})]


async def test_kill_connections_is_survived() -> None:
    """Every layer loses its link, once, and gets its groups back."""
    broker = Broker()
    async with pair(broker, **NOTICES) as (here, there):
        channel = await here.new_channel()
        await here.group_add("room", channel)
        broker.kill_connections()
        assert (await receive(here, channel))["reason"] == "killed by the test"
        assert (await receive(here, channel))["type"] == "gap.closed"
        await there.group_send("room", {"type": "a"})
        assert await receive(here, channel) == {"type": "a"}
        for layer in (here, there):
            assert layer.statistics().connection.reconnections == {"closed": 1}


async def test_down_keeps_everybody_out() -> None:
    """While the broker is down verbs wait, until their deadline; afterwards they succeed."""
    broker = Broker()
    async with pair(broker, timeout=0.2) as (here, there):
        channel = await here.new_channel()
        with broker.down():
            await eventually(lambda: here.statistics().connection.state == "connecting")
            with pytest.raises(LinkUnavailable, match="the broker is down"):
                await here.send(channel, {"type": "lost"})
        for layer in (here, there):
            await eventually(lambda layer=layer: layer.statistics().connection.state == "connected")
        await there.send(channel, {"type": "a"})
        assert await receive(here, channel) == {"type": "a"}


@pytest.mark.parametrize("rate", [2.5, -0.1, float("nan"), True, "0.5", None])
def test_drop_takes_a_share(rate: Any) -> None:
    """Anything else is an error where it is given, and changes nothing."""
    broker = Broker()
    with pytest.raises(InvalidArgument) as told:
        broker.drop(rate)
    assert str(told.value) == f"rate must be a number from 0 to 1, not {rate!r}."
    for allowed in (0, 0.5, 1):
        with broker.drop(allowed):
            assert broker._rate == allowed
    assert broker._rate == 0


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), True, "1", None])
def test_delay_takes_seconds(seconds: Any) -> None:
    """Anything else is an error where it is given."""
    with pytest.raises(InvalidTimeout) as told:
        Broker().delay(seconds)
    expected = f"seconds must be a number of seconds, 0 or more, not {seconds!r}."
    assert str(told.value) == expected


async def test_drop_loses_a_share_of_the_messages() -> None:
    """The share is that of the rate, the choice that of the seed, and it ends with the context."""
    kept = []
    for _ in range(2):
        broker = Broker(seed=5)
        async with pair(broker, capacity=1000) as (here, there):
            channel = await here.new_channel()
            with broker.drop(0.5):
                with broker.drop(1.0):
                    await there.send(channel, {"number": -1})
                for number in range(200):
                    await there.send(channel, {"number": number})
            await there.send(channel, {"number": 200})
            kept.append([message["number"] for message in await receive_all(here, channel)])
            assert len(broker.outbox) == 202
    assert kept[0] == kept[1]
    assert kept[0][-1] == 200
    assert 50 < len(kept[0]) < 150


async def test_freeze_holds_everything_back() -> None:
    """Nothing is answered and nothing arrives while it lasts; afterwards all of it, in order."""
    broker = Broker()
    async with pair(broker) as (here, there):
        channel = await here.new_channel()
        with broker.freeze():
            sends = [
                asyncio.ensure_future(there.send(channel, {"number": number}))
                for number in range(3)
            ]
            await asyncio.wait(sends, timeout=0.05)
            assert not any(send.done() for send in sends)
            assert here.statistics().waiting == 0
        await asyncio.gather(*sends)
        assert [(await receive(here, channel))["number"] for _ in range(3)] == [0, 1, 2]


async def test_link_that_is_deaf_is_given_up() -> None:
    """A server that takes our messages and gives us none back is left for a new link."""
    broker = Broker()
    async with pair(broker, probe_interval=0.05) as (here, _):
        with broker.drop(1.0):
            await eventually(lambda: here.statistics().connection.epoch > 1)
        assert set(here.statistics().connection.reconnections) == {"deaf"}


async def test_link_that_hears_itself_is_kept() -> None:
    """The negative control: probes that come back cost nothing."""
    async with pair(Broker(), probe_interval=0.05) as (here, _):
        start = here.statistics().connection.received
        await eventually(lambda: here.statistics().connection.received >= start + 4)
        assert here.statistics().connection.epoch == 1


# The outbox


async def test_outbox_tells_processes_apart() -> None:
    """Two channels whose names end alike are two; worker channels and groups go by their names."""
    with Broker() as broker:
        layers = [broker.layer() for _ in range(2)]
        channels = [await layer.new_channel() for layer in layers]
        assert len({channel.partition("!")[2] for channel in channels}) == 1
        for number, channel in enumerate([*channels, "work"]):
            await layers[0].send(channel, {"number": number})
        await layers[1].group_send("work", {"number": 3})
        for number, channel in enumerate([*channels, "work"]):
            assert broker.outbox.to_channel(channel) == [{"number": number}]
        assert broker.outbox.to_group("work") == [{"number": 3}]
        assert broker.outbox.to_group("other") == []
        broker.outbox.clear()
        assert broker.outbox.to_channel("work") == []


async def test_outbox_has_plain_messages() -> None:
    """What goes through the multiplexer, as bytes, whatever its name is made of."""
    with Broker() as broker:
        layer = broker.layer()
        await layer.multiplexer.publish("price:tea", "3.2")
        await layer.multiplexer.publish(b"\xff", b"\xff")
        await layer.group_send("price.tea", {"type": "a"})
        assert broker.outbox.published("price:tea") == [b"3.2"]
        assert broker.outbox.published("\ufffd") == [b"\xff"]
        assert broker.outbox[0] == Sent("plain", "price:tea", b"3.2")
        assert len(broker.outbox) == 3


async def test_outbox_reads_what_any_of_the_layers_can_read() -> None:
    """Each may have keys of its own; what nobody can read is not noted."""
    with Broker() as broker:
        layers = [broker.layer(symmetric_encryption_keys=[key]) for key in ("one", "two")]
        for number, layer in enumerate(layers):
            await layer.group_send("room", {"number": number})
        assert broker.outbox.to_group("room") == [{"number": 0}, {"number": 1}]
        broker.publish(b"mpx:group:room", b"\1\1" + bytes(8) + b"\xc1")
        assert len(broker.outbox) == 2


# Faults: one connection, delay, freeze


async def test_kill_connection_is_that_of_one_layer() -> None:
    """The other one notices nothing; a layer without a connection has none to lose."""
    broker = Broker()
    async with pair(broker) as (here, there):
        broker.kill_connection(here, "on purpose")
        await broker.recovered()
        broker.kill_connection(broker.layer())
        await broker.recovered()
        assert here.statistics().connection.reconnections == {"closed": 1}
        assert there.statistics().connection.reconnections == {}


async def test_recovered_means_that_nothing_is_lost_any_more() -> None:
    """What is sent after it arrives, in whatever thread the sender's connection lives."""
    broker = Broker()
    async with pair(broker) as (here, _):
        channel = await here.new_channel()
        await here.group_add("room", channel)
        there = broker.layer(**QUICK)
        await asyncio.to_thread(there.sync.group_send, "room", {"number": 0})
        for number in range(1, 20):
            broker.kill_connections()
            await broker.recovered()
            await asyncio.to_thread(there.sync.group_send, "room", {"number": number})
        assert len(await receive_all(here, channel)) == 20
        await there.aclose()


async def test_recovered_gives_up() -> None:
    """While the broker is down nobody recovers."""
    broker = Broker()
    async with pair(broker):
        with broker.down():
            with broker.down():
                pass
            with pytest.raises(LinkUnavailable, match="has not recovered"):
                await broker.recovered(0.05)
        await broker.recovered()


async def test_delay_makes_everything_late_and_keeps_its_order() -> None:
    """Replies and deliveries; what is under way afterwards comes first."""
    broker = Broker()
    async with pair(broker) as (here, there):
        channel = await here.new_channel()
        began = time.monotonic()
        with broker.delay(0.5):
            sends = [asyncio.ensure_future(there.send(channel, {"number": n})) for n in range(3)]
            await asyncio.wait(sends, timeout=0.03)
            assert not any(send.done() for send in sends)
            with broker.delay(0.01):
                sends.append(asyncio.ensure_future(there.send(channel, {"number": 3})))
                await asyncio.wait(sends, timeout=0.03)
        sends.append(asyncio.ensure_future(there.send(channel, {"number": 4})))
        assert here.statistics().waiting == 0
        assert not any(send.done() for send in sends)
        await asyncio.gather(*sends)
        assert time.monotonic() - began >= 0.5
        assert [(await receive(here, channel))["number"] for _ in range(5)] == list(range(5))
        with broker.delay(30):
            pass
        await asyncio.wait_for(there.send(channel, {"number": 5}), 5)


async def test_delay_is_that_of_each_message() -> None:
    """It does not matter how long the context has lasted."""
    broker = Broker()
    async with pair(broker) as (here, there):
        channel = await here.new_channel()
        late = []
        with broker.delay(0.05):
            for _ in range(3):
                began = time.monotonic()
                await there.send(channel, {"type": "a"})
                await receive(here, channel)
                late.append(time.monotonic() - began)
        assert all(seconds >= 0.05 for seconds in late)


async def test_freeze_and_delay_together() -> None:
    """What is late is frozen too, and the other way round; nothing is overtaken."""
    broker = Broker()
    async with pair(broker) as (here, there):
        channel = await here.new_channel()
        numbers = itertools.count()

        def send() -> asyncio.Future[None]:
            return asyncio.ensure_future(there.send(channel, {"number": next(numbers)}))

        with broker.delay(0.03):
            sends = [send()]
            await asyncio.sleep(0)
            with broker.freeze():
                with broker.freeze():
                    sends.append(send())
                await asyncio.wait(sends, timeout=0.06)
                assert not any(each.done() for each in sends)
            sends.append(send())
            await asyncio.sleep(0)
            with broker.freeze():
                pass
        sends.append(send())
        await asyncio.gather(*sends)
        assert [(await receive(here, channel))["number"] for _ in range(4)] == list(range(4))


async def test_link_that_is_lost_takes_what_is_late_along() -> None:
    """Whoever waits for a reply hears of the loss at once; the new link is on time again."""
    broker = Broker()
    async with pair(broker) as (here, _):
        with broker.delay(30):
            send = asyncio.ensure_future(here.group_send("room", {"type": "a"}))
            await asyncio.sleep(0)
            broker.kill_connections()
            with pytest.raises(Exception, match="killed by the test"):
                await asyncio.wait_for(send, 5)
        broker.kill_connections()
        await broker.recovered()
        await here.group_send("room", {"type": "b"})


# The end


async def test_close_from_an_event_loop() -> None:
    """Connections end, in the background too; there are no more layers; nothing is kept."""
    with Broker() as broker:
        here, there = broker.layer(), broker.layer()
        await here.new_channel()
        await asyncio.to_thread(there.sync.group_send, "room", {"type": "a"})
    assert there.statistics().connection.state == "idle"
    await eventually(lambda: here.statistics().connection.state == "idle")
    assert broker.links == []
    with pytest.raises(ClosedError):
        broker.layer()
    broker.close()


def test_closed_broker_is_not_kept() -> None:
    """Nor is one whose layers were used, by a thousand tests."""

    def use() -> weakref.ref[Broker]:
        with Broker() as broker:
            broker.layer().sync.group_send("room", {"type": "a"})
        return weakref.ref(broker)

    gone = use()
    gc.collect()
    assert gone() is None


def test_close_without_an_event_loop() -> None:
    """After a loop that was closed, one that only stopped, and one that runs elsewhere."""
    closed, stopped, running = (asyncio.new_event_loop() for _ in range(3))
    thread = threading.Thread(target=running.run_forever)
    thread.start()
    broker = Broker()
    layers = [broker.layer() for _ in range(4)]
    closed.run_until_complete(layers[0].new_channel())
    closed.run_until_complete(layers[0].aclose())
    closed.run_until_complete(layers[0].new_channel())
    stopped.run_until_complete(layers[1].new_channel())
    asyncio.run_coroutine_threadsafe(layers[2].new_channel(), running).result(5)
    broker.close()
    assert layers[2].statistics().connection.state == "idle"
    for loop in (closed, stopped):
        loop.run_until_complete(asyncio.sleep(0.01))
    assert [layer.statistics().connection.state for layer in layers] == ["idle"] * 4
    running.call_soon_threadsafe(running.stop)
    thread.join()
    for loop in (closed, stopped, running):
        loop.close()


def test_close_after_a_loop_that_takes_no_more_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nobody left to tell."""

    def refuse(*_: object) -> None:
        raise LoopIsGone

    async def live() -> None:
        with Broker() as broker, monkeypatch.context() as patch:
            layer = broker.layer()
            await layer.new_channel()
            patch.setattr(Courier, "post", refuse)
            broker.close()
        assert layer.statistics().connection.state == "connected"

    asyncio.run(live())


# In Channels' place


class Own(MultiplexedChannelLayer):
    """A layer of somebody's own."""


def settings(**layers: object) -> override_settings:
    """Return a context with these channel layers."""
    return override_settings(CHANNEL_LAYERS=layers)


def test_settings_of_the_project_count() -> None:
    """Class and CONFIG, but for hosts; arguments win."""
    config = {"hosts": ["redis://192.0.2.1"], "capacity": 5, "expiry": 6}
    with settings(own={"BACKEND": f"{__name__}.Own", "CONFIG": config}):
        layer = Broker.of_settings("own", capacity=7).layer(prefix="a")
    assert type(layer) is Own
    assert (layer.capacity, layer.expiry, layer.options.prefix) == (7, 6, "a")
    assert layer.options.hosts.memory is not None


def test_settings_of_other_layers_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do those that are not there; and no Django settings are needed."""
    other = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 5}}
    function = {"BACKEND": f"{__name__}.settings"}
    with settings(other=other, function=function):
        for alias in ("other", "function", "none"):
            layer = Broker.of_settings(alias, expiry=9).layer()
            assert (type(layer), layer.capacity) == (MultiplexedChannelLayer, 100)
            assert layer.expiry == 9

    def fail(_: object) -> None:
        raise ImproperlyConfigured

    monkeypatch.setattr(type(channel_layers), "configs", property(fail))
    assert Broker.of_settings().layer().capacity == 100


def test_installed_layer_is_in_its_place_for_a_while() -> None:
    """What was there comes back; after a change of CHANNEL_LAYERS those are in force."""
    broker, other = Broker(), {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    with settings(default=other):
        before = get_channel_layer()
        with broker.installed(capacity=3) as layer, broker.installed("new") as new:
            assert get_channel_layer() is layer
            assert get_channel_layer("new") is new
            assert layer.capacity == 3
        assert get_channel_layer() is before
        assert get_channel_layer("new") is None
        with broker.installed():
            with settings(default=other):
                assert isinstance(get_channel_layer(), InMemoryChannelLayer)
            assert get_channel_layer() is not before


class Case:
    """As much of a test case as the mixin needs."""

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.addCleanup = self.stack.callback

    def setUp(self) -> None:
        assert get_channel_layer("alias") is self.layer


class Mixed(ChannelLayerTestMixin, Case):  # type: ignore[misc]
    """A test case with the mixin."""

    channel_layer_alias = "alias"
    channel_layer_config = {"capacity": 4}  # noqa: RUF012 (as users write it)


async def test_mixin_gives_each_test_its_layer() -> None:
    """Before the other base classes are set up, and until the end."""
    case = Mixed()
    with case.stack:
        case.setUp()
        there = case.other_process()
        assert (case.layer.capacity, there.capacity) == (4, 4)
        await there.group_send("room", {"type": "a"})
        assert case.outbox is case.broker.outbox
        assert case.outbox.to_group("room") == [{"type": "a"}]
    assert get_channel_layer("alias") is None
    await eventually(lambda: case.broker.links == [])
