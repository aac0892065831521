"""Subscriptions end with whoever has them, and release all who wait."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from channels_mpx import ChannelSubscription, Multiplexer, PubSubMessage, SubscriptionIsClosed
from tests.helpers import eventually
from tests.layers import run_script
from tests.servers import RedisServer
from tests.unit.notes import Notes


async def test_closing_ends_readers_waiters_and_callbacks(mux: Multiplexer) -> None:
    """Everybody who waits is released, and nothing complains."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))
    begun, ended = asyncio.Event(), asyncio.Event()

    async def on_message(channel: bytes, payload: bytes) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    called = mux.new_channel_subscription(on_message)
    idle = mux.new_channel_subscription(print)
    read = mux.new_channel_subscription()
    for subscription in (called, idle, read):
        subscription.add("one")
        await subscription.activated(5)
    readers = [asyncio.create_task(read.get_message()) for _ in range(2)]

    async def iterate() -> list[PubSubMessage]:
        return [message async for message in read]

    await mux.publish("one", b"1")
    await begun.wait()
    iterating = asyncio.create_task(iterate())
    await asyncio.sleep(0)
    for subscription in (called, idle, read):
        subscription.close()
    await asyncio.wait_for(ended.wait(), 5)
    message, error = await asyncio.gather(*readers, return_exceptions=True)
    assert message == PubSubMessage(None, b"one", b"1")
    assert isinstance(error, SubscriptionIsClosed)
    assert await iterating == []
    for subscription in (called, idle):
        task = subscription._reader._task
        assert task is not None
        await asyncio.wait([task], timeout=5)
        assert task.done()
    del task, error, subscription
    gc.collect()
    assert complaints == []


async def test_subscription_lives_on_although_nobody_holds_it(mux: Multiplexer) -> None:
    """What waits to be called is not collected before it is closed, with channels or without."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))
    notes = Notes()
    notes.channels(mux).add("one")
    notes.channels(mux)
    await eventually(lambda: len(notes.lines) == 1)
    gc.collect()
    await mux.publish("one", b"1")
    await notes.until(("active", b"one"), (b"one", b"1"))
    assert repr(mux._registry) == "<Registry 2>"
    mux.new_channel_subscription()
    gc.collect()
    assert repr(mux._registry) == "<Registry 2>"
    assert complaints == []


def test_loop_that_ends_releases_readers_on_others(threads_only: Multiplexer) -> None:
    """Who reads a subscription of another loop learns that it is over."""
    made: list[ChannelSubscription] = []
    ready, outcome = threading.Event(), []

    def read() -> None:
        ready.wait(10)
        try:
            asyncio.run(made[0].get_message())
        except SubscriptionIsClosed as error:
            outcome.append(error)

    async def live() -> None:
        subscription = threads_only.new_channel_subscription()
        made.append(subscription)
        subscription.add("one")
        await subscription.activated(5)
        ready.set()
        await eventually(lambda: subscription._mailbox.is_awaited)

    thread = threading.Thread(target=read)
    thread.start()
    asyncio.run(live())
    thread.join(10)
    assert len(outcome) == 1


FORK = """
    import asyncio, os, sys, threading, warnings
    from channels_mpx import MultiplexedChannelLayer, Multiplexer, SubscriptionIsClosed

    # From Python 3.12 on, forking beside any thread warns; that it works is what is tested.
    warnings.filterwarnings("ignore", "This process", DeprecationWarning)

    def refused(verb, *args):
        try:
            verb(*args)
        except SubscriptionIsClosed:
            return True

    def hold(lock, held, go):
        with lock:
            held.set()
            go.wait()

    async def child(mux):
        async with mux.new_channel_subscription() as fresh:
            fresh.add("one")
            await fresh.activated(10)
            await mux.publish("one", b"child")
            assert (await fresh.get_message(10)).payload == b"child"

    async def main():
        asyncio.get_running_loop().slow_callback_duration = 60
        got = []
        def on_message(channel, payload):
            got.append(payload)

        layer = MultiplexedChannelLayer(hosts=[sys.argv[1]]) if sys.argv[2] == "layer" else None
        async with layer.multiplexer if layer else Multiplexer(sys.argv[1]) as mux:
            called = mux.new_channel_subscription(on_message)
            read = mux.new_pattern_subscription("o*")
            called.add("one")
            await called.activated(10)
            await read.activated(10)
            waiting = asyncio.ensure_future(read.get_message())
            await asyncio.sleep(0)
            # A thread of the parent holds it; in the child nobody will ever give it back.
            held, go = threading.Event(), threading.Event()
            thread = threading.Thread(target=hold, args=(mux._registry.lock, held, go))
            thread.start()
            held.wait()
            pid = os.fork()
            if pid == 0:
                try:
                    assert called.closed and read.closed
                    assert refused(called.add, "two") and refused(read.sync.get_message, 0)
                    thread = threading.Thread(target=asyncio.run, args=(child(mux),))
                    thread.start()
                    thread.join()
                    mux.close()
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            go.set()
            assert (await waiting).payload == b"child" and not called.closed
            got.clear()
            assert await mux.publish("one", b"parent") == 2
            while not got:
                await asyncio.sleep(0)
            assert got == [b"parent"]
            assert mux.statistics().epoch == 1

    asyncio.run(main())
"""


@pytest.mark.parametrize("owner", ["multiplexer", "layer"])
async def test_fork_closes_subscriptions_in_the_child_only(
    redis_server: RedisServer, owner: str
) -> None:
    """The child begins anew, whatever threads held at that moment; the parent hears on."""
    await asyncio.to_thread(run_script, FORK, redis_server.url, owner)
