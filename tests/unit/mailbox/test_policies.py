"""What a full mailbox does, and what it tells: never lossy in silence."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from channels_mpx.mailbox import Mailbox
from channels_mpx.policies import Overflow
from channels_mpx.statistics import Tally
from tests.unit.mailbox.letters import STALE, Diary, Letter, age, fill, start_reader, texts

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
    box.expiry = math.inf
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


class Closing(deque[Any]):
    """A queue that another thread closes while we search it."""

    box: Mailbox

    def remove(self, item: Any) -> None:
        self.box.close(KeyError("gone"))
        raise IndexError("deque mutated during remove().")


@pytest.mark.parametrize(
    "search",
    [lambda box: box.expire(time.monotonic()), Mailbox.clear, lambda box: box.put(Letter("d"))],
    ids=["expire", "clear", "put"],
)
def test_search_what_another_thread_closes(
    box: Mailbox, search: Callable[[Mailbox], object]
) -> None:
    """There is nothing to find any more, and no error for who searches."""
    fill(box, *"abc")
    age(box)
    items = box.items = Closing(box.items or ())
    items.box = box
    search(box)
    assert len(box) == 0


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
    fill(box, *"abcd")
    age(box)
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
