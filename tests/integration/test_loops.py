"""One process, one connection: many event loops, threads without any, and forks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from channels_mpx import MultiplexedChannelLayer, SyncCallFromAsync
from tests.helpers import eventually
from tests.layers import clients, connections_received, open_layer, receive, run_script
from tests.servers import RedisServer


@pytest.fixture
async def layer(redis_server: RedisServer) -> AsyncIterator[MultiplexedChannelLayer]:
    """Our own layer."""
    async with open_layer(redis_server, capacity=100_000) as layer:
        yield layer


def in_thread(work: Coroutine[Any, Any, Any]) -> Any:
    """Return an awaitable for a coroutine that runs on a loop of its own in another thread."""
    return asyncio.to_thread(asyncio.run, work)


async def test_sync_sends_from_many_threads_open_one_connection(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """10,000 sends without a loop, from 8 threads, open one connection; all of them arrive."""
    before = connections_received(redis_server)

    def send(thread: int) -> None:
        for number in range(1250):
            layer.sync.group_send("room", {"thread": thread, "number": number})

    with ThreadPoolExecutor(8) as pool:
        await asyncio.gather(*(asyncio.to_thread(pool.submit(send, n).result) for n in range(8)))
    assert connections_received(redis_server) - before == 1


async def test_sync_sends_reach_a_consumer_in_order(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """A thread's sends reach a consumer on the main loop in order, over its one connection."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    before = connections_received(redis_server)

    def send(thread: int) -> None:
        for number in range(200):
            layer.sync.group_send("room", {"thread": thread, "number": number})

    sending = asyncio.gather(*(asyncio.to_thread(send, thread) for thread in range(4)))
    got: dict[int, list[int]] = {thread: [] for thread in range(4)}
    for _ in range(800):
        message = await receive(layer, channel)
        got[message["thread"]].append(message["number"])
    await sending
    assert all(numbers == list(range(200)) for numbers in got.values())
    assert connections_received(redis_server) == before


SHORT_LOOPS = """
    import asyncio, os, sys, threading
    from channels_mpx import MultiplexedChannelLayer

    layer = MultiplexedChannelLayer(hosts=[sys.argv[1]])

    def usage():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    asyncio.run(layer.group_send("room", {"type": "a"}))
    before = usage()
    for _ in range(1000):
        asyncio.run(layer.group_send("room", {"type": "a"}))
    assert usage() == before, (before, usage())
    assert layer.statistics().connection.epoch == 1
"""


@pytest.mark.parametrize(
    "ending", ["", "\n    layer.sync.close()", "\n    asyncio.run(layer.aclose())"]
)
async def test_a_thousand_short_loops_leak_nothing(redis_server: RedisServer, ending: str) -> None:
    """1,000 x `asyncio.run(group_send)` leave descriptors and threads constant, and no warning."""
    before = connections_received(redis_server)
    await asyncio.to_thread(run_script, SHORT_LOOPS + ending, redis_server.url)
    assert connections_received(redis_server) - before == 1


async def test_receive_in_one_loop_while_another_sends(layer: MultiplexedChannelLayer) -> None:
    """Verbs called on another thread's loop reach consumers of the first loop, and back."""
    channel = await layer.new_channel()

    async def other() -> str:
        theirs = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_add("room", theirs)
        await layer.group_send("room", {"type": "group"})
        assert await receive(layer, theirs) == {"type": "group"}
        await layer.send(channel, {"type": "direct"})
        await layer.send("work", {"type": "work"})
        assert await receive(layer, "work") == {"type": "work"}
        await layer.group_discard("room", channel)
        return theirs

    await in_thread(other())
    assert [(await receive(layer, channel))["type"] for _ in range(2)] == ["group", "direct"]


async def test_async_to_sync_works_from_plain_threads(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """`async_to_sync(layer.group_send)` in threads uses the one connection of the process."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    before = connections_received(redis_server)

    def send() -> None:
        for _ in range(25):
            async_to_sync(layer.group_send)("room", {"type": "a"})

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(send) for _ in range(4)]
        await asyncio.gather(*map(asyncio.wrap_future, futures))
    for _ in range(100):
        assert await receive(layer, channel) == {"type": "a"}
    assert connections_received(redis_server) == before


async def test_receive_goes_on_when_the_home_loop_ends(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """A consumer still receives after the loop that the connection lived on has ended."""
    ready, leave = threading.Event(), threading.Event()

    async def first() -> None:
        await layer.new_channel()
        ready.set()
        await asyncio.to_thread(leave.wait, 20)

    running = asyncio.ensure_future(in_thread(first()))
    await asyncio.to_thread(ready.wait, 20)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    reader = asyncio.ensure_future(receive(layer, channel, 20))
    await layer.send(channel, {"type": "before"})
    assert await reader == {"type": "before"}
    reader = asyncio.ensure_future(receive(layer, channel, 20))
    epoch = layer.statistics().connection.epoch
    leave.set()
    await running
    await eventually(lambda: layer.statistics().connection.epoch > epoch)
    await eventually(lambda: layer.statistics().connection.active == 2)
    await layer.group_send("room", {"type": "after"})
    assert await reader == {"type": "after"}
    await eventually(lambda: len(clients(redis_server)) == 1)
    assert layer.statistics().channels == 1, "the ended loop's channel is still there"


async def test_verbs_survive_the_move_of_the_connection(redis_server: RedisServer) -> None:
    """Sends that are under way elsewhere when a consumer's loop takes over do not fail."""
    for _ in range(10):
        async with open_layer(redis_server) as layer:
            work = [asyncio.to_thread(layer.sync.group_send, "a", {"n": n}) for n in range(4)]
            sending = asyncio.gather(*work)
            await asyncio.sleep(0.002)
            channel = await layer.new_channel()
            await layer.group_add("room", channel)
            await sending
            await layer.group_send("room", {"type": "a"})
            assert await receive(layer, channel) == {"type": "a"}
            await eventually(lambda: len(clients(redis_server)) == 1)


async def test_first_verbs_of_a_process_may_be_concurrent(redis_server: RedisServer) -> None:
    """Sending and receiving may begin in the same moment: neither fails, nothing is lost."""
    for _ in range(10):
        async with open_layer(redis_server) as layer:
            sends = [layer.send("work", {"number": number}) for number in range(5)]
            done = await asyncio.gather(*sends, layer.new_channel(), receive(layer, "work"))
            rest = [done[-1], *[await receive(layer, "work") for _ in range(4)]]
            assert sorted(message["number"] for message in rest) == list(range(5))


async def test_moving_home_does_not_block_the_loop(
    make_redis: Callable[..., RedisServer], is_full: bool
) -> None:
    """A consumer's first verb never blocks its loop, though the server is frozen just then."""
    server = make_redis()
    async with open_layer(server, timeout=3) as layer:
        await layer.group_send("room", {"type": "a"})
        server.freeze()
        sending = asyncio.ensure_future(layer.group_send("room", {"type": "a"}))
        turns, longest, last = 0, 0.0, asyncio.get_running_loop().time()
        making = asyncio.ensure_future(layer.new_channel())
        while not making.done():
            await asyncio.sleep(0.005)
            now = asyncio.get_running_loop().time()
            turns, longest, last = turns + 1, max(longest, now - last), now
        server.thaw()
        await asyncio.gather(sending, making, return_exceptions=True)
        assert turns > 20  # a loop that is blocked meanwhile makes one or two
        assert longest < 0.5 or not is_full


@contextlib.asynccontextmanager
async def busy_thread(layer: MultiplexedChannelLayer) -> AsyncIterator[list[int]]:
    """A thread that publishes without a pause; yields what its publishes have reached."""
    reached: list[int] = []
    is_over = threading.Event()

    def publish() -> None:
        while not is_over.is_set():
            reached.append(layer.multiplexer.sync.publish("metrics", b"1"))

    publishing = asyncio.create_task(asyncio.to_thread(publish))
    try:
        yield reached
    finally:
        is_over.set()
        await publishing


@pytest.mark.parametrize("attempt", range(10))
async def test_consumers_take_the_connection_from_a_busy_thread_before_they_listen(
    redis_server: RedisServer, attempt: int
) -> None:
    """Home becomes the loop of the first consumer, and nothing that it listens to is interrupted."""
    async with open_layer(redis_server) as layer:
        async with busy_thread(layer) as reached:
            await eventually(lambda: len(reached) > 10)
            first = await layer.new_channel()
            subscription = layer.multiplexer.new_channel_subscription()
            subscription.add("metrics")
            await subscription.activated(5)
            for _ in range(100):
                channel = await layer.new_channel()
                await layer.group_add("room", channel)
                assert await subscription.get_message(5) is not None
        assert first != channel
        assert layer.statistics().connection.epoch == 2


async def test_loop_does_not_take_a_connection_on_which_others_listen(
    redis_server: RedisServer,
) -> None:
    """A thread that waits for messages has priority over speed; the loop is served from there."""
    async with open_layer(redis_server) as layer:
        reader = await asyncio.to_thread(layer.multiplexer.new_channel_subscription)
        await asyncio.to_thread(reader.add, "news")
        await asyncio.to_thread(reader.sync.activated, 5)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for number in range(100):
            await layer.group_send("room", {"number": number})
            assert await receive(layer, channel) == {"number": number}
        assert layer.statistics().connection.epoch == 1
        assert await layer.multiplexer.publish("news", b"still here") == 1


async def test_a_loop_that_keeps_sending_becomes_home_without_a_loss(
    layer: MultiplexedChannelLayer,
) -> None:
    """Hundreds of concurrent first sends all succeed, though the connection moves among them."""
    await asyncio.gather(*(layer.group_send("room", {"number": n}) for n in range(500)))
    for number in range(200):
        await layer.group_send("room", {"number": number})


async def test_sync_verbs_refuse_a_running_loop(layer: MultiplexedChannelLayer) -> None:
    """On a running loop `layer.sync` says to await instead, and sends nothing."""
    with pytest.raises(SyncCallFromAsync, match="await the verb of the same name"):
        layer.sync.group_send("room", {"type": "a"})
    with pytest.raises(RuntimeError, match="await the verb of the same name"):
        layer.sync.send("work", {"type": "a"})
    assert layer.statistics().connection.state == "idle"


async def test_sync_verbs_work_inside_sync_to_async(layer: MultiplexedChannelLayer) -> None:
    """A sync consumer's thread, below a running loop, may use `layer.sync`."""
    channel = await layer.new_channel()
    await asyncio.to_thread(layer.sync.group_add, "room", channel)
    await asyncio.to_thread(layer.sync.group_send, "room", {"type": "a"})
    await asyncio.to_thread(layer.sync.send, channel, {"type": "b"})
    assert [(await receive(layer, channel))["type"] for _ in range(2)] == ["a", "b"]
    await asyncio.to_thread(layer.sync.group_discard, "room", channel)
    assert layer.statistics().groups == 0


def test_layer_is_usable_from_threads_only() -> None:
    """A process without any event loop of its own, as under WSGI, needs nothing but `sync`."""
    layer = MultiplexedChannelLayer(hosts=[f"memory://threads{os.getpid()}"])
    threads = [
        threading.Thread(target=layer.sync.send, args=("work", {"number": n})) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def read() -> list[int]:
        return [(await receive(layer, "work"))["number"] for _ in range(8)]

    assert sorted(asyncio.run(read())) == list(range(8))
    layer.sync.close()
    assert layer.statistics().connection.state == "idle"
