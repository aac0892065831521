"""Subscriptions tell their callbacks everything, in order, and nobody waits for anybody else's."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from channels_mpx import (
    ChannelSubscription,
    CommandRefused,
    ConfigurationError,
    Gap,
    InvalidArgument,
    InvalidName,
    LinkLost,
    MultiplexedChannelLayer,
    Multiplexer,
    NotCallable,
    NotConfirmed,
    PatternSubscription,
    PubSubMessage,
    ReservedName,
    SubscriptionHasCallback,
    SubscriptionIsClosed,
    SubscriptionOverflow,
    reading,
)
from tests.helpers import eventually
from tests.layers import QUICK, run_script
from tests.servers import RedisServer
from tests.sites import MemorySite, Site, subscribers

#: Reconnects at once.
HASTY: dict[str, Any] = {**QUICK, "reconnect_delay": 0.001, "max_reconnect_delay": 0.001}


class Notes:
    """Callbacks that write down what they are told."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self.gaps: list[Gap] = []

    def on_message(self, channel: bytes, payload: bytes) -> None:
        self.lines.append((channel, payload))

    def on_disconnect(self, error: Exception) -> None:
        self.lines.append(("disconnect", type(error)))

    def on_activation(self, name: bytes) -> None:
        self.lines.append(("active", name))

    def on_gap(self, gap: Gap) -> None:
        self.lines.append(("gap",))
        self.gaps.append(gap)

    def channels(self, mux: Multiplexer) -> ChannelSubscription:
        """Return a subscription with all of RedisMPX's callbacks."""
        return mux.new_channel_subscription(self.on_message, self.on_disconnect, self.on_activation)

    def watchful(self, mux: Multiplexer, *channels: str) -> ChannelSubscription:
        """Return a subscription that hears of gaps too."""
        subscription = mux.new_channel_subscription(
            self.on_message, self.on_disconnect, self.on_activation, on_gap=self.on_gap
        )
        for channel in channels:
            subscription.add(channel)
        return subscription

    async def until(self, *lines: tuple[Any, ...]) -> None:
        """Wait until exactly this has been written down."""
        await eventually(lambda: len(self.lines) >= len(lines))
        assert self.lines == list(lines)


async def test_messages_come_in_order_and_nothing_else(mux: Multiplexer) -> None:
    """A subscription hears its channels from their activation on, and no others."""
    notes = Notes()
    subscription = notes.channels(mux)
    subscription.add("one")
    subscription.add(b"two")
    subscription.add("one")
    await notes.until(("active", b"one"), ("active", b"two"))
    assert subscription.channels == (b"one", b"two")
    assert await mux.publish("one", "1") == 1
    assert await mux.publish(b"two", b"2") == 1
    assert await mux.publish("three", b"3") == 0
    assert await mux.publish("one", b"4") == 1
    await eventually(lambda: len(notes.lines) == 5)
    assert notes.lines[2:] == [(b"one", b"1"), (b"two", b"2"), (b"one", b"4")]
    assert repr(subscription) == "<ChannelSubscription channels=2>"
    assert "connected" in repr(mux)
    assert mux.statistics().received == 3


async def test_subscribers_to_one_channel_each_get_its_messages(mux: Multiplexer) -> None:
    """The second subscriber costs Redis nothing, and is told of its activation all the same."""
    first, second = Notes(), Notes()
    one = first.channels(mux)
    one.add("one")
    await first.until(("active", b"one"))
    second.channels(mux).add("one")
    await second.until(("active", b"one"))
    assert await mux.publish("one", b"1") == 1
    await eventually(lambda: first.lines[1:] == second.lines[1:] == [(b"one", b"1")])
    one.close()
    assert await mux.publish("one", b"2") == 1
    await eventually(lambda: second.lines[2:] == [(b"one", b"2")])
    assert len(first.lines) == 2


async def test_removed_channels_are_not_heard_any_more(mux: Multiplexer) -> None:
    """remove() and clear() end what add() began, and add() begins it again."""
    notes = Notes()
    subscription = notes.channels(mux)
    for name in ("one", "two", "three"):
        subscription.add(name)
    await eventually(lambda: len(notes.lines) == 3)
    subscription.remove("one")
    subscription.remove("never added")
    assert subscription.channels == (b"two", b"three")
    await eventually(lambda: mux.statistics().active == 2)
    assert await mux.publish("one", b"1") == 0
    subscription.clear()
    assert subscription.channels == ()
    await eventually(lambda: mux.statistics().active == 0)
    assert not subscription.closed
    subscription.add("one")
    await eventually(lambda: len(notes.lines) == 4)
    await mux.publish("one", b"2")
    await eventually(lambda: notes.lines[3:] == [("active", b"one"), (b"one", b"2")])


async def test_closed_subscription_calls_nobody_and_takes_nothing(mux: Multiplexer) -> None:
    """close() is for good; only close() itself may follow it."""
    notes = Notes()
    subscription = notes.channels(mux)
    subscription.add("one")
    await notes.until(("active", b"one"))
    subscription.close()
    subscription.close()
    assert subscription.closed
    assert subscription.channels == ()
    for verb in (subscription.add, subscription.remove):
        with pytest.raises(SubscriptionIsClosed):
            verb("one")
    await eventually(lambda: mux.statistics().active == 0)
    assert await mux.publish("one", b"1") == 0
    assert len(notes.lines) == 1


async def test_callback_may_close_its_own_subscription(mux: Multiplexer) -> None:
    """What waited behind the message that closes it is dropped."""
    got: list[bytes] = []

    def on_message(channel: bytes, payload: bytes) -> None:
        got.append(payload)
        subscription.close()

    subscription = mux.new_channel_subscription(on_message)
    subscription.add("one")
    await eventually(lambda: mux.statistics().active == 1)
    await asyncio.gather(*(mux.publish("one", b"%d" % number) for number in range(3)))
    await eventually(lambda: mux.statistics().active == 0)
    assert got == [b"0"]


async def test_pattern_subscription_hears_what_matches(mux: Multiplexer) -> None:
    """A pattern gives each matching message once more, beside the exact channel."""
    notes, exact = Notes(), Notes()
    subscription = mux.new_pattern_subscription(
        "room.*", notes.on_message, notes.on_disconnect, notes.on_activation
    )
    assert isinstance(subscription, PatternSubscription)
    assert subscription.pattern == b"room.*"
    assert repr(subscription) == "<PatternSubscription b'room.*'>"
    exact.channels(mux).add("room.1")
    await notes.until(("active", b"room.*"))
    await exact.until(("active", b"room.1"))
    assert mux.statistics().patterns == 1
    assert await mux.publish("room.1", b"1") == 2
    assert await mux.publish("hall.1", b"2") == 0
    assert await mux.publish("room.2", b"3") == 1
    await notes.until(("active", b"room.*"), (b"room.1", b"1"), (b"room.2", b"3"))
    await exact.until(("active", b"room.1"), (b"room.1", b"1"))
    subscription.close()
    await eventually(lambda: mux.statistics().patterns == 0)
    assert await mux.publish("room.2", b"4") == 0


async def test_names_under_the_prefix_are_reserved(mux: Multiplexer) -> None:
    """What the layer keeps under its prefix is not for subscriptions."""
    notes = Notes()
    with pytest.raises(ReservedName):
        notes.channels(mux).add("mpx:group:room")
    with pytest.raises(ReservedName):
        mux.new_pattern_subscription("mpx:*", notes.on_message)
    await mux.publish("one", b"1")
    assert mux.statistics().wanted == 0


class Called:
    """An object whose call is a coroutine function."""

    def __init__(self, got: list[Any]) -> None:
        self._got = got

    async def __call__(self, channel: bytes, payload: bytes) -> None:
        await asyncio.sleep(0)
        self._got.append(payload)


async def _append(got: list[Any], channel: bytes, payload: bytes) -> None:
    got.append(payload)


class Awaitable:
    """Something that can be awaited and is no coroutine."""

    def __init__(self, got: list[Any], payload: bytes) -> None:
        self._got, self._payload = got, payload

    def __await__(self) -> Any:
        self._got.append(self._payload)
        return asyncio.sleep(0).__await__()


@pytest.mark.parametrize(
    "make",
    [
        Called,
        lambda got: functools.partial(_append, got),
        lambda got: lambda channel, payload: Awaitable(got, payload),
        lambda got: lambda channel, payload: got.append(payload) or "not awaitable",
    ],
    ids=["object", "partial", "awaitable", "value"],
)
async def test_callbacks_may_be_anything_that_can_be_called(
    mux: Multiplexer, make: Callable[[list[Any]], Any]
) -> None:
    """What a callback returns is awaited if it can be."""
    got: list[Any] = []
    mux.new_channel_subscription(make(got)).add("one")
    await eventually(lambda: mux.statistics().active == 1)
    for payload in (b"1", b"2"):
        await mux.publish("one", payload)
    await eventually(lambda: got == [b"1", b"2"])


async def test_slow_callback_delays_nobody_else(mux: Multiplexer) -> None:
    """While one subscription's callback waits, the others get their messages."""
    gate, slow, quick = asyncio.Event(), Notes(), Notes()

    async def on_message(channel: bytes, payload: bytes) -> None:
        await gate.wait()
        slow.on_message(channel, payload)

    mux.new_channel_subscription(on_message).add("one")
    quick.channels(mux).add("one")
    await quick.until(("active", b"one"))
    for payload in (b"1", b"2"):
        await mux.publish("one", payload)
    await eventually(lambda: len(quick.lines) == 3)
    assert slow.lines == []
    gate.set()
    await eventually(lambda: slow.lines == [(b"one", b"1"), (b"one", b"2")])


async def test_callback_that_raises_is_logged_and_goes_on(
    mux: Multiplexer, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing callback costs its own message only, and no payload gets into the log."""
    got: list[bytes] = []

    def on_message(channel: bytes, payload: bytes) -> None:
        if payload == b"secret":
            raise RuntimeError("broken callback")
        got.append(payload)

    mux.new_channel_subscription(on_message).add("one")
    await eventually(lambda: mux.statistics().active == 1)
    for payload in (b"secret", b"2"):
        await mux.publish("one", payload)
    await eventually(lambda: got == [b"2"])
    assert "a callback of <ChannelSubscription channels=1> failed" in caplog.text
    assert "broken callback" in caplog.text
    assert "secret" not in [record.getMessage() for record in caplog.records]


async def test_long_bursts_let_the_loop_have_its_turn(mux: Multiplexer) -> None:
    """Callbacks of a burst are called in portions, all of them and in order."""
    got: list[bytes] = []
    turns: set[int] = set()
    turn = itertools.count()
    loop = asyncio.get_running_loop()
    now = [0]

    def tick() -> None:
        now[0] = next(turn)
        if len(got) < 300:
            loop.call_soon(tick)

    def on_message(channel: bytes, payload: bytes) -> None:
        got.append(payload)
        turns.add(now[0])

    mux.new_channel_subscription(on_message).add("one")
    await eventually(lambda: mux.statistics().active == 1)
    tick()
    burst = [b"%d" % number for number in range(300)]
    await asyncio.gather(*(mux.publish("one", payload) for payload in burst))
    await eventually(lambda: len(got) == 300)
    assert got == burst
    assert len(turns) >= 300 // reading.AT_ONCE


async def test_overflow_is_counted_and_logged_once(
    mux: Multiplexer, caplog: pytest.LogCaptureFixture
) -> None:
    """Callbacks that are too slow lose what does not fit, and the log tells begin and end."""
    gate = asyncio.Event()
    got: list[bytes] = []

    async def on_message(channel: bytes, payload: bytes) -> None:
        await gate.wait()
        got.append(payload)

    subscription = mux.new_channel_subscription(on_message, capacity=5)
    subscription.add("one")
    await eventually(lambda: mux.statistics().active == 1)
    for number in range(20):
        await mux.publish("one", b"%d" % number)
    await eventually(lambda: mux.statistics().received == 20)
    assert subscription.dropped == 14
    gate.set()
    await eventually(lambda: "has caught up; 14 messages were dropped" in caplog.text)
    await eventually(lambda: got == [b"%d" % number for number in range(6)])
    assert caplog.text.count("is full: dropping messages") == 1


async def test_disconnect_and_activation_are_told_in_order(site: Site, mux: Multiplexer) -> None:
    """A lost link is told once, then each channel's activation, and messages only after that."""
    notes = Notes()
    silent: list[bytes] = []
    mux.new_channel_subscription(lambda channel, payload: silent.append(payload)).add("one")
    both = [("active", b"one"), ("active", b"two")]
    notes.watchful(mux, "one", "two")
    await notes.until(*both)
    site.cut()
    lines = [*both, ("disconnect", LinkLost), *both, ("gap",)]
    await notes.until(*lines)
    await mux.publish("two", b"1")
    await mux.publish("one", b"2")
    await notes.until(*lines, (b"two", b"1"), (b"one", b"2"))
    await eventually(lambda: silent == [b"2"])


async def test_refused_channel_is_told_as_the_reason(
    make_redis: Callable[..., RedisServer],
) -> None:
    """Who may not subscribe learns why, by on_disconnect if there is one; others go on."""
    server = make_redis(users=["alice on >secret ~* resetchannels &ok +@all"])
    notes = Notes()
    async with Multiplexer(server.url_for("alice", "secret"), **QUICK) as mux:
        notes.channels(mux).add("forbidden")
        await notes.until(("disconnect", CommandRefused))
        mux.new_channel_subscription(notes.on_message).add("forbidden")
        notes.channels(mux).add("ok")
        await notes.until(("disconnect", CommandRefused), ("active", b"ok"))
        assert mux.statistics().wanted == 1


# Gaps


async def test_gap_has_epoch_reason_and_duration(site: Site, mux: Multiplexer) -> None:
    """Every subscription is told once of each outage, and once of its end."""
    notes = [Notes() for _ in range(3)]
    for number, note in enumerate(notes):
        note.watchful(mux, "all", f"own{number}")
        await eventually(lambda note=note: len(note.lines) == 2)  # type: ignore[misc]
    for outage in (1, 2):
        site.cut()
        for note in notes:
            await eventually(lambda note=note, outage=outage: len(note.gaps) == outage)  # type: ignore[misc]
            assert note.lines.count(("disconnect", LinkLost)) == outage
            assert note.gaps[-1].epoch == outage + 1
            assert note.gaps[-1].reason == site.reason
            assert 0 < note.gaps[-1].seconds < 5
    assert len({note.gaps[-1] for note in notes}) == 1


async def test_link_lost_again_within_a_gap_is_one_outage(broker: MemorySite) -> None:
    """However often the link is lost before everything is active: one disconnect, one gap.

    Who came during the gap has missed nothing, and is told nothing.
    """
    old, new, idle = Notes(), Notes(), Notes()
    async with Multiplexer(broker.url, **QUICK) as mux:
        old.watchful(mux, "one", "two")
        idle.watchful(mux)
        await old.until(("active", b"one"), ("active", b"two"))
        for outage in (1, 2):
            with broker.silent():
                before = broker.accepted
                broker.cut()
                await eventually(lambda: broker.accepted == before + 1)  # noqa: B023
                newcomer = new.watchful(mux, "one", "new")
                broker.cut()
                await eventually(lambda: broker.accepted == before + 2)  # noqa: B023
                broker.cut()
                await eventually(lambda: broker.accepted == before + 3)  # noqa: B023
            await eventually(lambda: len(old.gaps) == outage)  # noqa: B023
            await newcomer.activated(5)
            assert old.lines.count(("disconnect", LinkLost)) == outage
            assert old.gaps[-1].epoch == 1 + 3 * outage
            assert old.gaps[-1].reason == broker.reason
            await eventually(lambda: len(new.lines) == 2)
            assert {line[0] for line in new.lines} == {"active"}
            newcomer.close()
            new.lines.clear()
        assert idle.lines == []
        assert len(old.lines) == 2 + 2 * 4


async def test_who_comes_between_two_losses_of_one_gap_hears_of_it(mux: Multiplexer) -> None:
    """If it was active when the link was lost again; the others hear of the gap once, or not."""
    old, new, idle = Notes(), Notes(), Notes()
    await old.watchful(mux, "one").activated(5)
    listener, gap = mux._hub.listener, Gap(3, "first", 0.5)
    listener.gap_opened("first")
    await new.watchful(mux, "two").activated(5)
    idle.watchful(mux)
    await eventually(lambda: ("disconnect", LinkLost) in old.lines)
    for notes in (old, new, idle):
        notes.lines.clear()
    listener.gap_went_on("second")
    listener.gap_closed(gap)
    for notes in (old, new):
        await eventually(lambda notes=notes: notes.gaps == [gap])  # type: ignore[misc]
    told = [line for line in old.lines + new.lines if line[0] != "active"]
    assert told == [("gap",), ("disconnect", LinkLost), ("gap",)]
    assert idle.lines == []


async def test_channels_removed_in_a_gap_do_not_spoil_the_next(broker: MemorySite) -> None:
    """Who is told that a gap begins is told that it ends, whatever he wants meanwhile."""
    notes = Notes()
    async with Multiplexer(broker.url, **QUICK) as mux:
        subscription = notes.watchful(mux, "one")
        await notes.until(("active", b"one"))
        with broker.down():
            await eventually(lambda: ("disconnect", LinkLost) in notes.lines)
            subscription.clear()
        await eventually(lambda: len(notes.gaps) == 1)
        subscription.add("two")
        await subscription.activated(5)
        broker.cut()
        await eventually(lambda: len(notes.gaps) == 2)
        assert notes.lines.count(("disconnect", LinkLost)) == 2


async def test_slow_callback_hears_of_activations_after_the_disconnect(
    broker: MemorySite,
) -> None:
    """Whoever keeps a state by what he is told ends with the true one, however late he is told.

    Both outages are one to him, for he has not read that the first one was over.
    """
    gate, notes = asyncio.Event(), Notes()

    async def on_activation(name: bytes) -> None:
        await gate.wait()
        notes.on_activation(name)

    async with Multiplexer(broker.url, **QUICK) as mux:
        subscription = mux.new_channel_subscription(
            notes.on_message, notes.on_disconnect, on_activation, on_gap=notes.on_gap
        )
        subscription.add("one")
        subscription.add("two")
        await subscription.activated(5)
        for outage in (1, 2):
            broker.cut()
            await eventually(lambda: mux.statistics().epoch == outage + 1)  # noqa: B023
            await subscription.activated(5)
        gate.set()
        again = [("disconnect", LinkLost), ("active", b"one"), ("active", b"two"), ("gap",)]
        await notes.until(("active", b"one"), ("active", b"two"), *again)
        assert notes.gaps[0].epoch == 3
        began = time.monotonic()
        broker.cut()
        await eventually(lambda: len(notes.gaps) == 2)
        assert notes.lines[6:] == again
        assert notes.gaps[1].seconds <= time.monotonic() - began


async def test_outages_that_nobody_reads_of_are_one(broker: MemorySite) -> None:
    """Two hundred of them, as long as all together; what was published in between is told apart."""
    told: list[Any] = []
    async with Multiplexer(broker.url, **HASTY) as mux:
        subscription = mux.new_channel_subscription(
            None, told.append, told.append, on_gap=told.append
        )
        subscription.add("one")
        subscription.add("two")
        await subscription.activated(5)
        assert await subscription.get_message(0) is None
        told.clear()
        began = time.monotonic()
        for number in range(200):
            await outage(broker, mux, subscription)
            if number == 99:
                await mux.publish("one", b"1")
        assert subscription.waiting == 2 * 4 + 1
        assert await subscription.get_message(0) == PubSubMessage(None, b"one", b"1")
        assert [type(item) for item in told] == [LinkLost, bytes, bytes, Gap]
        assert told[3].epoch == 101
        assert await subscription.get_message(0) is None
        assert [type(item) for item in told[4:]] == [LinkLost, bytes, bytes, Gap]
        assert told[7].epoch == 201
        lasted = time.monotonic() - began
        assert lasted / 2 < told[3].seconds + told[7].seconds < lasted
        for number in range(3):  # who reads in time hears of each
            await outage(broker, mux, subscription)
            assert await subscription.get_message(0) is None
            assert len(told) == 8 + 4 * (number + 1)


async def outage(broker: MemorySite, mux: Multiplexer, subscription: ChannelSubscription) -> None:
    """Lose the link, and wait until everything is back."""
    epoch = mux.statistics().epoch
    broker.cut()
    await eventually(lambda: mux.statistics().epoch == epoch + 1)
    await subscription.activated(5)


async def test_notices_that_nobody_takes_stay_few(broker: MemorySite) -> None:
    """Once as much waits as may, activations are told once each, however often the link is lost."""
    async with Multiplexer(broker.url, **QUICK) as mux:
        subscription = mux.new_channel_subscription(on_activation=print, capacity=4)
        for number in range(4):
            subscription.add(str(number))
        await subscription.activated(5)
        for outage in range(1, 6):
            broker.cut()
            await eventually(lambda: mux.statistics().epoch == outage + 1)  # noqa: B023
            await subscription.activated(5)
        assert subscription.waiting == 4


def test_home_that_stops_without_an_end_is_a_gap(
    threads_only: Multiplexer, broker: MemorySite, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever lives on elsewhere is told of both ends of it, like of any other."""
    notes, other = Notes(), Notes()
    lasting = notes.watchful(threads_only)
    loop = asyncio.new_event_loop()

    async def live() -> ChannelSubscription:
        subscription = other.watchful(threads_only, "one")
        await asyncio.to_thread(lasting.add, "one")
        await subscription.activated(5)
        await eventually(lambda: notes.lines == [("active", b"one")])
        return subscription

    ended = loop.run_until_complete(live())
    threads_only.sync.publish("other", b"")
    wait_until(lambda: len(notes.lines) == 4)
    assert notes.lines[1:] == [("disconnect", LinkLost), ("active", b"one"), ("gap",)]
    assert notes.gaps[0].reason == "its event loop stopped"
    assert ended.closed
    assert broker.accepted == 2
    assert "stopped without ending its tasks" in caplog.text
    end_all(loop)
    loop.close()


def end_all(loop: asyncio.AbstractEventLoop) -> None:
    """End the tasks of a loop, as `asyncio.run` does."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


# Refusals


async def test_refusal_is_raised_once(make_redis: Callable[..., RedisServer]) -> None:
    """To whoever waits for the activation, or asks for it next; it does not haunt later ones."""
    server = make_redis(users=["alice on >secret ~* resetchannels &ok* +@all"])
    notes = Notes()
    async with Multiplexer(server.url_for("alice", "secret"), **QUICK) as mux:
        subscription = notes.channels(mux)
        subscription.add("forbidden")
        with pytest.raises(CommandRefused, match="NOPERM"):
            await subscription.activated(5)
        assert subscription.channels == ()
        subscription.add("ok")
        await subscription.activated(5)
        for name in ("forbidden", "worse", "ok2"):
            subscription.add(name)
        await eventually(lambda: len(notes.lines) == 5)
        with pytest.raises(CommandRefused, match="NOPERM"):
            await subscription.activated(5)
        await subscription.activated(5)
        assert subscription.channels == (b"ok", b"ok2")
        subscription.add("forbidden")
        await eventually(lambda: len(notes.lines) == 6)
        subscription.remove("forbidden")
        await subscription.activated(5)
        with pytest.raises(CommandRefused):
            async with mux.new_pattern_subscription("no*") as pattern:
                raise AssertionError(pattern)
        assert mux.statistics().wanted == 2


def test_refusal_is_told_in_the_background(make_redis: Callable[..., RedisServer]) -> None:
    """A subscription without a loop hears of it although it was never active."""
    server = make_redis(users=["alice on >secret ~* resetchannels &ok* +@all"])
    notes = Notes()
    mux = Multiplexer(server.url_for("alice", "secret"), **QUICK)
    notes.channels(mux).add("forbidden")
    wait_until(lambda: notes.lines == [("disconnect", CommandRefused)])
    mux.close()


@pytest.fixture
def threads_only(broker: MemorySite) -> Iterator[Multiplexer]:
    """A multiplexer for a test without an event loop."""
    mux = Multiplexer(broker.url, **QUICK)
    yield mux
    mux.close()


def wait_until(predicate: Callable[[], bool]) -> None:
    """Wait for something from a thread without a loop."""
    asyncio.run(eventually(predicate))


def test_subscription_without_a_loop_is_called_in_the_background(
    threads_only: Multiplexer,
) -> None:
    """Made where no loop runs, its callbacks run at home, wherever that is."""
    got: list[tuple[bytes, str]] = []

    def on_message(channel: bytes, payload: bytes) -> None:
        got.append((payload, threading.current_thread().name))

    subscription = threads_only.new_channel_subscription(on_message)
    assert subscription._tie.loop is None
    subscription.add("one")
    wait_until(lambda: threads_only.statistics().active == 1)
    assert asyncio.run(threads_only.publish("one", b"1")) == 1
    wait_until(lambda: len(got) == 1)
    payload, name = got[0]
    assert payload == b"1"
    assert name.endswith(".home")
    second = threads_only.new_channel_subscription(on_message)
    second.add("one")
    asyncio.run(threads_only.publish("one", b"2"))
    wait_until(lambda: len(got) == 3)
    subscription.remove("one")
    second.close()
    wait_until(lambda: threads_only.statistics().active == 0)
    subscription.close()


def test_closing_before_anything_was_connected_is_enough(broker: MemorySite) -> None:
    """A subscription without channels has nothing to give back."""
    mux = Multiplexer(broker.url)
    subscription = mux.new_channel_subscription(print)
    subscription.close()
    assert subscription.closed
    assert mux.statistics().state == "idle"
    mux.close()


@pytest.mark.parametrize("is_home", [True, False])
def test_loop_that_ends_closes_its_subscriptions(broker: MemorySite, is_home: bool) -> None:
    """Those of an ended loop are closed: at once if it was home, after a tick if it was not.

    Those without a loop go on in the background.
    """
    layer = MultiplexedChannelLayer(hosts=[broker.url], **QUICK, expiry=60 if is_home else 0.2)
    mux = layer.multiplexer
    outer, inner = Notes(), Notes()
    lasting = outer.channels(mux)
    if not is_home:
        lasting.add("one")
        wait_until(lambda: len(outer.lines) == 1)

    async def live() -> ChannelSubscription:
        subscription = inner.channels(mux)
        subscription.add("one")
        await eventually(lambda: len(inner.lines) == 1)
        await asyncio.to_thread(lasting.add, "one")
        await eventually(lambda: len(outer.lines) == 1)
        return subscription

    ended = asyncio.run(live())
    if not is_home:
        wait_until(lambda: ended.closed)
    assert ended.closed
    assert not lasting.closed
    wait_until(lambda: mux.statistics().active == 1)
    assert asyncio.run(mux.publish("one", b"1")) == 1
    wait_until(lambda: (b"one", b"1") in outer.lines)
    assert (b"one", b"1") not in inner.lines
    with pytest.raises(SubscriptionIsClosed):
        ended.add("two")
    layer.sync.close()


def test_loop_that_ends_alone_leaves_nothing(threads_only: Multiplexer) -> None:
    """When the last subscription's loop has ended, nothing is wanted and nothing runs."""

    async def live() -> ChannelSubscription:
        subscription = Notes().channels(threads_only)
        subscription.add("one")
        await eventually(lambda: threads_only.statistics().active == 1)
        return subscription

    ended = asyncio.run(live())
    assert ended.closed
    assert threads_only.statistics().wanted == 0
    assert threads_only.statistics().state == "idle"
    ended.close()


def test_callbacks_go_on_elsewhere_while_the_last_one_still_ends(
    threads_only: Multiplexer,
) -> None:
    """A callback that is slow to end with its loop does not keep the others from the next home."""
    got: list[bytes] = []
    begun = threading.Event()

    async def on_message(channel: bytes, payload: bytes) -> None:
        got.append(payload)
        if payload == b"slow":
            begun.set()
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.3)

    lasting = threads_only.new_channel_subscription(on_message)

    async def live() -> None:
        keeper = Notes().channels(threads_only)
        keeper.add("other")
        await eventually(lambda: threads_only.statistics().active == 1)
        await asyncio.to_thread(lasting.add, "one")
        await eventually(lambda: threads_only.statistics().active == 2)
        await threads_only.publish("one", b"slow")
        await eventually(begun.is_set)

    asyncio.run(live())
    wait_until(lambda: threads_only.statistics().active == 1)
    asyncio.run(threads_only.publish("one", b"after"))
    wait_until(lambda: got == [b"slow", b"after"])
    lasting.close()


def test_wish_is_not_lost_with_the_home_that_it_was_posted_to(threads_only: Multiplexer) -> None:
    """What another thread wants while home is ending is wanted at the next one."""
    notes = Notes()
    lasting = notes.channels(threads_only)

    async def live() -> None:
        keeper = Notes().channels(threads_only)
        keeper.add("other")
        await eventually(lambda: threads_only.statistics().active == 1)
        # The job waits, since this loop is blocked, and is refused with all that wait.
        thread = threading.Thread(target=lasting.add, args=("one",))
        thread.start()
        thread.join()
        home = threads_only._hub._residence.current
        assert home is not None
        home.courier.close()

    asyncio.run(live())
    wait_until(lambda: ("active", b"one") in notes.lines)


def while_home_ends(mux: Multiplexer, monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Have a thread do something at the last moment of the home on this loop."""
    life = mux._hub.life
    assert life is not None
    end = life.end

    def end_and_act() -> None:
        end()
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()

    monkeypatch.setattr(life, "end", end_and_act)


def test_wish_of_the_last_moment(
    threads_only: Multiplexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is posted to a home that is over, and does not know it yet, is not lost."""
    lasting = threads_only.new_channel_subscription()

    async def live() -> None:
        keeper = threads_only.new_channel_subscription()
        keeper.add("other")
        await keeper.activated(5)
        while_home_ends(threads_only, monkeypatch, lambda: lasting.add("one"))

    asyncio.run(live())
    wait_until(lambda: threads_only.statistics().active == 1)
    assert threads_only.sync.publish("one", b"1") == 1
    assert lasting.sync.get_message(5) is not None


def test_wish_that_home_hears_of_too_late(broker: MemorySite) -> None:
    """A subscription that is closed by then wants nothing any more."""
    mux = Multiplexer(broker.url)
    subscription = mux.new_pattern_subscription("a*")
    subscription.close()
    subscription._begin(subscription._topic)
    wait_until(lambda: not mux.statistics().wanted)
    mux.close()


def test_wishes_survive_any_number_of_short_homes(threads_only: Multiplexer) -> None:
    """A thread that adds channels while homes come and go gets all of them."""
    lasting = threads_only.new_channel_subscription()
    names = [b"%d" % number for number in range(200)]

    def add() -> None:
        for name in names:
            lasting.add(name)

    async def live() -> None:
        keeper = Notes().channels(threads_only)
        keeper.add("other")
        await keeper.activated(5)

    thread = threading.Thread(target=add)
    thread.start()
    while thread.is_alive():
        asyncio.run(live())
    thread.join()
    lasting.sync.activated(10)
    assert lasting.channels == tuple(names)
    assert len(threads_only._hub.wishes_of(lasting._ear)) == len(names)
    lasting.close()


# Without callbacks


async def test_subscription_can_be_iterated(mux: Multiplexer) -> None:
    """Each message once, in order, with its pattern, until it is closed."""
    async with mux.new_pattern_subscription("room.*") as rooms:
        for number in range(3):
            await mux.publish(f"room.{number}", b"%d" % number)
        got = []
        async for message in rooms:
            got.append(message)
            if len(got) == 3:
                rooms.close()
    names = [b"room.0", b"room.1", b"room.2"]
    assert got == [PubSubMessage(b"room.*", name, name[-1:]) for name in names]
    assert rooms.delivered == 3


# Handlers of single channels


async def test_handler_gets_its_channel_and_nobody_else(mux: Multiplexer) -> None:
    """The others go to the callback; a channel that is added again keeps its handler."""
    notes, own = Notes(), Notes()
    subscription = notes.channels(mux)
    subscription.add("one", own.on_message)
    subscription.add("one")
    subscription.add("two")
    await subscription.activated(5)
    for name in ("one", "two"):
        await mux.publish(name, b"1")
    await eventually(lambda: (b"two", b"1") in notes.lines)
    assert own.lines == [(b"one", b"1")]
    assert (b"one", b"1") not in notes.lines
    subscription.add("two", own.on_message)
    await mux.publish("two", b"2")
    await eventually(lambda: own.lines[1:] == [(b"two", b"2")])
    assert subscription.delivered == 3


async def test_handlers_survive_a_reconnection(site: Site, mux: Multiplexer) -> None:
    """The channel comes back, and its handler with it."""
    notes, own = Notes(), Notes()
    subscription = notes.watchful(mux)
    subscription.add("one", own.on_message)
    await subscription.activated(5)
    site.cut()
    await eventually(lambda: len(notes.gaps) == 1)
    await mux.publish("one", b"1")
    await eventually(lambda: own.lines == [(b"one", b"1")])
    assert (b"one", b"1") not in notes.lines


async def test_removed_channel_is_silent_at_once(mux: Multiplexer) -> None:
    """What waits is dropped too: neither its handler nor anybody else gets it."""
    notes, own = Notes(), Notes()
    subscription = notes.channels(mux)
    subscription.add("one", own.on_message)
    subscription.add("two")
    await subscription.activated(5)
    await eventually(lambda: len(notes.lines) == 2)

    async def on_three(channel: bytes, payload: bytes) -> None:
        subscription.remove("one")
        subscription.remove("two")

    subscription.add("three", on_three)
    await subscription.activated(5)
    await eventually(lambda: len(notes.lines) == 3)
    await asyncio.gather(*(mux.publish(name, b"1") for name in ("three", "one", "two")))
    await eventually(lambda: mux.statistics().received == 3 and not subscription.waiting)
    assert own.lines == []
    assert len(notes.lines) == 3
    assert subscription.delivered == 1


async def test_removal_before_the_acknowledgement(site: Site, mux: Multiplexer) -> None:
    """Who changes his mind leaves nothing, whether or not anybody waits for the activation."""
    subscription = mux.new_channel_subscription()
    for name in ("one", "two", "three"):
        subscription.add(name)
    waiting = asyncio.create_task(subscription.activated())
    subscription.remove("three")
    await asyncio.sleep(0)
    subscription.remove("two")
    await asyncio.wait_for(waiting, 5)
    subscription.remove("one")
    await subscription.activated(5)
    for name in (b"one", b"two", b"three"):
        await eventually(lambda name=name: subscribers(site, name) == 0)  # type: ignore[misc]
    assert mux.statistics().wanted == 0


# Overflow


async def flood(mux: Multiplexer, channel: str, count: int) -> None:
    """Publish numbers from 0, and return when they have arrived."""
    before = mux.statistics().received
    for number in range(count):
        await mux.publish(channel, b"%d" % number)
    await eventually(lambda: mux.statistics().received >= before + count)


async def test_drop_oldest_keeps_the_newest(
    mux: Multiplexer, caplog: pytest.LogCaptureFixture
) -> None:
    """What has waited longest is dropped, counted, and logged once per episode."""
    subscription = mux.new_channel_subscription(capacity=3, overflow="drop_oldest")
    subscription.add("one")
    await subscription.activated(5)
    await flood(mux, "one", 10)
    assert (subscription.waiting, subscription.dropped, subscription.delivered) == (3, 7, 0)
    got = [await subscription.get_message(0) for _ in range(3)]
    assert [message.payload for message in got if message] == [b"7", b"8", b"9"]
    assert caplog.text.count("is full: dropping messages") == 1
    assert caplog.text.count("has caught up; 7 messages were dropped") == 1


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "close"])
async def test_notices_take_no_room_from_messages(mux: Multiplexer, overflow: str) -> None:
    """A mailbox for one message holds one, whatever else there is to tell."""
    notes = Notes()
    subscription = mux.new_channel_subscription(
        on_activation=notes.on_activation, capacity=1, overflow=overflow
    )
    for name in ("one", "two"):
        subscription.add(name)
    await subscription.activated(5)
    for _ in range(2):
        await flood(mux, "one", 1)
        assert subscription.dropped == 0
        assert not subscription.closed
        message = await subscription.get_message(0)
        assert message is not None
    assert len(notes.lines) == 2
    await flood(mux, "one", 2)
    assert subscription.dropped == 1


async def test_overflow_by_bytes(mux: Multiplexer) -> None:
    """Channels and payloads are counted, and one message always fits."""
    subscription = mux.new_channel_subscription(max_bytes=100)
    subscription.add("one")
    await subscription.activated(5)
    await mux.publish("one", b"x" * 1000)
    await mux.publish("one", b"y")
    await eventually(lambda: subscription.dropped == 1)
    message = await subscription.get_message(0)
    assert message is not None
    assert message.payload == b"x" * 1000


async def test_overflow_that_closes(site: Site, mux: Multiplexer) -> None:
    """Whoever reads gets what waited, without a hole, and then the reason; others go on."""
    strict = mux.new_channel_subscription(capacity=3, overflow="close")
    patient = mux.new_channel_subscription()
    for subscription in (strict, patient):
        subscription.add("one")
        await subscription.activated(5)
    waiting = asyncio.create_task(strict.activated())
    await waiting
    await flood(mux, "one", 10)
    await eventually(lambda: strict.closed)
    assert strict.dropped == 1
    got = [await strict.get_message(0) for _ in range(3)]
    with pytest.raises(SubscriptionOverflow, match="because 3 messages waited") as caught:
        [message async for message in strict]
    assert isinstance(caught.value, SubscriptionIsClosed)
    assert [message.payload for message in got if message] == [b"0", b"1", b"2"]
    with pytest.raises(SubscriptionOverflow):
        await strict.get_message(0)
    with pytest.raises(SubscriptionIsClosed):
        strict.add("two")
    assert patient.waiting == 10
    assert mux.statistics().epoch == 1
    assert subscribers(site, b"one") == 1
    patient.close()
    await eventually(lambda: subscribers(site, b"one") == 0)


async def test_overflow_that_closes_is_told_to_on_disconnect(mux: Multiplexer) -> None:
    """Callbacks get what waited and then the reason; close() in between stops even that."""
    for is_closed_early in (False, True):
        gate, got, errors = asyncio.Event(), [], []

        async def on_message(
            channel: bytes,
            payload: bytes,
            gate: asyncio.Event = gate,
            got: list[bytes] = got,
        ) -> None:
            await gate.wait()
            got.append(payload)

        subscription = mux.new_channel_subscription(
            on_message, errors.append, capacity=2, overflow="close"
        )
        subscription.add("one")
        await subscription.activated(5)
        await flood(mux, "one", 5)
        await eventually(lambda subscription=subscription: subscription.closed)  # type: ignore[misc]
        if is_closed_early:
            subscription.close()
        gate.set()
        if not is_closed_early:
            await eventually(lambda errors=errors: len(errors) == 1)  # type: ignore[misc]
            assert isinstance(errors[0], SubscriptionOverflow)
            assert got == [b"0", b"1", b"2"]
        assert subscription.waiting == 0
        task = subscription._reader._task
        assert task is not None
        await asyncio.wait([task], timeout=5)
        assert task.done()
        assert len(got) == (0 if is_closed_early else 3)


# Ends


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


# Bad input


@pytest.mark.parametrize("callback", ["print", 7, b"", object(), ...])
@pytest.mark.parametrize("name", ["on_message", "on_disconnect", "on_activation", "on_gap"])
def test_callbacks_must_be_callable(broker: MemorySite, name: str, callback: Any) -> None:
    """What cannot be called is refused where it is given, and says its name."""
    mux = Multiplexer(broker.url)
    with pytest.raises(NotCallable, match=f"^{name} must be something that can be called"):
        mux.new_channel_subscription(**{name: callback})
    with pytest.raises(NotCallable, match=name) as caught:
        mux.new_pattern_subscription("a*", **{name: callback})
    assert isinstance(caught.value, TypeError)
    with pytest.raises(NotCallable, match="on_message"):
        mux.new_channel_subscription().add("one", callback)
    gc.collect()
    assert repr(mux._registry) == "<Registry 0>"
    assert mux.statistics().state == "idle"


@pytest.mark.parametrize("name", [None, "", b"", 7, 1.5, object, bytearray(b"one"), ["one"]])
def test_names_must_be_names(broker: MemorySite, name: Any) -> None:
    """What is no text and no bytes, or empty, is refused where it is given."""
    mux = Multiplexer(broker.url)
    subscription = mux.new_channel_subscription()
    for verb in (subscription.add, subscription.remove, mux.new_pattern_subscription):
        with pytest.raises(InvalidName, match="is not a name that can be used here") as caught:
            verb(name)
        assert repr(name) in str(caught.value)
    assert subscription.channels == ()
    assert mux.statistics().state == "idle"


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "10", float("inf")])
@pytest.mark.parametrize("name", ["capacity", "max_bytes"])
def test_bounds_must_be_whole_numbers(broker: MemorySite, name: str, value: Any) -> None:
    """A mailbox holds at least one message; no bound at all is no bound."""
    mux = Multiplexer(broker.url)
    with pytest.raises(InvalidArgument, match=f"^{name} must be a positive whole number, not"):
        mux.new_channel_subscription(**{name: value})
    with pytest.raises(InvalidArgument, match=name):
        mux.new_pattern_subscription("a*", **{name: value})
    assert mux.statistics().state == "idle"


@pytest.mark.parametrize("value", ["", "drop", None, 7, ["close"], {}])
def test_overflow_must_be_one_of_three(broker: MemorySite, value: Any) -> None:
    """The error lists what there is."""
    mux = Multiplexer(broker.url)
    with pytest.raises(ConfigurationError, match="'drop_newest', 'drop_oldest', 'close', not"):
        mux.new_channel_subscription(overflow=value)
    assert mux.statistics().state == "idle"


async def test_own_prefix_is_reserved(mux: Multiplexer) -> None:
    """Neither channels nor patterns under it; a wider pattern gets nothing from under it."""
    subscription = mux.new_channel_subscription()
    for name in ("mpx:", "mpx:group:room", b"mpx:inbox:x"):
        with pytest.raises(ReservedName, match="layer's own prefix 'mpx'"):
            subscription.add(name)
    for name in ("mpx:*", "mpx:group:?", b"mpx:"):
        with pytest.raises(ReservedName):
            mux.new_pattern_subscription(name)
    assert subscription.channels == ()
    assert mux.statistics().wanted == 0
    async with mux.new_pattern_subscription("*") as everything:
        assert await mux.publish("mpx:group:room", b"secret") == 1
        assert await mux.publish("mpxer", b"2") == 1
        message = await everything.get_message(5)
        assert message == PubSubMessage(b"*", b"mpxer", b"2")


async def test_use_after_close(mux: Multiplexer) -> None:
    """One error for all of it; iterating ends at once, and closing again is nothing."""
    called = mux.new_channel_subscription(print)
    with pytest.raises(SubscriptionHasCallback, match="go to its on_message"):
        await called.get_message(0)
    for subscription in (mux.new_channel_subscription(), mux.new_pattern_subscription("a*")):
        subscription.close()
        for waiting in (subscription.get_message(), subscription.activated()):
            with pytest.raises(SubscriptionIsClosed, match="is closed; make a new one"):
                await waiting
        with pytest.raises(SubscriptionIsClosed):
            async with subscription:
                raise AssertionError("entered")
        assert [message async for message in subscription] == []
        subscription.close()
        assert subscription.closed
    closed = mux.new_channel_subscription()
    closed.close()
    with pytest.raises(SubscriptionIsClosed):
        closed.clear()
    with pytest.raises(SubscriptionIsClosed):
        closed.remove("one")


async def test_context_that_is_not_entered_closes(broker: MemorySite) -> None:
    """Who does not get an active subscription gets a closed one."""
    async with Multiplexer(broker.url, **{**QUICK, "timeout": 0.05}) as mux:
        with broker.down():
            subscription = mux.new_pattern_subscription("a*")
            with pytest.raises(NotConfirmed, match="PatternSubscription b'a"):
                await subscription.__aenter__()
        assert subscription.closed
    async with Multiplexer(broker.url, **QUICK) as mux:
        async with mux.new_pattern_subscription("a*") as subscription:
            assert not subscription.closed
        assert subscription.closed
