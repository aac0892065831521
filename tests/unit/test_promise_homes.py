"""Promises of other loops, of threads and of forks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import pytest

from channels_mpx import (
    Multiplexer,
    Promise,
    PromiseCancelled,
    PromiseInterrupted,
    PromiseSubscription,
    PromiseTimeout,
)
from tests.helpers import eventually, wait_until
from tests.layers import QUICK, run_script
from tests.servers import RedisServer
from tests.sites import MemorySite, Site, patterns
from tests.unit.promises import LONG, is_empty


@contextlib.asynccontextmanager
async def elsewhere() -> AsyncIterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Yield a function that runs coroutines on an event loop of another thread."""
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def last() -> None:
        end = asyncio.Event()
        begun.set_result((asyncio.get_running_loop(), end))
        await end.wait()

    async def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        return await asyncio.wait_for(asyncio.wrap_future(future), 10)

    thread = asyncio.create_task(asyncio.to_thread(asyncio.run, last()))
    loop, end = await asyncio.wrap_future(begun)
    try:
        yield run
    finally:
        loop.call_soon_threadsafe(end.set)
        await thread


async def test_promises_on_a_loop_that_is_not_home(site: Site, mux: Multiplexer) -> None:
    """Kept, late, interrupted and given up are the same there."""
    await mux.publish("home", b"is here")

    async def live() -> None:
        async with mux.new_promise_subscription("job-") as jobs:
            kept = jobs.new_promise("1", LONG)
            assert await mux.publish("job-1", b"done") == 1
            assert await kept == b"done"
            with pytest.raises(PromiseTimeout):
                await jobs.new_promise("2", 0.02)
            cleared = jobs.new_promise("3", LONG)
            jobs.clear()
            with pytest.raises(PromiseCancelled):
                await cleared
            cancelled = jobs.new_promise("4", LONG)
            cancelled.cancel()
            await eventually(lambda: is_empty(jobs))
            interrupted = jobs.new_promise("5", LONG)
            site.cut()
            with pytest.raises(PromiseInterrupted):
                await interrupted
            await (
                (await jobs.wait_for_new_promise("6", LONG))
                .get_loop()
                .run_in_executor(None, mux.sync.publish, "job-6", b"from a thread")
            )
            await eventually(lambda: is_empty(jobs))

    async with elsewhere() as run:
        await run(live())
    await eventually(lambda: patterns(site) == 0)


def test_loop_that_ends_closes_its_subscription(broker: MemorySite) -> None:
    """Its promises are given up, the pattern is left, and nobody complains."""
    mux = Multiplexer(broker.url, **QUICK)
    keeper = mux.new_promise_subscription("other-")

    async def live() -> tuple[PromiseSubscription, Promise]:
        jobs = mux.new_promise_subscription("job-")
        await jobs.wait_for_activation(5)
        return jobs, jobs.new_promise("7", LONG)

    jobs, promise = asyncio.run(live())
    if not jobs.closed:  # home was elsewhere, and looks at other loops from time to time only
        mux._registry.tick()
    assert jobs.closed
    assert not promise.is_outstanding
    wait_until(lambda: patterns(broker) == 1 and keeper.active)
    mux.close()
    assert keeper.closed


def test_promise_of_a_loop_that_has_ended_is_freed_at_its_deadline(broker: MemorySite) -> None:
    """A subscription without a loop of its own lives on, and leaks nothing."""
    mux = Multiplexer(broker.url, **QUICK)
    jobs = mux.new_promise_subscription("job-")
    wait_until(lambda: jobs.active)

    async def make(seconds: float) -> Promise:
        return jobs.new_promise("7", seconds)

    promise = asyncio.run(make(0.2))
    kept = asyncio.run(make(LONG))
    assert jobs.outstanding == 2
    wait_until(lambda: jobs.outstanding == 1)
    assert not promise.done()
    assert mux.sync.publish("job-7", b"done") == 1
    wait_until(lambda: is_empty(jobs))
    assert not kept.done()
    assert mux.statistics().epoch == 1
    mux.close()


def test_subscription_keeps_the_connection_where_it_is(broker: MemorySite) -> None:
    """A loop that could become home does not, as long as that would interrupt anybody."""
    mux = Multiplexer(broker.url, **QUICK)
    jobs = mux.new_promise_subscription("job-")
    wait_until(lambda: jobs.active)

    async def live() -> None:
        promise = jobs.new_promise("7", LONG)
        subscription = mux.new_channel_subscription()
        subscription.add("one")
        await subscription.activated(5)
        assert broker.accepted == 1
        await mux.publish("job-7", b"done")
        assert await promise == b"done"
        subscription.close()
        jobs.close()
        await eventually(lambda: not mux._hub._is_missed())
        again = mux.new_channel_subscription()
        again.add("two")
        await again.activated(5)
        assert broker.accepted == 2

    asyncio.run(live())
    mux.close()


def test_promise_of_the_last_moment(broker: MemorySite, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is made while home ends is interrupted, and not forgotten."""
    mux = Multiplexer(broker.url, **QUICK)
    outcome: list[Any] = []

    async def make(jobs: PromiseSubscription) -> None:
        jobs._ledger.is_active = True  # as this thread still saw it
        promise = jobs.new_promise("7", LONG)
        jobs._ledger.is_active = False
        outcome.extend([promise, jobs])

    async def live() -> None:
        keeper = mux.new_channel_subscription()
        keeper.add("other")
        await keeper.activated(5)
        jobs = await asyncio.to_thread(mux.new_promise_subscription, "job-")
        await jobs.wait_for_activation(5)
        life = mux._hub.life
        assert life is not None
        end = life.end

        def end_and_make() -> None:
            end()
            thread = threading.Thread(target=asyncio.run, args=(make(jobs),))
            thread.start()
            thread.join()

        monkeypatch.setattr(life, "end", end_and_make)

    asyncio.run(live())
    promise, jobs = outcome
    assert not promise.is_outstanding
    assert is_empty(jobs)
    mux.close()


def test_promise_needs_a_running_loop(broker: MemorySite) -> None:
    """It is a future, which belongs to a loop; without one nothing is left behind."""
    mux = Multiplexer(broker.url, **QUICK)
    jobs = mux.new_promise_subscription("job-")
    wait_until(lambda: jobs.active)
    with pytest.raises(RuntimeError, match="no running event loop"):
        jobs.new_promise("7", LONG)
    assert is_empty(jobs)
    mux.close()


FORK = """
    import asyncio, os, sys, warnings
    from channels_mpx import Multiplexer, SubscriptionIsClosed

    # From Python 3.12 on, forking beside any thread warns; that it works is what is tested.
    warnings.filterwarnings("ignore", "This process", DeprecationWarning)

    async def use(mux, jobs, payload):
        await jobs.wait_for_activation(10)
        promise = jobs.new_promise("7", 10)
        await mux.publish("job-7", payload)
        assert await promise == payload

    async def main():
        asyncio.get_running_loop().slow_callback_duration = 60
        async with Multiplexer(sys.argv[1]) as mux:
            jobs = mux.new_promise_subscription("job-")
            await jobs.wait_for_activation(10)
            promise = jobs.new_promise("0", 10)
            child = os.fork()
            if child == 0:
                try:
                    assert jobs.closed and not jobs.active and not jobs.outstanding
                    try:
                        jobs.new_promise("1", 10)
                    except SubscriptionIsClosed:
                        fresh = mux.new_promise_subscription("job-")
                        assert not fresh.active
                        import threading
                        run = lambda: asyncio.run(use(mux, fresh, b"child"))
                        thread = threading.Thread(target=run)
                        thread.start()
                        thread.join()
                        mux.close()
                        os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert not promise.done() and jobs.active and jobs.outstanding == 1
            await mux.publish("job-0", b"parent")
            assert await promise == b"parent"
            await use(mux, jobs, b"parent")
            assert mux.statistics().epoch == 1

    asyncio.run(main())
"""


async def test_fork_closes_subscriptions_in_the_child_only(redis_server: RedisServer) -> None:
    """The child begins anew; the parent's promises go on as if nothing had happened."""
    await asyncio.to_thread(run_script, FORK, redis_server.url)
