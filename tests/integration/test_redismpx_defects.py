"""What was wrong with RedisMPX for Python 0.5.2 is right here: one test for each defect.

Each docstring begins with the place of the defect in its source, and says what happened there.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import io
import re
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from channels_mpx import (
    ChannelSubscription,
    CommandRefused,
    ConnectionInterrupted,
    LinkLost,
    LinkUnavailable,
    Multiplexer,
    PromiseCancelled,
    PromiseInterrupted,
    PromiseTimeout,
    ReservedName,
)
from tests.helpers import eventually
from tests.layers import QUICK, ROOT, calls, clients, connections_received, kill_clients
from tests.servers import RedisServer
from tests.sites import RedisSite, patterns, subscribers

#: Longer than any test, as the deadline of promises that are decided by something else.
LONG = 60


@pytest.fixture
def site(redis_server: RedisServer) -> RedisSite:
    return RedisSite(redis_server)


@pytest.fixture
async def mpx(redis_server: RedisServer) -> AsyncIterator[Multiplexer]:
    async with Multiplexer(redis_server.url, **QUICK) as mpx:
        yield mpx


async def listeners(mpx: Multiplexer, count: int) -> tuple[list[ChannelSubscription], list[int]]:
    """Return active subscriptions to ``chan``, and how many messages each has got."""
    got = [0] * count

    def on_message(number: int, channel: bytes, payload: bytes) -> None:
        got[number] += 1

    subscriptions = [
        mpx.new_channel_subscription(functools.partial(on_message, number))
        for number in range(count)
    ]
    for subscription in subscriptions:
        subscription.add("chan")
        await subscription.activated(5)
    return subscriptions, got


async def test_list_13_holds_more_than_the_newest_node(mpx: Multiplexer) -> None:
    """internal/list.py:13: of three subscribers to one channel, only the newest heard anything."""
    _, got = await listeners(mpx, 3)
    assert await mpx.publish("chan", b"1") == 1
    await eventually(lambda: got == [1, 1, 1])


async def test_list_33_newest_that_leaves_takes_nobody_along(
    site: RedisSite, mpx: Multiplexer
) -> None:
    """internal/list.py:33-34: when the newest left, the others were unsubscribed, then KeyError."""
    subscriptions, got = await listeners(mpx, 3)
    subscriptions[2].close()
    subscriptions[1].remove("chan")
    assert await mpx.publish("chan", b"1") == 1
    await eventually(lambda: got == [1, 0, 0])
    subscriptions[0].remove("chan")
    await eventually(lambda: subscribers(site, b"chan") == 0)


async def test_multiplexer_269_pattern_is_active_as_a_pattern(mpx: Multiplexer) -> None:
    """multiplexer.py:269: the acknowledgement of a pattern went to the active channels."""
    activated: list[bytes] = []
    pattern = mpx.new_pattern_subscription("chan*", print, None, activated.append)
    await pattern.activated(5)
    await eventually(lambda: activated == [b"chan*"])
    assert mpx.statistics().patterns == mpx.statistics().active == 1
    assert await mpx.pubsub_numsub("chan*") == {b"chan*": 0}
    assert await mpx.pubsub_numpat() == 1


async def test_multiplexer_359_pattern_subscription_can_be_closed(
    site: RedisSite, mpx: Multiplexer
) -> None:
    """multiplexer.py:359: close() always raised KeyError, and PUNSUBSCRIBE was never sent."""
    pattern = mpx.new_pattern_subscription("chan*", print, None, None)
    await pattern.activated(5)
    assert patterns(site) == 1
    pattern.close()
    assert pattern.closed
    await eventually(lambda: patterns(site) == 0)


async def test_multiplexer_347_second_subscription_to_a_pattern_is_activated(
    mpx: Multiplexer,
) -> None:
    """multiplexer.py:347: wait_for_activation hung for the second one with the same pattern."""
    activated: list[bytes] = []
    for number in (1, 2):
        promises = mpx.new_promise_subscription("chan-")
        await asyncio.wait_for(promises.wait_for_activation(), 5)
        mpx.new_pattern_subscription("chan-*", print, None, activated.append)
        await eventually(lambda number=number: len(activated) == number)  # type: ignore[misc]


async def test_multiplexer_324_removal_before_the_acknowledgement(
    site: RedisSite, redis_server: RedisServer, mpx: Multiplexer
) -> None:
    """multiplexer.py:324: remove() before it, or while reconnecting: KeyError, and a leak."""
    subscription = mpx.new_channel_subscription(print)
    subscription.add("chan1")
    subscription.remove("chan1")
    subscription.add("chan2")
    await asyncio.sleep(0)  # SUBSCRIBE may be on its way now
    subscription.remove("chan2")
    subscription.add("chan3")
    await subscription.activated(5)
    kill_clients(redis_server)
    subscription.remove("chan3")
    subscription.add("chan4")
    await subscription.activated(5)
    for name in (b"chan1", b"chan2", b"chan3"):
        await eventually(lambda name=name: subscribers(site, name) == 0)  # type: ignore[misc]
    assert mpx.statistics().wanted == 1


async def test_channel_80_clear_and_close_with_channels(site: RedisSite, mpx: Multiplexer) -> None:
    """channel.py:80: clear() used an undefined name, so close() failed with any channel added."""
    subscription = mpx.new_channel_subscription(print)
    for end in (subscription.clear, subscription.close):
        for name in ("chan1", "chan2"):
            subscription.add(name)
        await subscription.activated(5)
        end()
        assert subscription.channels == ()
        await eventually(lambda: subscribers(site, b"chan1") + subscribers(site, b"chan2") == 0)


async def test_promise_107_wait_for_new_promise_waits(mpx: Multiplexer) -> None:
    """promise.py:107: it froze the process, and took one argument where the README has two."""
    promises = mpx.new_promise_subscription("hello-")
    loop, ticks = asyncio.get_running_loop(), [0]

    def tick() -> None:
        ticks[0] += 1
        loop.call_soon(tick)

    loop.call_soon(tick)
    waiting = asyncio.create_task(promises.wait_for_new_promise("world", LONG))
    await eventually(lambda: ticks[0] > 100)
    promise = await waiting
    await mpx.publish("hello-world", b"1")
    assert await promise == b"1"
    promises.close()
    with pytest.raises(TypeError):
        await promises.wait_for_new_promise("world")  # type: ignore[call-arg]
    cancelled = asyncio.create_task(mpx.new_promise_subscription("no-").wait_for_activation())
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_promise_131_all_outstanding_promises_are_failed(
    redis_server: RedisServer, mpx: Multiplexer
) -> None:
    """promise.py:131-134, 151-154: only the first was; the rest stayed until their timeouts."""
    promises = mpx.new_promise_subscription("hello-")
    ends: list[tuple[Callable[[], object], type[Exception]]] = [
        (promises.clear, PromiseCancelled),
        (lambda: kill_clients(redis_server), PromiseInterrupted),
        (promises.close, PromiseCancelled),
    ]
    for end, kind in ends:
        await promises.wait_for_activation(5)
        made = [promises.new_promise(str(number), LONG) for number in range(50)]
        end()
        await asyncio.wait_for(asyncio.wait(made), 5)
        assert {type(promise.exception()) for promise in made} == {kind}
        assert promises.outstanding == 0
    assert promises.closed


async def test_promise_133_lost_link_is_no_cancellation(
    redis_server: RedisServer, mpx: Multiplexer
) -> None:
    """promise.py:133, 153: it was a CancelledError, which ended the consumer silently."""
    async with mpx.new_promise_subscription("hello-") as promises:
        promise = promises.new_promise("world", LONG)

        async def consumer() -> str:
            with pytest.raises(PromiseInterrupted, match="Redis closed the connection"):
                await promise
            return "went on"

        task = asyncio.create_task(consumer())
        await asyncio.sleep(0)
        kill_clients(redis_server)
        assert await asyncio.wait_for(task, 5) == "went on"
        assert not promise.cancelled()


async def test_promise_94_deadline_begins_with_the_promise(mpx: Multiplexer) -> None:
    """promise.py:94: it began with the await, and a promise never awaited was never freed."""
    async with mpx.new_promise_subscription("hello-") as promises:
        awaited_late = promises.new_promise("world", 0.02)
        promises.new_promise("nobody", 0.02)
        await eventually(lambda: promises.outstanding == 0)
        assert promises._ledger._outstanding == {}
        with pytest.raises(PromiseTimeout):
            await awaited_late


async def test_promise_162_promise_that_is_done_does_not_keep_the_others_from_theirs(
    mpx: Multiplexer,
) -> None:
    """promise.py:162: InvalidStateError, and the rest of the list was not resolved."""
    async with mpx.new_promise_subscription("hello-") as promises:
        cancelled, done, waiting = (promises.new_promise("world", LONG) for _ in range(3))
        cancelled.cancel()
        done.set_result(b"mine")
        await mpx.publish("hello-world", b"1")
        assert await asyncio.wait_for(waiting, 5) == b"1"
        assert await done == b"mine"
        await mpx.publish("hello-world", b"2")
        await eventually(lambda: promises.late == 1)
        assert promises._ledger._outstanding == {}


async def test_promise_169_nothing_is_printed_and_no_callback_fails(
    mpx: Multiplexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """promise.py:169: a print() was left in, and a done-callback raised KeyError."""
    complaints: list[Any] = []
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))
    for end in ("kept", "timed out", "cancelled", "closed"):
        promises = mpx.new_promise_subscription("hello-")
        await promises.wait_for_activation(5)
        promise = promises.new_promise("world", 0 if end == "timed out" else LONG)
        if end == "kept":
            await mpx.publish("hello-world", b"1")
        elif end == "cancelled":
            promise.cancel()
        elif end == "closed":
            promises.close()
        await asyncio.wait([promise], timeout=5)
        assert promise.done()
        promises.close()
        del promise, promises
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []
    assert printed.getvalue() == ""
    assert not re.search(
        r"\bprint\(", "".join(path.read_text() for path in (ROOT / "channels_mpx").glob("*.py"))
    )


async def test_promise_55_prefix_is_plain_and_may_overlap(mpx: Multiplexer) -> None:
    r"""promise.py:55: ``*?[]\`` were not escaped, and overlapping prefixes delivered twice."""
    async with (
        mpx.new_promise_subscription("h*[e]?\\-") as special,
        mpx.new_promise_subscription("h*") as overlapping,
    ):
        kept = [
            special.new_promise("world", LONG),
            overlapping.new_promise("[e]?\\-world", LONG),
        ]
        assert await mpx.publish("hXe-world", b"no") == 0
        assert await mpx.publish("h*[e]?\\-world", b"yes") == 2
        assert await asyncio.gather(*kept) == [b"yes", b"yes"]
        assert (special.late, overlapping.late) == (0, 0)


async def test_promise_whole_nobody_keeps_a_promise_whose_name_he_does_not_know(
    mpx: Multiplexer,
) -> None:
    """promise.py: any publisher resolved any promise by guessing the suffix.

    Pub/Sub has no senders, so a name must be hard to guess where that matters: any bytes will do,
    nothing else keeps the promise, and the layer's own names are out of reach.
    """
    token = secrets.token_bytes(16)
    async with mpx.new_promise_subscription("pay-") as promises:
        promise = promises.new_promise(token, LONG)
        for guess in (b"", token[:-1], token + b"\x00", secrets.token_bytes(16), b"*"):
            await mpx.publish(b"pay-" + guess, b"no")
        assert not promise.done()
        await mpx.publish(b"pay-" + token, b'{"error": null, "paid": 7}')
        assert await promise == b'{"error": null, "paid": 7}'
    with pytest.raises(ReservedName):
        mpx.new_promise_subscription("mpx:inbox:")


async def test_multiplexer_229_slow_callback_stalls_nobody(mpx: Multiplexer) -> None:
    """multiplexer.py:229-280: callbacks were awaited in the read loop, where a promise deadlocked."""
    results: list[bytes] = []
    _, got = await listeners(mpx, 1)
    async with mpx.new_promise_subscription("hello-") as promises:

        async def on_message(channel: bytes, payload: bytes) -> None:
            results.append(await promises.new_promise("world", LONG))

        slow = mpx.new_channel_subscription(on_message)
        slow.add("chan")
        await slow.activated(5)
        for _ in range(3):
            await mpx.publish("chan", b"1")
        await eventually(lambda: got == [3])
        assert results == []
        await eventually(lambda: promises.outstanding == 1)
        await mpx.publish("hello-world", b"kept")
        await eventually(lambda: results == [b"kept"])


async def test_same_lines_callbacks_in_every_form_are_awaited(mpx: Multiplexer) -> None:
    """Same lines: partials of objects, async __call__, lambdas that return coroutines were not."""
    got: list[str] = []

    class Called:
        async def __call__(self, name: str, *args: Any) -> None:
            await asyncio.sleep(0)
            got.append(name)

    called = Called()
    for callback in (
        functools.partial(called, "partial of an object"),
        functools.partial(called.__call__, "partial of a method"),
        lambda *args: called("lambda"),
    ):
        subscription = mpx.new_channel_subscription(callback)
        subscription.add("chan")
        await subscription.activated(5)
    await mpx.publish("chan", b"1")
    await eventually(lambda: len(got) == 3)
    assert sorted(got) == ["lambda", "partial of a method", "partial of an object"]


async def test_multiplexer_165_two_errors_are_one_outage(
    redis_server: RedisServer, mpx: Multiplexer
) -> None:
    """multiplexer.py:165-190: two errors meant two reconnections, and on_disconnect twice."""
    told: list[Exception] = []
    gaps: list[Any] = []
    subscription = mpx.new_channel_subscription(print, told.append, on_gap=gaps.append)
    subscription.add("chan")
    await subscription.activated(5)
    before = connections_received(redis_server)
    publishing = [asyncio.create_task(mpx.publish("chan", b"x" * 10_000)) for _ in range(10)]
    kill_clients(redis_server)
    outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {LinkLost, int}
    await eventually(lambda: len(gaps) == 1)
    assert connections_received(redis_server) == before + 1
    assert [type(error) for error in told] == [ConnectionInterrupted]


async def test_multiplexer_212_resubscribing_survives_its_own_errors(
    redis_server: RedisServer, mpx: Multiplexer
) -> None:
    """multiplexer.py:212-220: an error there ended the reader, and it was one giant command."""
    subscription = mpx.new_channel_subscription(print)
    for number in range(3000):
        subscription.add(f"chan{number}")
    await subscription.activated(10)
    redis_server.command("CONFIG", "RESETSTAT")
    for epoch in (2, 3, 4):
        kill_clients(redis_server)
        await eventually(lambda epoch=epoch: mpx.statistics().epoch >= epoch)  # type: ignore[misc]
    await subscription.activated(10)
    assert mpx.statistics().active == 3000
    assert calls(redis_server)["subscribe"] >= 6
    assert await mpx.publish("chan2999", b"1") == 1


async def test_multiplexer_222_refused_name_does_not_storm(
    make_redis: Callable[..., RedisServer],
) -> None:
    """multiplexer.py:222-286: one NOPERM was 1,902 connections in a second."""
    server = make_redis(users=["alice on >secret ~* resetchannels &ok* +@all"])
    told: list[Exception] = []
    before = connections_received(server)
    async with Multiplexer(server.url_for("alice", "secret"), **QUICK) as mpx:
        subscription = mpx.new_channel_subscription(print, told.append)
        for name in ("forbidden", "ok"):
            subscription.add(name)
        with pytest.raises(CommandRefused, match="NOPERM"):
            await subscription.activated(5)
        await subscription.activated(5)
        for _ in range(100):
            await mpx.publish("ok", b"1")
        assert [type(error) for error in told] == [CommandRefused]
        assert subscription.channels == (b"ok",)
        assert connections_received(server) == before + 1
        assert calls(server)["subscribe"] <= 4


async def test_multiplexer_whole_silence_is_noticed_and_the_state_is_known(
    make_redis: Callable[..., RedisServer],
) -> None:
    """multiplexer.py: no PING, no read deadline, and no way to ask for the state."""
    server = make_redis()
    told: list[Exception] = []
    mpx = Multiplexer(server.url, **{**QUICK, "ping_interval": 0.1, "ping_timeout": 0.2})
    assert mpx.statistics().state == "idle"
    async with mpx:
        subscription = mpx.new_channel_subscription(print, told.append)
        subscription.add("chan")
        await subscription.activated(5)
        assert mpx.statistics().state == "connected"
        server.freeze()
        await eventually(lambda: len(told) == 1)
        assert mpx.statistics().state == "connecting"
        server.thaw()
        await subscription.activated(10)
        assert mpx.statistics().state == "connected"


async def test_multiplexer_159_connections_are_closed(
    site: RedisSite, redis_server: RedisServer
) -> None:
    """multiplexer.py:159-163: every reconnect, and close(), leaked the socket."""
    mpx = Multiplexer(redis_server.url, **QUICK)
    subscription = mpx.new_channel_subscription(print)
    subscription.add("chan")
    for epoch in (1, 2, 3):
        await subscription.activated(5)
        assert mpx.statistics().epoch == epoch
        assert len(clients(redis_server)) == 1
        mpx._hub.life.traffic.lose("on purpose")  # type: ignore[union-attr]
    await subscription.activated(5)
    await mpx.aclose()
    await eventually(lambda: clients(redis_server) == [])
    assert subscribers(site, b"chan") == 0


async def test_multiplexer_317_subscriptions_can_be_closed_after_the_multiplexer(
    mpx: Multiplexer,
) -> None:
    """multiplexer.py:317-319, 352-354: after mpx.close() every sub.close() raised."""
    subscriptions = [
        mpx.new_channel_subscription(print),
        mpx.new_pattern_subscription("chan*", print),
        mpx.new_promise_subscription("hello-"),
    ]
    await mpx.publish("chan", b"1")
    await mpx.aclose()
    for subscription in subscriptions:
        subscription.close()
        assert subscription.closed


def test_multiplexer_88_needs_no_running_loop(redis_server: RedisServer) -> None:
    """multiplexer.py:88: it needed one in __init__, though the README builds it at import."""
    mpx = Multiplexer(redis_server.url)
    pattern = mpx.new_pattern_subscription("chan*")
    promises = mpx.new_promise_subscription("hello-")

    async def main() -> None:
        promise = await promises.wait_for_new_promise("world", LONG)
        await pattern.activated(5)
        assert await mpx.publish("chan", b"1") == 1
        await mpx.publish("hello-world", b"2")
        assert await promise == b"2"

    asyncio.run(main())
    message = pattern.sync.get_message(5)
    assert message is not None
    assert message.payload == b"1"
    mpx.close()


async def test_multiplexer_286_tasks_are_kept(mpx: Multiplexer) -> None:
    """multiplexer.py:286-364: tasks were fire-and-forget, and might be collected."""
    got: list[bytes] = []

    async def on_message(channel: bytes, payload: bytes) -> None:
        await asyncio.sleep(0)
        gc.collect()
        got.append(payload)

    mpx.new_channel_subscription(on_message).add("chan")
    mpx.new_pattern_subscription("cha*", on_message)
    await eventually(lambda: mpx.statistics().active == 2)
    gc.collect()
    for payload in (b"1", b"2"):
        await mpx.publish("chan", payload)
    await eventually(lambda: sorted(got) == [b"1", b"1", b"2", b"2"])
    assert all(
        task in {tie._handle._reader._task for tie in mpx._registry._held}  # type: ignore[attr-defined]
        for task in asyncio.all_tasks()
        if "Reader" in repr(task)
    )


async def test_connection_28_what_redis_does_not_read_is_bounded(
    make_redis: Callable[..., RedisServer],
) -> None:
    """internal/connection.py:28-29: it wrote without drain, and raised NotImplemented."""
    server = make_redis()
    payload = b"x" * 2**20
    async with Multiplexer(server.url, **{**QUICK, "timeout": 30, "ping_timeout": 30}) as mpx:
        subscription = mpx.new_channel_subscription()
        subscription.add("home")
        await subscription.activated(5)  # from now on the connection lives on this loop
        server.freeze()
        publishing = []
        try:
            while not any(task.done() for task in publishing):
                assert len(publishing) < 100
                publishing.append(asyncio.create_task(mpx.publish("chan", payload)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        finally:
            server.thaw()
        *taken, refused = await asyncio.gather(*publishing, return_exceptions=True)
        assert isinstance(refused, LinkUnavailable)
        assert "too much waits to be written" in str(refused)
        assert set(taken) == {0}
        assert mpx.statistics().epoch == 1


def test_setup_dependencies_have_a_lowest_version() -> None:
    """setup.py: aioredis was not pinned, and its internals were needed."""
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.M | re.S)
    assert found is not None
    dependencies = re.findall(r'"(.+?)"', found[1])
    assert any(dependency.startswith("redis") for dependency in dependencies)
    assert not any("aioredis" in dependency for dependency in dependencies)
    for dependency in dependencies:
        assert re.fullmatch(r"[\w\[\]]+>=[\d.]+", dependency), dependency


def test_docs_names_are_spelt_right() -> None:
    """Docs: ``new_channel_subcription``, in multiplexer.py:68 and in the README."""
    for name in (
        "new_channel_subscription",
        "new_pattern_subscription",
        "new_promise_subscription",
    ):
        assert callable(getattr(Multiplexer, name))
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for path in [*pages, *(ROOT / "channels_mpx").rglob("*.py")]:
        assert "subcription" not in path.read_text(), path


def test_tests_have_two_subscribers_patterns_and_promises() -> None:
    """tests/: there were two, without any of these, and all of the above passed."""
    source = inspect.getsource(sys.modules[__name__])
    for used in ("listeners(mpx, 3)", "new_pattern_subscription", "new_promise_subscription"):
        assert used in source
    assert len(re.findall(r"^(?:async )?def test_", source, re.M)) == 29
