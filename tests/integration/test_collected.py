"""A layer that nobody holds any more ends, and nothing of it is left."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from operator import sub

import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.test import override_settings

from channels_mpx import MultiplexedChannelLayer, Multiplexer
from tests.helpers import eventually
from tests.layers import clients, receive
from tests.servers import RedisServer


def usage() -> tuple[int, int]:
    """Return how many threads and descriptors this process has."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def send_from_a_thread(layer: MultiplexedChannelLayer) -> None:
    layer.sync.group_send("room", {"type": "a"})


def send_from_short_loops(layer: MultiplexedChannelLayer) -> None:
    async_to_sync(layer.group_send)("room", {"type": "a"})


@pytest.mark.parametrize("send", [send_from_a_thread, send_from_short_loops])
async def test_layer_that_is_dropped_ends_its_thread_and_connection(
    redis_server: RedisServer, send: object
) -> None:
    """Nobody has to close a layer that was used without a loop of its own."""

    def use(times: int) -> None:
        for _ in range(times):
            send(MultiplexedChannelLayer(hosts=[redis_server.url]))  # type: ignore[operator]

    await asyncio.to_thread(use, 1)
    gc.collect()
    await eventually(lambda: not clients(redis_server))
    before = usage()
    await asyncio.to_thread(use, 50)
    gc.collect()
    await eventually(lambda: max(map(sub, usage(), before)) <= 0 and not clients(redis_server))


async def test_layer_that_is_dropped_on_its_loop_ends_its_connection(
    redis_server: RedisServer,
) -> None:
    """The loop goes on without it."""
    layer = MultiplexedChannelLayer(hosts=[redis_server.url])
    channel = await layer.new_channel()
    assert clients(redis_server)
    del layer, channel
    gc.collect()
    await eventually(lambda: not clients(redis_server))


def test_overridden_settings_leave_threads_and_descriptors_flat(
    redis_server: RedisServer, is_full: bool
) -> None:
    """Channels makes a layer for each override: a suite of 2,000 tests runs out of nothing."""
    layers = {
        "default": {
            "BACKEND": "channels_mpx.MultiplexedChannelLayer",
            "CONFIG": {"hosts": [redis_server.url]},
        }
    }

    def use() -> None:
        with override_settings(CHANNEL_LAYERS=layers):
            async_to_sync(get_channel_layer().group_send)("room", {"type": "a"})

    use()
    threads, descriptors = usage()
    most_threads, most_descriptors = threads, descriptors
    for _ in range(2000 if is_full else 400):
        use()
        now = usage()
        most_threads = max(most_threads, now[0])
        most_descriptors = max(most_descriptors, now[1])
    assert most_threads < threads + 20
    assert most_descriptors < descriptors + 100


async def test_whatever_uses_the_connection_keeps_it(redis_server: RedisServer) -> None:
    """The multiplexer of a layer, a subscription, one with a callback that nobody holds."""
    layer = MultiplexedChannelLayer(hosts=[redis_server.url])
    mux, sync = layer.multiplexer, layer.sync
    del layer
    gc.collect()
    assert await mux.publish("news", "1") == 0
    await asyncio.to_thread(sync.group_send, "room", {"type": "a"})
    news = mux.new_channel_subscription()
    news.add("news")
    await news.activated(5)
    del mux, sync
    gc.collect()
    publisher, got = Multiplexer(redis_server.url), list[bytes]()
    assert await publisher.publish("news", "2") == 1
    message = await news.get_message(5)
    assert message is not None
    assert message.payload == b"2"
    other = Multiplexer(redis_server.url)
    called = other.new_channel_subscription(lambda channel, payload: got.append(payload))
    called.add("called")
    await called.activated(5)
    del other, called
    gc.collect()
    assert await publisher.publish("called", "3") == 1
    await eventually(lambda: got == [b"3"])
    await publisher.aclose()
    del news
    gc.collect()


async def test_dropped_layer_does_not_take_another_with_it(redis_server: RedisServer) -> None:
    """Each layer has a connection and a life of its own."""
    kept, dropped = (MultiplexedChannelLayer(hosts=[redis_server.url]) for _ in range(2))
    channel = await kept.new_channel()
    await kept.group_add("room", channel)
    await dropped.group_send("room", {"type": "a"})
    del dropped
    gc.collect()
    await kept.group_send("room", {"type": "b"})
    assert [(await receive(kept, channel))["type"] for _ in range(2)] == ["a", "b"]
    await kept.aclose()
