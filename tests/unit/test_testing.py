"""The broker for tests: virtual processes, what was sent, and the end."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from channels_mpx import ClosedError
from channels_mpx.couriers import Courier, LoopIsGone
from channels_mpx.testing import Broker, Sent
from tests.helpers import eventually, wait_until
from tests.layers import receive
from tests.unit.brokers import pair


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
    wait_until(lambda: gc.collect() >= 0 and gone() is None)  # its thread may be just ending
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
