"""Promises are decided by the multiplexer: kept, late, interrupted or given up, and never leaked."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import pytest

from channels_mpx import (
    CommandRefused,
    InactiveSubscription,
    InvalidName,
    InvalidTimeout,
    LinkUnavailable,
    Multiplexer,
    NotConfirmed,
    Promise,
    PromiseCancelled,
    PromiseError,
    PromiseInterrupted,
    PromiseSubscription,
    PromiseTimeout,
    ReservedName,
    SubscriptionIsClosed,
)
from tests.helpers import eventually
from tests.layers import QUICK, calls, connections_received, run_script
from tests.servers import RedisServer
from tests.sites import MemorySite, RedisSite, Site, patterns

#: Longer than any test, as the deadline of promises that are decided by something else.
LONG = 60


@pytest.fixture
async def jobs(mux: Multiplexer) -> AsyncIterator[PromiseSubscription]:
    """An active subscription."""
    async with mux.new_promise_subscription("job-") as jobs:
        yield jobs


def is_empty(subscription: PromiseSubscription) -> bool:
    """Tell whether nothing is left of any promise."""
    return not subscription.outstanding and not subscription._ledger._outstanding


# Kept


async def test_message_keeps_the_promise(mux: Multiplexer, jobs: PromiseSubscription) -> None:
    """The first message on prefix and suffix is the result, as bytes; then it is late."""
    promise = jobs.new_promise("7", LONG)
    assert isinstance(promise, Promise)
    assert (promise.name, promise.seconds, promise.is_outstanding) == (b"job-7", LONG, True)
    assert jobs.outstanding == 1
    assert repr(jobs) == "<PromiseSubscription b'job-' outstanding=1>"
    assert repr(jobs._ledger) == "<Ledger b'job-' outstanding=1>"
    assert repr(mux._board) == "<PromiseBoard [b'job-']>"
    for payload in ("done", "done again"):
        assert await mux.publish("job-7", payload) == 1
    assert await promise == b"done"
    assert await promise == b"done"
    await eventually(lambda: jobs.late == 1)
    assert not promise.is_outstanding
    assert is_empty(jobs)


async def test_only_its_own_name_keeps_a_promise(
    mux: Multiplexer, jobs: PromiseSubscription
) -> None:
    """Longer, shorter and other names are somebody else's."""
    promise = jobs.new_promise(b"\xff\x007", LONG)
    for name in (b"job-\xff\x0077", b"job-\xff\x00", b"job-", b"job-8"):
        await mux.publish(name, b"no")
    assert await mux.publish(b"job-\xff\x007", b"") == 1
    assert await promise == b""
    assert jobs.late == 4


async def test_one_message_keeps_all_promises_on_its_name(
    mux: Multiplexer, jobs: PromiseSubscription
) -> None:
    """Two promises on one name are both kept by one message, also of two subscriptions."""
    other = mux.new_promise_subscription(b"job-")
    assert other.active
    promises = [sub.new_promise("7", LONG) for sub in (jobs, jobs, other)]
    bystander = jobs.new_promise("8", LONG)
    await mux.publish("job-7", b"done")
    assert await asyncio.gather(*promises) == [b"done"] * 3
    assert (jobs.outstanding, other.outstanding, jobs.late) == (1, 0, 0)
    assert not bystander.done()


async def test_message_published_right_after_the_making_is_not_missed(
    mux: Multiplexer, jobs: PromiseSubscription
) -> None:
    """What is published through this multiplexer from now on keeps it, however many there are."""
    promises = []
    publishing = []
    for number in range(100):
        promises.append(jobs.new_promise(str(number), LONG))
        publishing.append(mux.publish(f"job-{number}", str(number)))
    await asyncio.gather(*publishing)
    assert await asyncio.gather(*promises) == [b"%d" % number for number in range(100)]


@pytest.mark.parametrize("prefix", ["*", "?", "[ab]", "]", "\\", "a*b", "^[^a]", "a\\*"])
async def test_prefix_is_plain_text(mux: Multiplexer, prefix: str) -> None:
    """No character of a prefix has a special meaning."""
    async with mux.new_promise_subscription(prefix) as subscription:
        promise = subscription.new_promise("1", LONG)
        assert await mux.publish("a1", b"no") == 0
        assert await mux.publish("aXb1", b"no") == 0
        assert await mux.publish(prefix + "1", b"yes") == 1
        assert await promise == b"yes"
        assert subscription.late == 0


async def test_overlapping_prefixes_keep_each_to_itself(mux: Multiplexer) -> None:
    """A message that comes through two patterns keeps a promise of each, and is no error."""
    async with mux.new_promise_subscription("a") as outer, mux.new_promise_subscription("ab") as it:
        promises = [outer.new_promise("bc", LONG), it.new_promise("c", LONG)]
        assert await mux.publish("abc", b"done") == 2
        assert await asyncio.gather(*promises) == [b"done", b"done"]
        assert outer.late == it.late == 0


async def test_promise_awaited_in_a_callback_is_kept(
    mux: Multiplexer, jobs: PromiseSubscription
) -> None:
    """The callback waits, and the reader of the connection does not."""
    results: list[bytes] = []
    made = asyncio.Event()

    async def on_message(channel: bytes, payload: bytes) -> None:
        promise = jobs.new_promise(payload, LONG)
        made.set()
        results.append(await promise)

    orders = mux.new_channel_subscription(on_message)
    orders.add("orders")
    await orders.activated(5)
    await mux.publish("orders", b"7")
    await made.wait()
    await mux.publish("job-7", b"done")
    await eventually(lambda: results == [b"done"])


# One pattern for many


async def test_one_pattern_for_all_with_one_prefix(site: Site, mux: Multiplexer) -> None:
    """However many share a prefix, Redis has one pattern, and none after the last is closed."""
    subscriptions = [mux.new_promise_subscription("job-") for _ in range(20)]
    for subscription in subscriptions:
        await subscription.wait_for_activation(5)
    assert patterns(site) == mux.statistics().patterns == 1
    while subscriptions:
        assert patterns(site) == 1
        subscriptions.pop().close()
    await eventually(lambda: patterns(site) == 0)
    assert mux.statistics().wanted == 0
    assert mux._board._ledgers == {}


async def test_prefix_is_wanted_again_at_once(site: Site, mux: Multiplexer) -> None:
    """The next subscription to a prefix that was just given up works."""
    for _ in range(3):
        async with mux.new_promise_subscription("job-") as subscription:
            promise = subscription.new_promise("7", LONG)
            await mux.publish("job-7", b"done")
            assert await promise == b"done"
    await eventually(lambda: patterns(site) == 0)


def test_prefix_given_up_before_home_knows_of_it(broker: MemorySite) -> None:
    """A subscription that is closed before it was wanted anywhere leaves nothing."""
    mux = Multiplexer(broker.url)
    subscription = mux.new_promise_subscription("job-")
    ledger = subscription._ledger
    subscription.close()
    mux._board._begin(ledger)
    mux._board.release(b"job-", subscription)
    wait_until(lambda: not mux.statistics().wanted)
    assert not subscription.active
    mux.close()


def test_without_any_home_nothing_is_held(
    broker: MemorySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no thread can be started the subscription is not made."""

    def refuse(self: Any) -> None:
        raise LinkUnavailable(address="nowhere", seconds=0, reason="no thread")

    mux = Multiplexer(broker.url)
    monkeypatch.setattr("channels_mpx.hub.Hub.post", refuse_all := lambda *a, **k: refuse(a[0]))
    assert refuse_all
    with pytest.raises(LinkUnavailable, match="no thread"):
        mux.new_promise_subscription("job-")
    assert mux._board._ledgers == {}
    mux.close()


# Deadlines


async def test_deadline_counts_from_the_making(jobs: PromiseSubscription) -> None:
    """A promise that is awaited long after its deadline has failed already."""
    promise = jobs.new_promise("7", 0.05)
    await eventually(lambda: not jobs.outstanding)
    asyncio.get_running_loop().call_soon(lambda: None)
    await asyncio.sleep(0)
    assert promise.done()
    with pytest.raises(PromiseTimeout, match=r"'job-7' within 0.05 s of making") as caught:
        await promise
    assert isinstance(caught.value, (TimeoutError, PromiseError))
    assert isinstance(caught.value, asyncio.TimeoutError)  # another class until Python 3.10
    assert is_empty(jobs)


async def test_deadline_does_not_begin_with_the_await(jobs: PromiseSubscription) -> None:
    """Whoever awaits in the middle waits for the rest only."""
    loop = asyncio.get_running_loop()
    promise = jobs.new_promise("7", 0.2)
    assert promise.seconds == 0.2
    made = loop.time()
    await asyncio.wait([promise], timeout=0.15)
    with pytest.raises(PromiseTimeout):
        await promise
    assert loop.time() - made < 0.34  # from the await it would have been 0.35


async def test_promise_without_time_fails_at_once(jobs: PromiseSubscription) -> None:
    """0 seconds are allowed, and are over."""
    with pytest.raises(PromiseTimeout):
        await asyncio.wait_for(jobs.new_promise("7", 0), 5)


async def test_promise_that_nobody_awaits_is_freed(
    mux: Multiplexer, jobs: PromiseSubscription
) -> None:
    """At its deadline nothing is left of it, and asyncio does not complain."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: complaints.append(context)
    )
    jobs.new_promise("7", 0.02)
    jobs.new_promise("7", 0.02)
    jobs.new_promise("8", LONG)
    await eventually(lambda: jobs.outstanding == 1)
    jobs.clear()
    await asyncio.sleep(0)
    gc.collect()
    assert is_empty(jobs)
    assert complaints == []
    await mux.publish("job-7", b"late")
    await eventually(lambda: jobs.late == 1)


async def test_many_promises_are_cheap(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred thousand outstanding promises are no task, no command and no subscription more."""
    count = 100_000
    async with (
        Multiplexer(redis_server.url) as mux,
        mux.new_promise_subscription("job-") as jobs,
    ):
        await mux.publish("other", b"")
        redis_server.command("CONFIG", "RESETSTAT")
        tasks = len(asyncio.all_tasks())
        promises = [jobs.new_promise(str(number), LONG) for number in range(count)]
        assert len(asyncio.all_tasks()) == tasks
        assert jobs.outstanding == count
        await mux.publish("job-777", b"done")
        assert await promises[777] == b"done"
        assert jobs.outstanding == count - 1
        sent = calls(redis_server, "config|resetstat", "ping", "role", "config")
        assert set(sent) == {"publish"}
        assert mux.statistics().wanted == 1
        jobs.close()
        assert all(
            isinstance(p.exception(), PromiseCancelled) for p in promises if p is not promises[777]
        )
        assert is_empty(jobs)


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


# Loops, threads, processes


def wait_until(predicate: Callable[[], bool]) -> None:
    """Wait for something from a thread without a loop."""
    asyncio.run(eventually(predicate))


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


# Bad input


@pytest.mark.parametrize("name", [None, "", b"", 7, 1.5, object, bytearray(b"a")])
async def test_names_must_be_names(mux: Multiplexer, name: Any) -> None:
    """What is no text and no bytes, or empty, is refused where it is given."""
    with pytest.raises(InvalidName, match="is not a name that can be used here"):
        mux.new_promise_subscription(name)
    assert mux.statistics().state == "idle"
    async with mux.new_promise_subscription("job-") as jobs:
        with pytest.raises(InvalidName, match="is not a name that can be used here"):
            jobs.new_promise(name, 1)
        with pytest.raises(InvalidName):
            await jobs.wait_for_new_promise(name, 1)
        assert is_empty(jobs)


@pytest.mark.parametrize(
    "timeout", [None, -1, -0.001, float("nan"), float("inf"), "1", b"1", True, False, [1]]
)
async def test_deadlines_must_be_seconds(jobs: PromiseSubscription, timeout: Any) -> None:
    """A promise has a deadline: a finite number of seconds, and no flag."""
    with pytest.raises(InvalidTimeout, match="timeout must be a number of seconds") as caught:
        jobs.new_promise("7", timeout)
    assert repr(timeout) in str(caught.value)
    with pytest.raises(InvalidTimeout):
        await jobs.wait_for_new_promise("7", timeout)
    assert is_empty(jobs)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
async def test_waiting_takes_seconds_or_none(jobs: PromiseSubscription, timeout: Any) -> None:
    """So does waiting for an activation, which may also take as long as it takes."""
    with pytest.raises(InvalidTimeout, match="0 or more, or None, not"):
        await jobs.wait_for_activation(timeout)
    await jobs.wait_for_activation(None)
    await jobs.wait_for_activation(float("inf"))


async def test_own_prefix_is_reserved(mux: Multiplexer) -> None:
    """Neither a prefix nor a whole name may lie under the layer's; its traffic is not counted."""
    with pytest.raises(ReservedName, match="'mpx:group:'"):
        mux.new_promise_subscription("mpx:group:")
    async with mux.new_promise_subscription("mp") as near:
        with pytest.raises(ReservedName, match="'mpx:group:room'"):
            near.new_promise("x:group:room", LONG)
        assert is_empty(near)
        assert await mux.publish("mpx:group:room", b"") == 1
        promise = near.new_promise("y", LONG)
        await mux.publish("mpy", b"done")
        assert await promise == b"done"
        assert near.late == 0


def test_redis_site_is_a_site(redis_server: RedisServer) -> None:
    """The helpers of these tests say the same of both kinds."""
    for site in (MemorySite(), RedisSite(redis_server)):
        assert patterns(site) == 0
