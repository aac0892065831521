"""Promises that nobody keeps are interrupted or given up, and never leaked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from channels_mpx import (
    CommandRefused,
    InactiveSubscription,
    Multiplexer,
    NotConfirmed,
    Promise,
    PromiseCancelled,
    PromiseInterrupted,
    PromiseSubscription,
    PromiseTimeout,
    SubscriptionIsClosed,
)
from tests.helpers import eventually
from tests.layers import QUICK, connections_received
from tests.servers import RedisServer
from tests.sites import MemorySite, Site, patterns
from tests.unit.promises import LONG, is_empty

# Interrupted


async def test_lost_link_interrupts_with_the_reason(site: Site, mux: Multiplexer) -> None:
    """Never a CancelledError: who awaits learns that a message may have been missed, and why."""
    async with mux.new_promise_subscription("job-") as jobs:
        promises = [jobs.new_promise(str(number), LONG) for number in range(10)]
        waiting = asyncio.ensure_future(asyncio.wait(promises))
        site.cut()
        done, _ = await asyncio.wait_for(waiting, 5)
        assert len(done) == 10
        assert not any(promise.cancelled() for promise in promises)
        error = promises[3].exception()
        assert type(error) is PromiseInterrupted
        assert "'job-3' was interrupted" in str(error)
        assert str(error).endswith(f": {site.reason}")
        assert is_empty(jobs)
        await jobs.wait_for_activation(5)
        promise = jobs.new_promise("1", LONG)
        await mux.publish("job-1", b"done")
        assert await promise == b"done"


async def test_promises_need_an_active_subscription(broker: MemorySite) -> None:
    """During a gap none can be made; who waits gets one as soon as it is over."""
    async with Multiplexer(broker.url, **QUICK) as mux:
        jobs = mux.new_promise_subscription("job-")
        with pytest.raises(InactiveSubscription, match="'job-'"):
            jobs.new_promise("7", LONG)
        await jobs.wait_for_activation(5)
        with broker.down():
            await eventually(lambda: not jobs.active)
            with pytest.raises(InactiveSubscription):
                jobs.new_promise("7", LONG)
            waiting = asyncio.create_task(jobs.wait_for_new_promise("7", 0.2))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not waiting.done()
        promise = await asyncio.wait_for(waiting, 5)
        assert promise.is_outstanding
        with pytest.raises(PromiseTimeout):
            await promise


async def test_waiting_for_a_new_promise_through_another_loss(
    broker: MemorySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that is lost between activation and making is waited for again."""
    async with Multiplexer(broker.url, **QUICK) as mux:
        jobs = mux.new_promise_subscription("job-")
        wait, losses = jobs.wait_for_activation, iter([True, False])

        async def lose_once(timeout: float | None = None) -> None:
            await wait(timeout)
            if next(losses):
                with broker.down():
                    await eventually(lambda: not jobs.active)

        monkeypatch.setattr(jobs, "wait_for_activation", lose_once)
        promise = await asyncio.wait_for(jobs.wait_for_new_promise("7", LONG), 5)
        assert promise.is_outstanding


# Given up


async def test_clear_and_close_fail_all(site: Site, mux: Multiplexer) -> None:
    """However many there are, each fails with the reason, and none of other subscriptions."""
    async with mux.new_promise_subscription("job-") as other:
        spared = other.new_promise("1", LONG)
        jobs = mux.new_promise_subscription("job-")
        cleared = [jobs.new_promise(str(number % 10), LONG) for number in range(100)]
        jobs.clear()
        assert not jobs.closed
        closed = [jobs.new_promise(str(number % 10), LONG) for number in range(100)]
        jobs.close()
        jobs.close("twice")
        for promises, reason in ((cleared, "was cleared"), (closed, "was closed")):
            for promise in promises:
                with pytest.raises(PromiseCancelled, match=reason):
                    await promise
        assert not jobs.active
        assert not jobs.outstanding
        assert spared.is_outstanding
        await mux.publish("job-1", b"done")
        assert await spared == b"done"
        assert patterns(site) == 1


async def test_close_tells_the_reason(mux: Multiplexer, jobs: PromiseSubscription) -> None:
    """What `close` is given is what the promises say."""
    promise = jobs.new_promise("7", LONG)
    jobs.close("the client has gone")
    with pytest.raises(PromiseCancelled, match=r"'job-7' was given up: the client has gone"):
        await promise


async def test_close_releases_who_waits(broker: MemorySite) -> None:
    """At once, also when others hold the same prefix, whose waiters go on waiting."""
    async with Multiplexer(broker.url, **QUICK) as mux:
        with broker.silent():
            jobs, other = (mux.new_promise_subscription("job-") for _ in range(2))
            waiting = [
                asyncio.create_task(jobs.wait_for_activation()),
                asyncio.create_task(jobs.wait_for_activation(LONG)),
                asyncio.create_task(jobs.wait_for_new_promise("7", LONG)),
            ]
            staying = asyncio.create_task(other.wait_for_new_promise("7", LONG))
            await eventually(lambda: len(jobs._activation._waiting) == 3)
            jobs.close()
            for task in waiting:
                with pytest.raises(SubscriptionIsClosed, match="b'job-'"):
                    await asyncio.wait_for(task, 5)
            assert not staying.done()
        promise = await asyncio.wait_for(staying, 5)
        await mux.publish("job-7", b"done")
        assert await promise == b"done"


async def test_closed_subscription_takes_nothing(jobs: PromiseSubscription) -> None:
    """Only `close` may follow `close`."""
    jobs.close()
    assert jobs.closed
    with pytest.raises(SubscriptionIsClosed):
        jobs.new_promise("7", LONG)
    with pytest.raises(SubscriptionIsClosed):
        jobs.clear()
    for waiting in (jobs.wait_for_activation(), jobs.wait_for_new_promise("7", LONG)):
        with pytest.raises(SubscriptionIsClosed):
            await waiting


async def test_cancelled_promise_is_struck_out(mux: Multiplexer, jobs: PromiseSubscription) -> None:
    """Who cancels a promise, or a `wait_for` it, leaves nothing, and hurts nobody else's."""
    cancelled, timed_out, other = (jobs.new_promise("7", LONG) for _ in range(3))
    alone = jobs.new_promise("8", LONG)
    alone.cancel()
    cancelled.cancel()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(timed_out, 0.01)
    await eventually(lambda: jobs.outstanding == 1)
    assert len(jobs._ledger._outstanding[b"job-7"]) == 1
    await mux.publish("job-7", b"done")
    assert await other == b"done"
    jobs._ledger.strike(other)
    assert cancelled.cancelled()
    assert is_empty(jobs)


async def test_promise_that_was_set_by_somebody_else(jobs: PromiseSubscription) -> None:
    """A future is a future: who sets its result has kept it."""
    promise = jobs.new_promise("7", LONG)
    promise.set_result(b"mine")
    assert await promise == b"mine"
    await eventually(lambda: is_empty(jobs))


async def test_promise_kept_and_cancelled_at_once(jobs: PromiseSubscription) -> None:
    """What another thread has decided is nothing to a future that was cancelled meanwhile."""
    promise = jobs.new_promise("7", LONG)
    await asyncio.to_thread(promise.settle, b"done")
    other = jobs.new_promise("8", LONG)
    thread = threading.Thread(target=other.settle, args=(b"done",))
    thread.start()
    thread.join()
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other
    assert await promise == b"done"
    assert not jobs.outstanding


async def test_promise_given_up_before_home_knows_of_it(jobs: PromiseSubscription) -> None:
    """It is not entered any more; one made while the link was lost is interrupted."""
    promise = jobs.new_promise("7", LONG)
    jobs.clear()
    jobs._ledger.enter(promise)
    assert is_empty(jobs)
    jobs._ledger.interrupted("cut")
    made_late = Promise.made(b"job-8", LONG, jobs._outstanding)
    jobs._ledger.enter(made_late)
    with pytest.raises(PromiseInterrupted, match="while it was being made"):
        await made_late
    assert is_empty(jobs)


# Contexts and refusals


async def test_context_that_is_not_entered_closes(
    broker: MemorySite, make_redis: Callable[..., RedisServer]
) -> None:
    """Who does not get an active subscription gets a closed one."""
    async with Multiplexer(broker.url, **{**QUICK, "timeout": 0.05}) as mux:
        with broker.down():
            jobs = mux.new_promise_subscription("job-")
            with pytest.raises(NotConfirmed, match="PromiseSubscription b'job-'"):
                await jobs.__aenter__()
            assert jobs.closed
    server = make_redis(users=["alice on >secret ~* resetchannels &ok* +@all"])
    before = connections_received(server)
    async with Multiplexer(server.url_for("alice", "secret"), **QUICK) as mux:
        jobs = mux.new_promise_subscription("job-")
        for _ in range(3):
            with pytest.raises(CommandRefused, match="NOPERM"):
                await jobs.wait_for_activation(5)
        with pytest.raises(InactiveSubscription):
            jobs.new_promise("7", LONG)
        assert connections_received(server) == before + 1
        assert mux.statistics().wanted == 0
