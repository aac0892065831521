"""Reading: messages come once each and in order, however readers come, wait, and give up."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from channels_mpx import (
    ConfigurationError,
    ConnectionInterrupted,
    Gap,
    InvalidArgument,
    InvalidTimeout,
    Multiplexer,
    PubSubMessage,
    SubscriptionIsClosed,
)
from channels_mpx.callbacks import Callbacks, OnMessage
from channels_mpx.mailbox import Mailbox
from channels_mpx.policies import Overflow
from channels_mpx.reading import AT_ONCE, Bounds, Reader
from channels_mpx.reception import Notice
from channels_mpx.statistics import Tally
from tests.helpers import eventually
from tests.sites import Site


class Owner:
    """A subscription."""

    def overflowed(self, mailbox: Mailbox) -> None:
        """See `Observer.overflowed`."""

    def relieved(self, mailbox: Mailbox, dropped: int) -> None:
        """See `Observer.relieved`."""

    def __repr__(self) -> str:
        return "<Owner>"


class Desk:
    """A reader and what it reads from."""

    def __init__(
        self, handlers: dict[bytes, OnMessage | None] | None = None, **callbacks: Any
    ) -> None:
        owner = Owner()
        self.mailbox = Bounds().mailbox("desk", Tally(), owner)
        self.taken: list[Notice] = []
        self.reader = Reader(
            owner, self.mailbox, Callbacks(**callbacks), self.taken.append, handlers
        )

    def put(self, *payloads: bytes, channel: bytes = b"one") -> None:
        for payload in payloads:
            self.mailbox.put(PubSubMessage(None, channel, payload, time.monotonic()))

    async def next(self, timeout: float | None = 5) -> bytes | None:
        message = await self.reader.next(timeout)
        return message.payload if message is not None else None


# Waiting for one


async def test_next_waits_as_long_as_it_may() -> None:
    """0 does not wait, None waits as long as it takes, anything else until then."""
    desk, loop = Desk(), asyncio.get_running_loop()
    for timeout in (0, 0.0, 0.01):
        assert await desk.next(timeout) is None
    desk.put(b"1", b"2")
    assert await desk.next(0) == b"1"
    assert await desk.next(None) == b"2"
    for timeout in (None, 5):
        loop.call_later(0.01, desk.put, b"3")
        assert await desk.next(timeout) == b"3"
    assert desk.reader.delivered == 4
    assert desk.mailbox.taken == 4
    assert not desk.mailbox.is_awaited


async def test_each_message_goes_to_one_of_several_readers() -> None:
    """In the order in which they came to wait."""
    desk = Desk()
    readers = [asyncio.create_task(desk.next()) for _ in range(3)]
    await asyncio.sleep(0)
    desk.put(b"1", b"2", b"3")
    assert await asyncio.gather(*readers) == [b"1", b"2", b"3"]


async def test_reader_that_was_woken_in_vain_waits_on() -> None:
    """Somebody else was quicker; its time goes on."""
    desk = Desk()
    reader, hurried = asyncio.create_task(desk.next(None)), asyncio.create_task(desk.next(0.02))
    await asyncio.sleep(0)
    for _ in range(2):
        desk.mailbox._wake()
    assert await hurried is None
    desk.put(b"1")
    assert await reader == b"1"
    reader = asyncio.create_task(desk.next(None))
    await asyncio.sleep(0)
    thread = threading.Thread(target=desk.put, args=(b"2",))
    thread.start()
    thread.join()
    assert await reader == b"2"


async def test_cancelling_loses_nothing() -> None:
    """A message that was in the hands of who gave up goes to the next one, in its place."""
    desk = Desk()
    reader = asyncio.create_task(desk.next())
    await asyncio.sleep(0)
    desk.put(b"1", b"2")
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert [await desk.next(0), await desk.next(0), await desk.next(0)] == [b"1", b"2", None]
    assert desk.reader.delivered == 2


async def test_what_several_had_in_hand_goes_back_in_order(mux: Multiplexer) -> None:
    """However many give up at once."""
    async with mux.new_pattern_subscription("num*") as numbers:
        readers = [asyncio.create_task(numbers.get_message()) for _ in range(3)]
        await eventually(lambda: len(numbers._mailbox._waiters) == 3)
        for number in range(5):
            numbers._ear.deliver(numbers._topic, b"number", b"%d" % number)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        got = [await numbers.get_message(0) for _ in range(5)]
        assert [message.payload for message in got if message] == [b"0", b"1", b"2", b"3", b"4"]


async def test_many_short_waits_lose_nothing(mux: Multiplexer) -> None:
    """With timeouts of every kind, several readers, and a publisher that does not wait."""
    count = 300
    got: list[bytes] = []
    async with mux.new_pattern_subscription("num*") as numbers:

        async def read(timeout: float, patience: float) -> None:
            while len(got) < count:
                try:
                    message = await asyncio.wait_for(numbers.get_message(timeout), patience)
                except asyncio.TimeoutError:
                    continue
                if message is not None:
                    got.append(message.payload)

        readers = [read(0, 5), read(0.0003, 5), read(5, 0.0003), read(0.0002, 0.0002)]
        publishing = [mux.publish("number", b"%d" % number) for number in range(count)]
        await asyncio.wait_for(asyncio.gather(*readers, *publishing), 30)
        assert sorted(got, key=int) == [b"%d" % number for number in range(count)]
        assert numbers.delivered == count


async def test_readers_on_other_loops(mux: Multiplexer) -> None:
    """Each message goes to one of them, whatever loop and thread it waits on."""
    count = 200
    got: list[bytes] = []
    async with mux.new_channel_subscription() as subscription:
        subscription.add("one")
        await subscription.activated(5)

        async def read() -> None:
            while len(got) < count:
                message = await subscription.get_message(0.05)
                if message is not None:
                    got.append(message.payload)

        threads = [asyncio.to_thread(asyncio.run, read()) for _ in range(2)]
        publishing = (mux.publish("one", b"%d" % number) for number in range(count))
        await asyncio.wait_for(asyncio.gather(read(), *threads, *publishing), 30)
    assert sorted(got, key=int) == [b"%d" % number for number in range(count)]


async def test_backlog_lets_the_loop_have_its_turn() -> None:
    """Whoever reads what waits already does not keep everybody else from running."""
    desk = Desk()
    desk.put(*[b"%d" % number for number in range(5 * AT_ONCE)])
    turns = itertools.count()
    turn, loop = [0], asyncio.get_running_loop()

    def tick() -> None:
        turn[0] = next(turns)
        loop.call_soon(tick)

    tick()
    seen = set()
    for number in range(5 * AT_ONCE):
        assert await desk.next() == b"%d" % number
        seen.add(turn[0])
    assert len(seen) == 5


@pytest.mark.parametrize("timeout", [-1, -0.0001, float("nan"), "1", b"1", True, False, [], {}])
async def test_timeouts_must_be_seconds(mux: Multiplexer, timeout: Any) -> None:
    """Or None; a flag is no number of seconds."""
    subscription = mux.new_channel_subscription()
    for verb in (subscription.get_message, subscription.activated):
        with pytest.raises(InvalidTimeout, match="timeout must be a number of seconds") as caught:
            await verb(timeout)
        assert repr(timeout) in str(caught.value)
    assert mux.statistics().state == "idle"


# Handlers and notices


async def test_handlers_are_called_while_somebody_reads() -> None:
    """One at a time, in order; what nobody handles is returned, what was removed is dropped."""
    got: list[bytes] = []

    async def handle(channel: bytes, payload: bytes) -> None:
        await asyncio.sleep(0)
        got.append(payload)

    handlers: dict[bytes, OnMessage | None] = {b"one": handle, b"two": None, b"gone": handle}
    desk = Desk(handlers)
    desk.put(b"0", channel=b"gone")
    desk.put(b"1", b"2")
    desk.put(b"3", channel=b"two")
    desk.put(b"4")
    del handlers[b"gone"]
    assert got == []
    assert await desk.next() == b"3"
    assert got == [b"1", b"2"]
    assert await desk.next(0) is None
    assert got == [b"1", b"2", b"4"]
    assert desk.reader.delivered == 4


async def test_notices_are_told_while_somebody_reads(site: Site, mux: Multiplexer) -> None:
    """A subscription without ``on_message`` may have the other callbacks."""
    told: list[Any] = []
    async with mux.new_pattern_subscription(
        "a*", None, told.append, told.append, on_gap=told.append
    ) as subscription:
        assert await subscription.get_message(0) is None
        site.cut()
        await eventually(lambda: subscription.waiting == 3)
        await mux.publish("ab", b"1")
        message = await subscription.get_message(5)
        assert message is not None
        assert message.payload == b"1"
    assert [type(item) for item in told] == [bytes, ConnectionInterrupted, bytes, Gap]


async def test_notice_without_a_callback() -> None:
    """It is taken, and nobody is told."""
    desk = Desk()
    notice = Notice("on_gap", None)
    desk.mailbox.force(notice)
    assert await desk.next(0) is None
    assert desk.taken == [notice]


async def test_end_comes_after_what_waits() -> None:
    """Then everybody who reads raises why, also if the callback for it never returns."""
    told: list[Exception] = []

    async def on_disconnect(error: Exception) -> None:
        told.append(error)
        await asyncio.Event().wait()

    desk = Desk(on_disconnect=on_disconnect)
    error = SubscriptionIsClosed(what="this")
    desk.put(b"1")
    desk.mailbox.force(Notice("on_end", error))
    assert await desk.next() == b"1"
    waiting = asyncio.create_task(desk.next())
    await eventually(lambda: told == [error])
    with pytest.raises(SubscriptionIsClosed):
        await desk.next()
    waiting.cancel()


# Callbacks


async def test_callbacks_are_called_in_a_task_of_their_own() -> None:
    """Begun once; ended for good by `end`, which may come from a callback."""
    got: list[bytes] = []

    def on_message(channel: bytes, payload: bytes) -> None:
        got.append(payload)
        if payload == b"2":
            desk.reader.end(SubscriptionIsClosed(what="this"))

    desk = Desk(on_message=on_message)
    assert desk.reader.has_callback
    desk.reader.begin()
    task = desk.reader._task
    desk.reader.begin()
    assert desk.reader._task is task
    desk.put(b"1", b"2", b"3")
    assert task is not None
    await asyncio.wait_for(task, 5)
    assert got == [b"1", b"2"]
    desk.reader.begin()
    assert desk.reader._task is task
    desk.put(b"4")
    assert not desk.mailbox


async def test_reader_without_callbacks_has_no_task() -> None:
    """There is nothing to begin, and ending it is closing its mailbox."""
    desk = Desk()
    desk.reader.begin()
    assert desk.reader._task is None
    assert not desk.reader.has_callback
    desk.reader.end(SubscriptionIsClosed(what="this"))
    with pytest.raises(SubscriptionIsClosed):
        await desk.next()


async def test_ending_cancels_the_callback_that_waits() -> None:
    """From any task and any thread; the task of the callbacks ends without an error."""

    async def on_message(channel: bytes, payload: bytes) -> None:
        await asyncio.Event().wait()

    async def end_here(desk: Desk) -> None:
        desk.reader.end(SubscriptionIsClosed(what="this"))

    async def end_elsewhere(desk: Desk) -> None:
        await asyncio.to_thread(desk.reader.end, SubscriptionIsClosed(what="this"))

    for end in (end_here, end_elsewhere):
        for payloads in ([b"1"], []):
            desk = Desk(on_message=on_message)
            desk.reader.begin()
            desk.put(*payloads)
            task = desk.reader._task
            assert task is not None
            await asyncio.sleep(0)
            await end(desk)
            await asyncio.wait([task], timeout=5)
            assert task.done()
            assert task.cancelled() or task.exception() is None


async def test_callbacks_of_a_closed_mailbox_end() -> None:
    """Another thread may close it just before they wait, and cancel a moment later."""
    desk = Desk(on_message=print)
    desk.mailbox.close(SubscriptionIsClosed(what="this"))
    desk.reader.begin()
    task = desk.reader._task
    assert task is not None
    await asyncio.wait_for(task, 5)


def test_ending_what_has_ended_with_its_loop() -> None:
    """A loop that was closed takes no cancellation, and needs none."""
    loop = asyncio.new_event_loop()

    async def begin() -> Desk:
        desk = Desk(on_message=print)
        desk.reader.begin()
        return desk

    desk = loop.run_until_complete(begin())
    task = desk.reader._task
    assert task is not None
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
    desk.reader.end(SubscriptionIsClosed(what="this"))

    async def begin_again() -> None:
        desk.reader.begin()
        assert desk.reader._task is task

    asyncio.run(begin_again())


async def test_callbacks_follow_to_another_loop() -> None:
    """`begin` on another loop begins there."""
    got: list[tuple[bytes, str]] = []

    def on_message(channel: bytes, payload: bytes) -> None:
        got.append((payload, threading.current_thread().name))

    desk = Desk(on_message=on_message)

    async def elsewhere() -> None:
        desk.reader.begin()
        desk.put(b"1")
        await eventually(lambda: len(got) == 1)

    threading.current_thread().name = "here"
    await asyncio.to_thread(asyncio.run, elsewhere())
    desk.reader.begin()
    desk.put(b"2")
    await eventually(lambda: len(got) == 2)
    assert got[0][1] != "here"
    assert got[1] == (b"2", "here")
    desk.reader.end(SubscriptionIsClosed(what="this"))


async def test_callbacks_get_a_backlog_in_portions() -> None:
    """Notices and messages in their order, and the loop's other work in between."""
    told: list[bytes] = []
    turns = itertools.count()
    turn, loop = [0], asyncio.get_running_loop()
    seen = set()

    def tick() -> None:
        turn[0] = next(turns)
        loop.call_soon(tick)

    def on_message(channel: bytes, payload: bytes) -> None:
        told.append(payload)
        seen.add(turn[0])

    desk = Desk(on_message=on_message, on_activation=told.append)
    numbers = [b"%d" % number for number in range(5 * AT_ONCE)]
    desk.put(*numbers)
    desk.mailbox.force(Notice("on_activation", b"one"))
    desk.put(b"last")
    tick()
    desk.reader.begin()
    await eventually(lambda: len(told) == len(numbers) + 2)
    assert told == [*numbers, b"one", b"last"]
    assert len(seen) >= 5
    desk.reader.end(SubscriptionIsClosed(what="this"))


async def test_handlers_instead_of_the_callback() -> None:
    """A channel may have one of its own; one that was removed has none."""
    got: list[tuple[str, bytes]] = []

    def note(who: str) -> Callable[[bytes, bytes], None]:
        return lambda channel, payload: got.append((who, payload))

    desk = Desk({b"one": None, b"two": note("own")}, on_message=note("all"))
    desk.reader.begin()
    for number, channel in enumerate([b"one", b"two", b"gone", b"one"]):
        desk.put(b"%d" % number, channel=channel)
    await eventually(lambda: len(got) == 3)
    assert got == [("all", b"0"), ("own", b"1"), ("all", b"3")]
    assert desk.reader.delivered == 3
    desk.reader.end(SubscriptionIsClosed(what="this"))


# Bounds


def test_bounds_make_a_mailbox() -> None:
    """With their numbers and their policy, by its name or itself."""
    for overflow in ("drop_oldest", Overflow.DROP_OLDEST):
        mailbox = Bounds(3, 10, overflow).mailbox("desk", Tally(), Owner())
        assert (mailbox.capacity, mailbox.max_bytes) == (3, 10)
        assert mailbox.policy is Overflow.DROP_OLDEST
    with pytest.raises(InvalidArgument, match="capacity must be a positive whole number, not 0"):
        Bounds(0)
    with pytest.raises(InvalidArgument, match="max_bytes"):
        Bounds(1, True)
    with pytest.raises(ConfigurationError, match="overflow must be one of"):
        Bounds(overflow="spill")
