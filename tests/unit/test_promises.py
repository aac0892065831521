"""Promises are decided by the multiplexer: kept, or late, and one pattern for many."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from channels_mpx import (
    InvalidName,
    InvalidTimeout,
    LinkUnavailable,
    Multiplexer,
    Promise,
    PromiseCancelled,
    PromiseError,
    PromiseSubscription,
    PromiseTimeout,
    ReservedName,
)
from tests.helpers import eventually, wait_until
from tests.layers import UNWATCHED, calls
from tests.servers import RedisServer
from tests.sites import MemorySite, RedisSite, Site, patterns
from tests.unit.promises import LONG, is_empty

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
    over: list[str] = []
    promise = jobs.new_promise("7", 0.2)
    assert promise.seconds == 0.2
    promise.add_done_callback(lambda _: over.append("first"))
    await asyncio.wait([promise], timeout=0.05)
    later = jobs.new_promise("8", 0.2)  # its time ends before one that began with the await
    later.add_done_callback(lambda _: over.append("later"))
    with pytest.raises(PromiseTimeout):
        await promise
    with pytest.raises(PromiseTimeout):
        await later
    assert over == ["first", "later"]


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
        Multiplexer(redis_server.url, **UNWATCHED) as mux,  # a probe would be counted
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
        assert await mux._hub.call(mux._hub.publish, b"mpx:group:room", b"") == 1
        promise = near.new_promise("y", LONG)
        await mux.publish("mpy", b"done")
        assert await promise == b"done"
        assert near.late == 0


def test_redis_site_is_a_site(redis_server: RedisServer) -> None:
    """The helpers of these tests say the same of both kinds."""
    for site in (MemorySite(), RedisSite(redis_server)):
        assert patterns(site) == 0
