"""Subscriptions tell their callbacks everything, in order, and nobody waits for anybody else's."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from channels_mpx import (
    CommandRefused,
    ConnectionInterrupted,
    Multiplexer,
    PatternSubscription,
    ReservedName,
    SubscriptionIsClosed,
    reading,
)
from tests.helpers import eventually
from tests.layers import QUICK
from tests.servers import RedisServer
from tests.sites import Site
from tests.unit.notes import Notes


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
    assert caplog.text.count("is full; dropping messages") == 1


async def test_disconnect_and_activation_are_told_in_order(site: Site, mux: Multiplexer) -> None:
    """A lost link is told once, then each channel's activation, and messages only after that."""
    notes = Notes()
    silent: list[bytes] = []
    mux.new_channel_subscription(lambda channel, payload: silent.append(payload)).add("one")
    both = [("active", b"one"), ("active", b"two")]
    notes.watchful(mux, "one", "two")
    await notes.until(*both)
    site.cut()
    lines = [*both, ("disconnect", ConnectionInterrupted), *both, ("gap",)]
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
