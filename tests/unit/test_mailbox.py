"""Mailboxes: bounded, first in first out, never lossy in silence, safe between threads."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from channels_mpx.mailbox import Item, Mailbox
from channels_mpx.policies import Overflow
from channels_mpx.statistics import Tally
from tests.helpers import eventually

EXPIRY = 500.0


class Letter:
    """A message; ``age`` is for how many seconds it has waited already."""

    def __init__(self, text: str = "", size: int = 1, age: float = 0.0) -> None:
        self.text = text
        self.size = size
        self.arrived = time.monotonic() - age

    def __repr__(self) -> str:
        return f"<Letter {self.text}>"


STALE = EXPIRY * 2


class Diary:
    """Writes down what a mailbox reports."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def overflowed(self, mailbox: Mailbox) -> None:
        self.lines.append("overflowed")

    def relieved(self, mailbox: Mailbox, dropped: int) -> None:
        self.lines.append(dropped)


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def make(tally: Tally, diary: Diary) -> Callable[..., Mailbox]:
    """A function that makes a mailbox for three messages of ten bytes in all."""

    def make(
        kind: type[Mailbox] = Mailbox,
        capacity: int = 3,
        policy: Overflow = Overflow.DROP_NEWEST,
    ) -> Mailbox:
        return kind("chat!1", capacity, 10, EXPIRY, tally, diary, policy)

    return make


@pytest.fixture
def box(make: Callable[..., Mailbox]) -> Mailbox:
    return make()


def fill(box: Mailbox, *texts: str) -> list[bool]:
    return [box.put(Letter(text)) for text in texts]


def texts(box: Mailbox) -> list[str]:
    """Take everything."""
    return [letter.text for letter in iter(box.take, None)]  # type: ignore[attr-defined]


async def start_reader(box: Mailbox) -> asyncio.Task[Item]:
    """Return a task that waits in `get`."""
    waiting = len(box._waiters)
    task = asyncio.create_task(box.get())
    await eventually(lambda: len(box._waiters) > waiting)
    return task


# Without waiting


def test_take_in_the_order_of_put(box: Mailbox) -> None:
    """First in, first out; then None."""
    assert fill(box, "a", "b", "c") == [True] * 3
    assert len(box) == 3
    assert texts(box) == ["a", "b", "c"]
    assert box.take() is None
    assert box.taken == 3


def test_take_from_a_mailbox_that_was_never_used(box: Mailbox) -> None:
    """A new mailbox is empty and costs no queue."""
    assert (len(box), box.take(), box.is_full, box.is_awaited, box.items) == (
        0, None, False, False, None,
    )  # fmt: skip


def test_put_into_a_full_mailbox(box: Mailbox, tally: Tally) -> None:
    """What does not fit is refused and counted; what waits stays."""
    assert fill(box, "a", "b") == [True, True]
    assert not box.is_full
    assert fill(box, "c", "d", "e") == [True, False, False]
    assert box.is_full
    assert repr(box) == "<Mailbox chat!1 3/3 dropped=2>"
    assert (box.dropped, tally.full) == (2, 2)
    assert texts(box) == ["a", "b", "c"]


def test_put_over_the_bound_in_bytes(box: Mailbox) -> None:
    """Bytes are bounded as well, and what was taken makes room again."""
    assert box.put(Letter(size=6))
    assert not box.put(Letter(size=5))
    assert box.put(Letter(size=4))
    assert box.take()
    assert not box.put(Letter(size=7))
    assert box.put(Letter(size=6))


def test_put_a_large_message_into_an_empty_mailbox(box: Mailbox) -> None:
    """One message always fits, however large; nothing fits beside it."""
    assert box.put(Letter(size=1000))
    assert not box.put(Letter())
    assert box.take()
    assert box.put(Letter(size=1000))


def test_take_what_has_expired(box: Mailbox, tally: Tally) -> None:
    """Messages that waited too long are dropped and counted, the next one is returned."""
    for letter in (Letter("a", age=STALE), Letter("b", age=STALE), Letter("c")):
        box.put(letter)
    assert texts(box) == ["c"]
    assert (tally.expired, box.taken, box.bytes_in - box.bytes_out) == (2, 1, 0)


def test_take_when_everything_has_expired(box: Mailbox, tally: Tally) -> None:
    """There is nothing left then."""
    box.put(Letter(age=STALE))
    assert box.take() is None
    assert (tally.expired, box.taken, len(box)) == (1, 0, 0)


def test_expire_drops_from_the_front_only(box: Mailbox, tally: Tally) -> None:
    """The sweep stops at the first message that is still good."""
    now = time.monotonic()
    box.expire(now)
    for letter in (Letter("a", age=STALE), Letter("b")):
        box.put(letter)
    box.expire(now)
    assert (len(box), tally.expired) == (1, 1)
    box.expire(now + STALE)
    assert (len(box), tally.expired) == (0, 2)


def test_clear_is_no_loss(box: Mailbox, tally: Tally) -> None:
    """Clearing returns how much it was, counts nothing as lost and frees the bytes."""
    assert box.clear() == 0
    box.put(Letter(size=10))
    assert box.clear() == 1
    assert (tally.expired, tally.full, len(box)) == (0, 0, 0)
    assert [box.put(Letter(size=5)) for _ in range(3)] == [True, True, False]


def test_take_old_messages_of_a_mailbox_without_expiry(tally: Tally, diary: Diary) -> None:
    """Where nothing expires, age does not matter."""
    box = Mailbox("chat!1", 3, 10, math.inf, tally, diary)
    box.put(Letter("a", age=STALE))
    box.expire(time.monotonic())
    assert texts(box) == ["a"]


# Idleness


def test_idle_grows_while_nobody_reads(box: Mailbox) -> None:
    """Neither time nor messages make a reader."""
    start = time.monotonic()
    box.put(Letter())
    assert box.idle(start + 100) == pytest.approx(100, abs=5)
    assert box.idle(start + 200) == pytest.approx(200, abs=5)


def test_idle_starts_anew_when_something_was_taken(box: Mailbox) -> None:
    """A message that was taken since the last look is a sign of a reader."""
    start = time.monotonic()
    fill(box, "a")
    box.take()
    assert box.idle(start + 100) == 0
    assert box.idle(start + 150) == 50


async def test_idle_is_nothing_while_somebody_waits(box: Mailbox) -> None:
    """A reader may wait for ever, and is counted from the last look on when it gives up."""
    start = time.monotonic()
    reader = await start_reader(box)
    assert box.idle(start + 100) == 0
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert box.idle(start + 150) == 50


async def test_idle_starts_anew_when_a_reader_got_something(box: Mailbox) -> None:
    """A message that went straight into a reader's hands counts as well."""
    reader = await start_reader(box)
    box.put(Letter())
    await reader
    assert box.taken == 1
    assert box.idle(time.monotonic() + 100) == 0


# Policies


def test_drop_the_oldest(make: Callable[..., Mailbox], tally: Tally, diary: Diary) -> None:
    """What has waited longest makes room, is counted, and reported once per episode."""
    box = make(policy=Overflow.DROP_OLDEST)
    assert fill(box, *"abcde") == [True] * 5
    assert (box.dropped, tally.full, len(box)) == (2, 2, 3)
    assert texts(box) == ["c", "d", "e"]
    assert diary.lines == ["overflowed", 2]
    assert box.bytes_in == box.bytes_out


def test_drop_as_many_of_the_oldest_as_it_takes(make: Callable[..., Mailbox]) -> None:
    """A large message takes the place of several; the largest fits when nothing is left."""
    box = make(policy=Overflow.DROP_OLDEST)
    for text in "abc":
        assert box.put(Letter(text, size=3))
    assert box.put(Letter("d", size=7))
    assert box.dropped == 2
    assert box.put(Letter("e", size=1000))
    assert (box.dropped, texts(box)) == (4, ["e"])


def test_drop_nothing_that_was_forced(make: Callable[..., Mailbox]) -> None:
    """The oldest message goes, not what is before it; if there is no message, the newest goes."""
    box = make(policy=Overflow.DROP_OLDEST)
    first, second = Notice(), Notice()
    box.force(first)
    fill(box, "a")
    box.force(second)
    assert fill(box, "b") == [True]
    taken = list(iter(box.take, None))
    assert taken[:2] == [first, second]
    assert taken[2].text == "b"  # type: ignore[attr-defined]
    for _ in range(3):
        box.force(Notice())
    assert fill(box, "c") == [False]
    assert (box.dropped, len(box)) == (2, 3)


class Raided(deque[Any]):
    """A queue from which another thread takes something at the worst moment."""

    is_raided = False

    def remove(self, item: Any) -> None:
        if not self.is_raided:
            self.is_raided = True
            super().remove(item)
        super().remove(item)


class Disturbed(deque[Any]):
    """A queue to which another thread does something while we look at it, and while we search it."""

    errors: list[Exception]

    def __iter__(self) -> Any:
        if self.errors and isinstance(self.errors[-1], RuntimeError):
            raise self.errors.pop()
        return super().__iter__()

    def remove(self, item: Any) -> None:
        if self.errors and isinstance(self.errors[-1], IndexError):
            raise self.errors.pop()
        super().remove(item)


def disturb(box: Mailbox) -> None:
    box.items = items = Disturbed(box.items or ())
    items.errors = [
        IndexError("deque mutated during remove()."),
        RuntimeError("deque mutated during iteration"),
    ]


def test_drop_the_oldest_that_another_thread_has_taken(make: Callable[..., Mailbox]) -> None:
    """Then the newest is dropped: what was taken must not be counted as lost."""
    box = make(policy=Overflow.DROP_OLDEST)
    fill(box, *"abc")
    box.items = Raided(box.items or ())
    assert fill(box, "d") == [False]
    assert box.dropped == 1
    assert len(box) == 2


def test_drop_the_oldest_while_another_thread_takes_another(make: Callable[..., Mailbox]) -> None:
    """Nothing is raised into who puts: the newest is dropped, and the next one fits again."""
    box = make(policy=Overflow.DROP_OLDEST)
    fill(box, *"abc")
    disturb(box)
    assert fill(box, *"def") == [False, False, True]
    assert texts(box) == ["b", "c", "f"]


@pytest.mark.parametrize(
    "empty",
    [lambda box: box.expire(time.monotonic() + STALE), Mailbox.clear],
    ids=["expire", "clear"],
)
def test_empty_while_another_thread_puts(box: Mailbox, empty: Callable[[Mailbox], object]) -> None:
    """What was disturbed is done once more."""
    fill(box, *"abc")
    disturb(box)
    empty(box)
    assert len(box) == 0
    assert box.bytes_in == box.bytes_out


def test_withdraw_what_still_waits(box: Mailbox) -> None:
    """That very item, wherever it is; what was taken, or never came, cannot be."""
    assert not box.withdraw(Notice())
    first, second, third = Notice(), Notice(), Notice()
    for notice in (first, second, third):
        box.force(notice)
    assert box.take() is first
    assert box.withdraw(second)
    assert not box.withdraw(first)
    assert not box.withdraw(second)
    assert [box.take(), box.take()] == [third, None]


def test_expire_what_is_behind_what_was_forced(make: Callable[..., Mailbox], tally: Tally) -> None:
    """What stays does not keep what is stale."""
    box = make(capacity=4)
    first, second = Notice(), Notice()
    box.force(first)
    box.put(Letter(age=STALE))
    box.force(second)
    fill(box, "a")
    box.expire(time.monotonic())
    assert (len(box), tally.expired) == (3, 1)
    assert [box.take(), box.take()] == [first, second]
    assert texts(box) == ["a"]
    assert box.bytes_in == box.bytes_out


def test_clear_what_another_thread_takes_from(box: Mailbox) -> None:
    """What was taken is not cleared."""
    fill(box, *"abc")
    box.items = Raided(box.items or ())
    assert box.clear() == 2
    assert len(box) == 0


def test_expire_what_another_thread_drops(box: Mailbox, tally: Tally) -> None:
    """What is gone already is not counted once more."""
    fill(box, *"abc")
    box.items = Raided(box.items or ())
    box.expire(time.monotonic() + STALE)
    assert (len(box), tally.expired) == (0, 2)


def test_close_at_the_first_that_does_not_fit(
    make: Callable[..., Mailbox], tally: Tally, diary: Diary
) -> None:
    """It is reported at once and counted; what follows is nobody's loss any more."""
    box = make(policy=Overflow.CLOSE)
    assert fill(box, *"abcdef") == [True] * 3 + [False] * 3
    assert (box.dropped, tally.full, diary.lines) == (1, 1, ["overflowed"])
    assert texts(box) == ["a", "b", "c"]


# What is forced, and waiters of another kind


class Notice:
    """What must not be dropped."""

    size = 0
    arrived = math.inf


def test_clear_leaves_what_was_forced(box: Mailbox, diary: Diary) -> None:
    """In its order, however full the mailbox is of messages."""
    first, second = Notice(), Notice()
    fill(box, "a", "b")
    box.force(first)
    fill(box, "c")
    box.force(second)
    assert box.clear() == 2
    assert [box.take(), box.take(), box.take()] == [first, second, None]
    assert (box.bytes_in, box.bytes_out) == (0, 0)
    assert diary.lines == ["overflowed", 1]
    assert box.clear() == 0


def test_share_between_two_who_put(box: Mailbox) -> None:
    """The queue is there from then on, so that neither makes one beside the other's."""
    box.share()
    items = box.items
    assert items is not None
    fill(box, "a")
    box.share()
    assert box.items is items
    assert texts(box) == ["a"]


async def test_force_whatever_the_bounds(box: Mailbox) -> None:
    """In its order; it wakes who waits, never expires, and is nothing to a closed mailbox."""
    notices = [Notice() for _ in range(5)]
    reader = await start_reader(box)
    for notice in notices:
        box.force(notice)
    assert await reader is notices[0]
    box.expire(time.monotonic() + STALE)
    assert list(iter(box.take, None)) == notices[1:]
    box.force(notices[0])
    box.close(KeyError("gone"))
    box.force(notices[0])
    assert len(box) == 0


class Bell:
    """A waiter that is no future, and may be used again."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.rung: list[Any] = []

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self.loop

    def done(self) -> bool:
        return False

    def set_result(self, item: Any, /) -> None:
        self.rung.append(item)


async def test_call_a_waiter_that_is_no_future(box: Mailbox) -> None:
    """It gets a message into its hands, or hears that there is one."""
    bell, letter = Bell(), Letter("a")
    box.call(bell)
    box.put(letter)
    fill(box, "b")
    assert bell.rung == [letter]
    box.call(bell)
    assert bell.rung == [letter, None]
    gone = asyncio.get_running_loop().create_future()
    gone.cancel()
    box.call(gone)
    assert not box.is_awaited
    assert texts(box) == ["b"]
    box.call(bell)
    box.forget(bell)
    box.forget(bell)
    fill(box, "c")
    assert bell.rung == [letter, None]
    box.close(ZeroDivisionError("on purpose"))
    with pytest.raises(ZeroDivisionError):
        box.call(bell)


# Episodes


def test_report_an_episode_at_its_begin_and_end(box: Mailbox, diary: Diary) -> None:
    """Drops are reported when the first is dropped, and when all has been taken."""
    fill(box, *"abcde")
    assert diary.lines == ["overflowed"]
    box.take()
    fill(box, *"fg")
    assert diary.lines == ["overflowed"]
    texts(box)
    assert diary.lines == ["overflowed", 3]
    fill(box, *"abcd")
    assert diary.lines == ["overflowed", 3, "overflowed"]
    assert box.dropped == 4


def test_end_an_episode_when_the_rest_expires_on_take(box: Mailbox, diary: Diary) -> None:
    """The episode is over also if nothing was left to take."""
    for _ in range(4):
        box.put(Letter(age=STALE))
    assert box.take() is None
    assert diary.lines == ["overflowed", 1]


@pytest.mark.parametrize("empty", [lambda box: box.expire(time.monotonic() + STALE), Mailbox.clear])
def test_end_an_episode_when_the_rest_is_dropped(
    box: Mailbox, diary: Diary, empty: Callable[[Mailbox], object]
) -> None:
    """The next overflow is an episode of its own, and is reported."""
    fill(box, *"abcd")
    empty(box)
    fill(box, *"abcd")
    assert diary.lines == ["overflowed", 1, "overflowed"]


# Waiting


async def test_get_what_is_there(box: Mailbox) -> None:
    """Nobody waits while there is something."""
    fill(box, "a")
    assert (await box.get()).text == "a"  # type: ignore[attr-defined]


async def test_get_what_comes_later(box: Mailbox) -> None:
    """A reader gets a message that is put into its hands; the queue stays empty."""
    reader = await start_reader(box)
    assert box.is_awaited
    letter = Letter()
    assert box.put(letter)
    assert len(box) == 0
    assert await reader is letter
    assert not box.is_awaited
    assert box.taken == 1


async def test_get_with_several_readers(box: Mailbox) -> None:
    """Each message goes to one reader, in the order in which they came to wait."""
    readers = [await start_reader(box) for _ in range(3)]
    letters = [Letter("a"), Letter("b"), Letter("c")]
    for letter in letters:
        box.put(letter)
    assert await asyncio.gather(*readers) == letters


async def test_get_waits_again_when_somebody_was_quicker(box: Mailbox) -> None:
    """A reader that another thread woke in vain goes on waiting."""
    reader = await start_reader(box)
    first, second = Letter("a"), Letter("b")
    in_thread(box.put, first)
    assert box.take() is first
    await eventually(lambda: box.is_awaited)
    box.put(second)
    assert await reader is second


async def test_get_skips_what_has_expired(box: Mailbox) -> None:
    """What expires between waking and reading is not returned."""
    reader = await start_reader(box)
    in_thread(box.put, Letter(age=STALE))
    await eventually(lambda: box.is_awaited)
    letter = Letter()
    box.put(letter)
    assert await reader is letter


async def test_cancel_a_reader_that_waits(box: Mailbox) -> None:
    """A reader that gave up is forgotten; the message stays for the next one."""
    reader = await start_reader(box)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert not box.is_awaited
    fill(box, "a")
    assert texts(box) == ["a"]


async def test_cancel_a_reader_that_was_just_woken(box: Mailbox) -> None:
    """A message that woke a reader too late is not lost, and wakes the next reader."""
    first, second = await start_reader(box), await start_reader(box)
    letter = Letter()
    box.put(letter)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second is letter


async def test_put_for_a_reader_that_was_just_cancelled(box: Mailbox) -> None:
    """A message that comes between cancelling and giving up wakes the next reader."""
    first, second = await start_reader(box), await start_reader(box)
    first.cancel()
    letter = Letter()
    box.put(letter)
    assert await second is letter
    assert first.cancelled()


async def test_cancel_two_readers_that_were_just_woken(box: Mailbox) -> None:
    """What two readers had in their hands goes back in the order in which it came."""
    readers = [await start_reader(box) for _ in range(2)]
    fill(box, "a", "b", "c")
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    assert texts(box) == ["a", "b", "c"]


async def test_time_out_without_losing_a_message(box: Mailbox) -> None:
    """Many short waits lose nothing."""
    got: list[Item] = []
    letters = [Letter(str(n)) for n in range(200)]

    async def read() -> None:
        while len(got) < len(letters):
            try:
                got.append(await asyncio.wait_for(box.get(), 0.0002))
            except asyncio.TimeoutError:
                pass

    reader = asyncio.create_task(read())
    for letter in letters:
        while not box.put(letter):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.wait_for(reader, 10)
    assert got == letters


# Closing


async def test_close_wakes_all_and_refuses_later_readers(box: Mailbox) -> None:
    """Everybody who waits, now or later, gets the error; what waited is gone."""
    readers = [await start_reader(box) for _ in range(2)]
    box.close(KeyError("gone"))
    for reader in readers:
        with pytest.raises(KeyError, match="gone"):
            await reader
    with pytest.raises(KeyError, match="gone"):
        await box.get()
    assert not box.is_awaited


async def test_close_drops_what_waits(box: Mailbox) -> None:
    """Nothing is delivered after closing."""
    fill(box, "a")
    box.close(KeyError("gone"))
    with pytest.raises(KeyError):
        await box.get()


async def test_put_into_a_closed_mailbox(box: Mailbox) -> None:
    """A message that comes too late is not delivered."""
    box.close(KeyError("gone"))
    assert box.put(Letter()) is False
    with pytest.raises(KeyError):
        await asyncio.wait_for(box.get(), 1)


async def test_cancel_a_reader_after_closing(box: Mailbox) -> None:
    """What a reader had in its hands does not come back into a closed mailbox."""
    reader = await start_reader(box)
    box.put(Letter())
    box.close(KeyError("gone"))
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    with pytest.raises(KeyError):
        await asyncio.wait_for(box.get(), 1)


# Threads


async def test_put_from_another_thread_wakes_a_reader(box: Mailbox) -> None:
    """The reader's loop is woken from the thread that puts."""
    reader = await start_reader(box)
    letter = Letter()
    assert await asyncio.to_thread(box.put, letter)
    assert await asyncio.wait_for(reader, 5) is letter


async def test_close_from_another_thread_wakes_readers(box: Mailbox) -> None:
    """So does closing."""
    readers = [await start_reader(box) for _ in range(2)]
    await asyncio.to_thread(box.close, KeyError("gone"))
    for reader in readers:
        with pytest.raises(KeyError):
            await asyncio.wait_for(reader, 5)


def in_thread(function: Callable[..., object], *arguments: object) -> None:
    """Call a function in a thread and block this loop until it has returned."""
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()


async def test_cancel_a_reader_that_another_thread_has_woken(box: Mailbox) -> None:
    """The wake-up finds a cancelled reader, and the message stays."""
    reader = await start_reader(box)
    in_thread(box.put, Letter("a"))
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert texts(box) == ["a"]


class Interleaved(Mailbox):
    """A mailbox in which another thread does something right after a reader found nothing."""

    meanwhile: Callable[[], object] | None = None

    def take(self) -> Item | None:
        item = super().take()
        if item is None and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            in_thread(meanwhile)
        return item


async def test_put_between_looking_and_waiting(make: Callable[..., Mailbox]) -> None:
    """A message that no waiter saw coming is taken all the same."""
    box, letter = make(Interleaved), Letter()
    box.meanwhile = lambda: box.put(letter)
    assert await asyncio.wait_for(box.get(), 5) is letter
    assert not box.is_awaited


async def test_close_between_looking_and_waiting(make: Callable[..., Mailbox]) -> None:
    """A mailbox that was closed at that moment is closed all the same."""
    box = make(Interleaved)
    box.meanwhile = lambda: box.close(KeyError("gone"))
    with pytest.raises(KeyError):
        await asyncio.wait_for(box.get(), 5)


async def test_skip_a_reader_whose_loop_has_ended(box: Mailbox) -> None:
    """A waiter that nobody will ever wake does not swallow the wake-up of the next."""
    loop = asyncio.new_event_loop()
    box._waiters.append(loop.create_future())
    loop.close()
    reader = await start_reader(box)
    box.put(Letter("a"))
    assert (await asyncio.wait_for(reader, 5)).text == "a"  # type: ignore[attr-defined]


async def test_put_from_a_thread_while_readers_come_and_go(make: Callable[..., Mailbox]) -> None:
    """Thousands of messages from a thread arrive once and in order; readers give up at random."""
    box = make(capacity=10**6)
    box.max_bytes = 10**9
    count = 3000
    thread = threading.Thread(
        target=lambda: [box.put(Letter(str(number))) for number in range(count)]
    )
    got: list[str] = []
    thread.start()
    while len(got) < count:
        try:
            got.append((await asyncio.wait_for(box.get(), 0.0005)).text)  # type: ignore[attr-defined]
        except asyncio.TimeoutError:
            pass
    thread.join()
    assert got == [str(number) for number in range(count)]
    assert not box.is_awaited


# Against a model


@given(st.lists(st.sampled_from(["put", "put in thread", "read", "cancel", "turn"]), max_size=25))
@settings(deadline=None)
def test_lose_nothing_in_any_schedule(schedule: list[str]) -> None:
    """However readers come, go and are woken: each message is got once or is still there."""

    async def run() -> None:
        box = Mailbox("chat!1", 100, 10**6, EXPIRY, Tally(), Diary())
        sent: list[Item] = []
        readers: list[asyncio.Task[Item]] = []
        for step in [*schedule, "turn", "turn", "turn"]:
            if step.startswith("put"):
                letter = Letter()
                sent.append(letter)
                in_thread(box.put, letter) if "thread" in step else box.put(letter)
            elif step == "read":
                readers.append(asyncio.create_task(box.get()))
            elif step == "cancel" and readers:
                readers[len(sent) % len(readers)].cancel()
            else:
                await asyncio.sleep(0)
        waiting = [reader for reader in readers if not reader.done()]
        got = [reader.result() for reader in readers if reader.done() and not reader.cancelled()]
        assert not waiting or not len(box)
        assert box.taken == len(got)
        for reader in waiting:
            reader.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        left = list(iter(box.take, None))
        assert left == [letter for letter in sent if letter in left]
        assert len(got) + len(left) == len(sent)
        assert {*map(id, got), *map(id, left)} == {*map(id, sent)}
        assert box.bytes_in == box.bytes_out

    asyncio.run(run())


class MailboxModel(RuleBasedStateMachine):
    """A mailbox does what a deque with the two bounds does."""

    def __init__(self) -> None:
        super().__init__()
        self.diary, self.tally = Diary(), Tally()
        self.box = Mailbox("chat!1", 4, 20, EXPIRY, self.tally, self.diary)
        self.deque: deque[Letter] = deque()
        self.dropped = self.expired = self.taken = self.episode = 0
        self.expected: list[Any] = []

    @rule(size=st.integers(0, 25), is_stale=st.booleans())
    def put(self, size: int, is_stale: bool) -> None:
        letter = Letter(size=size, age=STALE if is_stale else 0)
        held = sum(letter.size for letter in self.deque)
        fits = not self.deque or (len(self.deque) < 4 and held + size <= 20)
        if fits:
            self.deque.append(letter)
        else:
            self.dropped += 1
            self.episode += 1
            if self.episode == 1:
                self.expected.append("overflowed")
        assert self.box.put(letter) is fits

    def end_episode(self) -> None:
        if self.episode and not self.deque:
            self.expected.append(self.episode)
            self.episode = 0

    def drop_stale(self) -> None:
        while self.deque and time.monotonic() - self.deque[0].arrived > EXPIRY:
            self.deque.popleft()
            self.expired += 1

    @rule()
    def take(self) -> None:
        self.drop_stale()
        letter = self.deque.popleft() if self.deque else None
        self.taken += letter is not None
        self.end_episode()
        assert self.box.take() is letter

    @rule()
    def expire(self) -> None:
        self.drop_stale()
        self.end_episode()
        self.box.expire(time.monotonic())

    @rule()
    def clear(self) -> None:
        assert self.box.clear() == len(self.deque)
        self.deque.clear()
        self.end_episode()

    @invariant()
    def agrees(self) -> None:
        assert len(self.box) == len(self.deque)
        assert self.box.is_full == (len(self.deque) >= 4)
        assert self.box.bytes_in - self.box.bytes_out == sum(item.size for item in self.deque)
        assert (self.tally.full, self.tally.expired) == (self.dropped, self.expired)
        assert (self.box.dropped, self.box.taken) == (self.dropped, self.taken)
        assert self.diary.lines == self.expected


MailboxModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_mailbox_agrees_with_a_deque = MailboxModel.TestCase
