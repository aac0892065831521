"""Cancelling any public verb wherever it waits: nothing leaks, nothing is lost, the layer goes on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from channels_mpx import MultiplexedChannelLayer
from tests.helpers import eventually
from tests.layers import (
    Peer,
    group_subscriptions,
    open_layer,
    reading,
    receive,
    receive_all,
    settle,
)
from tests.proxy import Proxy
from tests.servers import HOST, RedisServer, free_port

Verb = Callable[[MultiplexedChannelLayer, str], Awaitable[Any]]

VERBS: dict[str, Verb] = {
    "send direct": lambda layer, channel: layer.send(channel, {"type": "cancelled"}),
    "send worker": lambda layer, channel: layer.send("work", {"type": "cancelled"}),
    "group_send": lambda layer, channel: layer.group_send("room", {"type": "cancelled"}),
    "group_add": lambda layer, channel: layer.group_add("new", channel),
    "receive worker": lambda layer, channel: layer.receive("other"),
    "flush": lambda layer, channel: layer.flush(),
}


@pytest.fixture
async def layer(redis_server: RedisServer, proxy: Proxy) -> AsyncIterator[MultiplexedChannelLayer]:
    """A layer behind a proxy that can be stalled."""
    url = redis_server.url_for(port=proxy.port)
    async with open_layer([url], timeout=10, ping_interval=30, ping_timeout=30) as layer:
        yield layer


async def cancel_after(turns: int, verb: Awaitable[Any]) -> bool:
    """Let a verb run for some turns of the loop, cancel it; return whether that took effect."""
    task = asyncio.ensure_future(verb)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def assert_usable(layer: MultiplexedChannelLayer, server: RedisServer) -> None:
    """Use everything once more, and see that nothing is left over."""
    await eventually(lambda: layer.statistics().connection.in_flight == 0)
    channel = await layer.new_channel()
    await layer.group_add("check", channel)
    await layer.group_send("check", {"type": "group"})
    await layer.send(channel, {"type": "direct"})
    assert [(await receive(layer, channel))["type"] for _ in range(2)] == ["group", "direct"]
    await layer.send("check", {"type": "worker"})
    assert await receive(layer, "check") == {"type": "worker"}
    del channel
    gc.collect()
    await eventually(lambda: "check" not in group_subscriptions(server))
    assert layer.statistics().connection.epoch <= 2
    assert layer.statistics().connection.parked == 0


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 50])
@pytest.mark.parametrize("name", VERBS)
async def test_verb_is_cancelled_while_the_network_stalls(
    layer: MultiplexedChannelLayer,
    redis_server: RedisServer,
    proxy: Proxy,
    name: str,
    turns: int,
) -> None:
    """Wherever a verb waits for Redis, cancelling it leaves nothing behind."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    proxy.stall()
    took_effect = await asyncio.wait_for(cancel_after(turns, VERBS[name](layer, channel)), 5)
    assert took_effect or name == "flush"
    proxy.resume()
    await assert_usable(layer, redis_server)
    if name != "flush":
        expected = {"room"}
        await eventually(lambda: group_subscriptions(redis_server) == expected)
        assert {message["type"] for message in await settle(layer, channel)} <= {"cancelled"}
        assert layer.statistics().groups == 1


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 50])
@pytest.mark.parametrize("name", [*VERBS, "new_channel"])
async def test_verb_is_cancelled_while_there_is_no_server(name: str, turns: int) -> None:
    """A verb that waits for the first link can be cancelled, and nothing keeps waiting."""
    port = free_port()
    async with open_layer([f"redis://{HOST}:{port}"], timeout=30) as layer:
        channel = f"specific.{layer.statistics().connection.process}!1"
        verb = VERBS.get(name) or (lambda layer, channel: layer.new_channel())
        if name == "group_add":
            verb = lambda layer, channel: layer.group_add("new", "a.0123456789abcdef!1")  # noqa: E731
        assert await asyncio.wait_for(cancel_after(turns, verb(layer, channel)), 5)
        statistics = layer.statistics()
        assert (statistics.channels, statistics.groups) == (0, 0)
        server = RedisServer(port=port)
        with server:
            await assert_usable(layer, server)
            assert await receive_all(layer, "work") in ([], [{"type": "cancelled"}])
            await layer.aclose()


async def test_new_channel_that_is_cancelled_leaves_no_channel(redis_server: RedisServer) -> None:
    """However far `new_channel` had come, cancelled it leaves no channel."""
    for turns in range(30):
        async with open_layer(redis_server) as layer:
            await cancel_after(turns, layer.new_channel())
            await layer.new_channel()
            gc.collect()
            await eventually(lambda: layer.statistics().channels == 0)


async def test_group_add_that_is_cancelled_is_no_membership(
    layer: MultiplexedChannelLayer, redis_server: RedisServer, proxy: Proxy
) -> None:
    """The channel of a cancelled `group_add` hears nothing of the group; another member does."""
    first, second = await layer.new_channel(), await layer.new_channel()
    proxy.stall()
    cancelled = asyncio.ensure_future(layer.group_add("room", first))
    kept = asyncio.ensure_future(layer.group_add("room", second))
    await asyncio.sleep(0.01)
    cancelled.cancel()
    proxy.resume()
    await kept
    await layer.group_send("room", {"type": "a"})
    assert await receive(layer, second) == {"type": "a"}
    assert await settle(layer, first) == []


@pytest.mark.parametrize("which", [0, 1])
async def test_group_add_twice_at_once_and_one_is_cancelled(
    layer: MultiplexedChannelLayer, proxy: Proxy, which: int
) -> None:
    """Of two concurrent adds of one channel one is cancelled: when the other returns, it counts."""
    channel = await layer.new_channel()
    proxy.stall()
    adds = [asyncio.ensure_future(layer.group_add("room", channel)) for _ in range(2)]
    await asyncio.sleep(0.01)
    adds.pop(which).cancel()
    await asyncio.sleep(0)
    proxy.resume()
    await asyncio.wait_for(adds[0], 5)
    await layer.group_send("room", {"type": "a"})
    assert [message["type"] for message in await settle(layer, channel)] == ["a"]


async def test_group_add_is_cancelled_while_a_member_leaves(
    layer: MultiplexedChannelLayer, redis_server: RedisServer, proxy: Proxy
) -> None:
    """An add, its cancellation and a discard in one moment leave nothing subscribed."""
    first, second = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", first)
    proxy.stall()
    await layer.group_discard("room", first)
    await asyncio.sleep(0.01)
    assert await cancel_after(2, layer.group_add("room", second))
    proxy.resume()
    await eventually(lambda: not group_subscriptions(redis_server))
    await layer.group_add("room", second)
    await layer.group_send("room", {"type": "a"})
    assert await receive(layer, second) == {"type": "a"}
    assert await settle(layer, first) == []


async def test_receive_that_wakes_a_channel_is_cancelled(
    redis_server: RedisServer, proxy: Proxy
) -> None:
    """A dormant channel whose first `receive` is cancelled still comes back with all its groups."""
    url = redis_server.url_for(port=proxy.port)
    quiet = {"ping_interval": 30, "ping_timeout": 30}
    async with open_layer([url], expiry=0.2, group_expiry=0.2, **quiet) as layer:
        channel = await layer.new_channel()
        await layer.group_add("red", channel)
        await layer.group_add("blue", channel)
        await eventually(lambda: not group_subscriptions(redis_server))
        proxy.stall()
        with pytest.raises(asyncio.TimeoutError):
            await receive(layer, channel, 0.1)
        proxy.resume()
        async with reading(layer, channel) as reader:
            await eventually(lambda: group_subscriptions(redis_server) == {"red", "blue"})
            await layer.group_send("blue", {"type": "a"})
            assert await reader == {"type": "a"}


async def test_receive_that_wakes_a_channel_fails(make_redis: Callable[..., RedisServer]) -> None:
    """A dormant channel whose first `receive` meets an outage still comes back with its groups."""
    server = make_redis()
    config = {"expiry": 0.2, "group_expiry": 0.2, "timeout": 0.5, "max_reconnect_delay": 0.1}
    async with open_layer(server, **config) as layer:
        channel = await layer.new_channel()
        await layer.group_add("red", channel)
        await layer.group_add("blue", channel)
        await eventually(lambda: not group_subscriptions(server))
        server.kill()
        await eventually(lambda: layer.statistics().connection.state == "connecting")
        with pytest.raises((asyncio.TimeoutError, ConnectionError)):
            await receive(layer, channel, 3)
        server.start()
        async with reading(layer, channel) as reader:
            await eventually(lambda: group_subscriptions(server) == {"red", "blue"})
            await layer.group_send("blue", {"type": "a"})
            assert await reader == {"type": "a"}


async def test_receive_of_a_worker_channel_is_cancelled_in_any_turn(
    redis_server: RedisServer,
) -> None:
    """Whenever a worker's `receive` is cancelled, its message is there for the next one."""
    async with open_layer(redis_server) as layer:
        assert await receive_all(layer, "work", 0.05) == []
        for turns in range(40):
            task = asyncio.ensure_future(layer.receive("work"))
            await layer.send("work", {"turns": turns})
            for _ in range(turns % 20):
                await asyncio.sleep(0)
            task.cancel()
            done = await asyncio.gather(task, return_exceptions=True)
            if isinstance(done[0], asyncio.CancelledError):
                assert await receive(layer, "work") == {"turns": turns}
            else:
                assert done == [{"turns": turns}]
        assert not redis_server.command("KEYS", "*")


async def test_verbs_of_another_loop_are_cancelled(
    layer: MultiplexedChannelLayer, redis_server: RedisServer, proxy: Proxy
) -> None:
    """Cancelling works for callers on other loops than the connection's."""
    channel = await layer.new_channel()
    proxy.stall()

    async def other() -> None:
        for name in ("send direct", "group_send", "group_add", "send worker", "receive worker"):
            task = asyncio.ensure_future(VERBS[name](layer, channel))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    await asyncio.to_thread(asyncio.run, other())
    proxy.resume()
    await eventually(lambda: layer.statistics().groups == 0)
    await assert_usable(layer, redis_server)
    await eventually(lambda: not group_subscriptions(redis_server))


async def test_foreign_group_add_is_cancelled(
    layer: MultiplexedChannelLayer, redis_server: RedisServer, proxy: Proxy
) -> None:
    """A cancelled request to another process leaves nothing that waits; the next one works."""
    async with Peer(redis_server) as peer:
        theirs = await peer.call("new_channel")
        proxy.stall()
        assert await cancel_after(20, layer.group_add("room", theirs))
        proxy.resume()
        await layer.group_add("room", theirs)
        await layer.group_send("room", {"type": "a"})
        assert await peer.call("receive", theirs) == {"type": "a"}
        await layer.group_discard("room", theirs)
        await eventually(lambda: not group_subscriptions(redis_server))


async def test_aclose_is_cancelled(
    layer: MultiplexedChannelLayer, redis_server: RedisServer, proxy: Proxy
) -> None:
    """A cancelled `aclose` still leads to a layer that is closed or usable."""
    channel = await layer.new_channel()
    proxy.stall()
    sending = asyncio.ensure_future(layer.send(channel, {"type": "a"}))
    await asyncio.sleep(0.01)
    await cancel_after(3, layer.aclose())
    proxy.resume()
    await asyncio.gather(sending, return_exceptions=True)
    await layer.aclose()
    await assert_usable(layer, redis_server)


async def test_group_add_cancelled_on_another_loop_leaves_no_member(
    layer: MultiplexedChannelLayer,
) -> None:
    """Also if the cancellation crosses the success on its way back from the owner loop."""
    await layer.new_channel()

    async def other() -> tuple[int, list[str]]:
        name, cancelled, chance = await layer.new_channel(), [], random.Random(1)
        for number in range(1500):
            adding = asyncio.ensure_future(layer.group_add(f"g{number}", name))
            await asyncio.sleep(chance.uniform(0, 0.0006))
            adding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await adding
            if adding.cancelled():
                cancelled.append(f"g{number}")
        for group in cancelled:
            await layer.group_send(group, {"type": group})
        return len(cancelled), [message["type"] for message in await settle(layer, name)]

    cancelled, heard = await asyncio.to_thread(asyncio.run, other())
    assert cancelled > 10
    assert heard == []


async def test_member_that_was_added_twice_stays_one_when_one_call_is_cancelled(
    layer: MultiplexedChannelLayer,
) -> None:
    """What a cancelled call has done is undone only while nobody else has asked for it."""
    channel = await layer.new_channel()
    process = layer._process
    undo_first = await process.add("room", channel)
    undo_second = await process.add("room", channel)
    undo_first()
    undo_second()
    await layer.group_send("room", {"type": "a"})
    assert await receive(layer, channel) == {"type": "a"}
    await layer.group_discard("room", channel)
    undo_third = await process.add("room", channel)
    undo_first()
    await layer.group_send("room", {"type": "b"})
    assert await receive(layer, channel) == {"type": "b"}
    undo_third()
    assert layer.statistics().groups == 0
