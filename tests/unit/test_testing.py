"""The broker for tests: virtual processes, faults on demand, and what was sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from channels_mpx import LinkUnavailable, MultiplexedChannelLayer
from channels_mpx.testing import Broker, Sent
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
