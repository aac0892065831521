"""Reading without an event loop: from threads, one after the other or at once, nothing lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from channels_mpx import (
    ChannelSubscription,
    Gap,
    InvalidTimeout,
    Multiplexer,
    NotConfirmed,
    PubSubMessage,
    SubscriptionIsClosed,
    SubscriptionOverflow,
    SyncCallFromAsync,
    sync_reading,
)
from tests.helpers import eventually, wait_until
from tests.layers import QUICK
from tests.sites import MemorySite, Site


@pytest.fixture
def mux(site: Site) -> Iterator[Multiplexer]:
    """A multiplexer for code without an event loop."""
    mux = Multiplexer(site.url, **QUICK)
    yield mux
    mux.close()


@pytest.fixture
def news(mux: Multiplexer) -> ChannelSubscription:
    """An active subscription without callbacks."""
    subscription = mux.new_channel_subscription()
    subscription.add("news")
    subscription.sync.activated(5)
    return subscription


def payloads(*messages: PubSubMessage | None) -> list[bytes | None]:
    return [message and message.payload for message in messages]


def test_read_one_by_one(mux: Multiplexer, news: ChannelSubscription) -> None:
    """In order; None when none comes in time."""
    for number in range(3):
        assert mux.sync.publish("news", str(number)) == 1
    got = [news.sync.get_message(timeout) for timeout in (5, None, 0.5)]
    assert payloads(*got) == [b"0", b"1", b"2"]
    assert news.sync.get_message(0) is None
    assert news.sync.get_message(0.01) is None
    assert news.delivered == 3


def test_wait_in_a_thread(mux: Multiplexer, news: ChannelSubscription) -> None:
    """A thread may wait longer than it looks at a time, and several may wait at once."""
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(news.sync.get_message, timeout) for timeout in (None, 30, None)]
        wait_until(lambda: news._mailbox.is_awaited)
        for number in range(3):
            mux.sync.publish("news", b"%d" % number)
        got = [future.result(10) for future in waiting]
    assert sorted(payloads(*got)) == [b"0", b"1", b"2"]


def test_wait_in_slices(
    mux: Multiplexer, news: ChannelSubscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after many looks comes all the same, and the limit is the limit."""
    monkeypatch.setattr(sync_reading, "SLICE", 0.005)
    began = time.monotonic()
    assert news.sync.get_message(0.05) is None
    assert time.monotonic() - began >= 0.05
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(news.sync.get_message)
        wait_until(lambda: news._mailbox.is_awaited)
        time.sleep(0.02)  # not to synchronise: a few slices pass
        mux.sync.publish("news", b"1")
        assert payloads(waiting.result(10)) == [b"1"]


def test_iterate_until_closed(mux: Multiplexer, news: ChannelSubscription) -> None:
    """The loop ends when the subscription is closed, by whichever thread."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: [message.payload for message in news.sync])
        for number in range(5):
            mux.sync.publish("news", b"%d" % number)
        wait_until(lambda: news.delivered == 5)
        news.close()
        assert reading.result(10) == [b"0", b"1", b"2", b"3", b"4"]
    with pytest.raises(SubscriptionIsClosed):
        news.sync.get_message()
    with pytest.raises(SubscriptionIsClosed):
        news.sync.activated(1)


def test_iterate_until_overflow(mux: Multiplexer) -> None:
    """An overflow is no quiet end."""
    subscription = mux.new_channel_subscription(capacity=2, overflow="close")
    subscription.add("news")
    subscription.sync.activated(5)
    for number in range(4):
        mux.sync.publish("news", b"%d" % number)
    wait_until(lambda: subscription.closed)
    got = []
    with pytest.raises(SubscriptionOverflow):
        for message in subscription.sync:
            got.append(message.payload)  # noqa: PERF401
    assert got == [b"0", b"1"]


def test_callbacks_for_notices_and_channels_run_in_the_background(
    site: Site, mux: Multiplexer
) -> None:
    """On the connection's own loop, while somebody reads."""
    told: list[tuple[Any, str]] = []

    def note(*args: Any) -> None:
        told.append((args[-1], threading.current_thread().name))

    subscription = mux.new_channel_subscription(on_activation=note, on_gap=note)
    subscription.add("news")
    subscription.add("own", note)
    subscription.sync.activated(5)
    mux.sync.publish("own", b"1")
    assert subscription.sync.get_message(0) is None
    site.cut()
    wait_until(lambda: mux.statistics().epoch == 2)
    subscription.sync.activated(5)
    mux.sync.publish("news", b"2")
    assert payloads(subscription.sync.get_message(5)) == [b"2"]
    assert [what for what, _ in told[:3]] == [b"news", b"own", b"1"]
    assert isinstance(told[-1][0], Gap)
    assert all(thread.endswith(".home") for _, thread in told)


def test_activated_waits_through_slices(
    broker: MemorySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until Redis has confirmed, or time is up; the error tells the time that was given."""
    monkeypatch.setattr(sync_reading, "SLICE", 0.005)
    mux = Multiplexer(broker.url, **QUICK)
    subscription = mux.new_channel_subscription()
    with broker.silent():
        subscription.add("news")
        with pytest.raises(NotConfirmed, match=r"ChannelSubscription channels=1> within 0.04 s"):
            subscription.sync.activated(0.04)
        pool = ThreadPoolExecutor(1)
        waiting = pool.submit(subscription.sync.activated)
        wait_until(lambda: bool(subscription._activation._waiting))
        assert not waiting.done()
    waiting.result(10)
    pool.shutdown()
    subscription.sync.activated(0)
    mux.close()


def test_short_timeout_of_the_connection(broker: MemorySite) -> None:
    """A thread may wait longer than the connection waits for Redis."""
    mux = Multiplexer(broker.url, **{**QUICK, "timeout": 0.05})
    subscription = mux.new_channel_subscription()
    subscription.add("news")
    subscription.sync.activated(5)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(subscription.sync.get_message, 10)
        time.sleep(0.2)  # not to synchronise: the thread looks again and again
        mux.sync.publish("news", b"1")
        assert payloads(waiting.result(10)) == [b"1"]
    mux.close()


def test_blocked_loop_loses_nothing(broker: MemorySite) -> None:
    """What was taken for a thread that could not wait for it is there for the next look."""
    mux = Multiplexer(broker.url, **{**QUICK, "timeout": 0.05})
    subscription = mux.new_channel_subscription()
    subscription.add("news")
    subscription.sync.activated(5)
    entered, go = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        go.wait(10)

    mux._hub.post(block)
    assert entered.wait(10)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(subscription.sync.get_message, 0.3)
        assert waiting.result(10) is None  # nobody was there to look
        go.set()
        mux.sync.publish("news", b"1")
        mux.sync.publish("news", b"2")
        got = [subscription.sync.get_message(5) for _ in range(2)]
    assert sorted(payloads(*got)) == [b"1", b"2"]
    mux.close()


def test_home_that_ends_is_not_the_reader_s_concern(broker: MemorySite) -> None:
    """A thread that reads goes on at the next home."""
    mux = Multiplexer(broker.url, **QUICK)
    subscription = mux.new_channel_subscription()

    async def live(pool: ThreadPoolExecutor) -> Any:
        keeper = mux.new_channel_subscription()
        keeper.add("other")
        await keeper.activated(5)
        await asyncio.to_thread(subscription.add, "news")
        reading = pool.submit(subscription.sync.get_message)
        await eventually(lambda: subscription._mailbox.is_awaited)
        return reading

    with ThreadPoolExecutor(1) as pool:
        reading = asyncio.run(live(pool))
        wait_until(lambda: mux.statistics().active == 1)
        mux.sync.publish("news", b"1")
        assert payloads(reading.result(10)) == [b"1"]
    assert broker.accepted == 2
    mux.close()


async def test_not_on_a_running_loop(broker: MemorySite) -> None:
    """It would block the loop; the error says what to await instead."""
    async with Multiplexer(broker.url) as mux:
        subscription = mux.new_channel_subscription()
        with pytest.raises(SyncCallFromAsync, match=r"get_message\(\)"):
            subscription.sync.get_message(0)
        with pytest.raises(SyncCallFromAsync, match=r"activated\(\)"):
            subscription.sync.activated(0)
        with pytest.raises(SyncCallFromAsync):
            next(iter(subscription.sync))


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_timeouts_must_be_seconds(broker: MemorySite, timeout: Any) -> None:
    """Or None; nothing is connected for another value."""
    mux = Multiplexer(broker.url)
    subscription = mux.new_channel_subscription()
    for verb in (subscription.sync.get_message, subscription.sync.activated):
        with pytest.raises(InvalidTimeout, match="timeout must be a number of seconds"):
            verb(timeout)
    assert mux.statistics().state == "idle"
