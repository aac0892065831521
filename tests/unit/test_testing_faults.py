"""The broker for tests fails on demand: connections, delay, loss, silence."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest

from channels_mpx import InvalidArgument, InvalidTimeout, LinkUnavailable
from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK, receive, receive_all
from tests.sequences import NOTICES
from tests.unit.brokers import pair


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
