"""A consumer that does not keep up costs itself messages, and nobody anything else."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable

import pytest

from tests.helpers import eventually
from tests.layers import QUICK, Peer, is_active, kill_clients, open_layer, receive
from tests.servers import RedisServer

MEGABYTE = 2**20


def resident_peak() -> int:
    """Return the most bytes of memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def test_slow_consumer_costs_only_itself(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """300 x 1 MB to a member that does not read: memory is bounded, drops are counted exactly,
    logged once, and the member beside it loses nothing."""
    async with open_layer(redis_server, channel_max_bytes=20 * MEGABYTE) as layer:
        slow, quick = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", slow)
        await layer.group_add("room", quick)
        data = b"x" * MEGABYTE
        before = resident_peak()
        with caplog.at_level(logging.WARNING, "channels_mpx"):
            for number in range(300):
                await layer.group_send("room", {"type": "a", "number": number, "data": data})
                assert (await receive(layer, quick))["number"] == number
            assert resident_peak() - before < 120 * MEGABYTE
            held = layer.statistics().waiting
            assert 18 <= held <= 20
            assert layer.statistics().dropped["full"] == 300 - held
            assert [r.message for r in caplog.records if slow in r.message] != []
            assert len(caplog.records) == 1
            for number in range(held):
                assert (await receive(layer, slow))["number"] == number
            assert len(caplog.records) == 2
            assert str(300 - held) in caplog.records[1].message
        await layer.group_send("room", {"type": "a", "number": 300})
        assert (await receive(layer, slow))["number"] == 300
        assert layer.statistics().connection.epoch == 1


async def test_slow_consumer_does_not_slow_a_burst(redis_server: RedisServer) -> None:
    """A burst from another process below the capacity reaches a busy consumer whole."""
    async with open_layer(redis_server, capacity=2000) as layer, Peer(redis_server) as peer:
        slow, quick = await layer.new_channel(), await layer.new_channel()
        for channel in (slow, quick):
            await layer.group_add("room", channel)
        for number in range(1000):
            await peer.call("group_send", "room", {"number": number})
        for channel in (quick, slow):
            got = [(await receive(layer, channel))["number"] for _ in range(1000)]
            assert got == list(range(1000))
        assert layer.statistics().dropped["full"] == 0


async def test_flood_above_the_capacity_is_counted_exactly(redis_server: RedisServer) -> None:
    """Of 5,000 messages that nobody reads, `capacity` stay, and the rest is counted as dropped."""
    async with open_layer(redis_server, capacity=100) as layer, open_layer(redis_server) as sender:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await asyncio.gather(*(sender.group_send("room", {"number": n}) for n in range(5000)))
        await eventually(lambda: layer.statistics().connection.received >= 5000)
        assert layer.statistics().waiting == 100
        assert layer.statistics().dropped["full"] == 4900
        assert [(await receive(layer, channel))["number"] for _ in range(100)] == list(range(100))


async def test_full_consumer_hears_of_a_lost_connection(redis_server: RedisServer) -> None:
    """Of both ends of the gap, in order, though it has no room for messages; nothing is dropped."""
    notices = {"on_disconnect": "gap.opened", "on_reconnect": "gap.closed"}
    async with open_layer(redis_server, capacity=5, **QUICK, **notices) as layer:
        channel = await layer.new_channel()
        for number in range(5):
            await layer.send(channel, {"type": str(number)})
        for epoch in (2, 3):
            kill_clients(redis_server)
            await eventually(lambda epoch=epoch: layer.statistics().connection.epoch == epoch)
            await eventually(lambda: is_active(layer))
        assert layer.statistics().dropped["full"] == 0
        heard = [(await receive(layer, channel))["type"] for _ in range(7)]
        assert heard == [*"01234", "gap.opened", "gap.closed"]
        assert layer.statistics().waiting == 0


async def test_server_that_cuts_a_slow_subscriber_is_survived(
    make_redis: Callable[..., RedisServer],
) -> None:
    """When Redis cuts the connection for its output buffer, the gap is told, and life goes on."""
    server = make_redis(config=["client-output-buffer-limit pubsub 1mb 1mb 1"])
    async with open_layer(server, on_reconnect="gap.closed") as layer, open_layer(server) as sender:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await sender.group_send("room", {"data": b"x" * (4 * MEGABYTE)})
        await eventually(lambda: layer.statistics().connection.epoch >= 2)
        while (message := await receive(layer, channel)).get("type") != "gap.closed":
            assert len(message["data"]) == 4 * MEGABYTE
        await sender.group_send("room", {"type": "after"})
        assert await receive(layer, channel) == {"type": "after"}
