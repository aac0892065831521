"""Mailboxes are bounded in number, size and time, and first in first out."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from channels_mpx.mailbox import Mailbox
from channels_mpx.statistics import Tally
from tests.unit.mailbox.letters import STALE, Diary, Letter, age, fill, start_reader, texts

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


def test_put_into_a_mailbox_full_of_what_has_expired(
    box: Mailbox, tally: Tally, diary: Diary
) -> None:
    """What has expired makes room: it is counted as that, and nothing as dropped for want of room."""
    fill(box, "a", "b", "c")
    assert box.is_full
    age(box)
    assert not box.is_full
    assert fill(box, "d", "e", "f", "g") == [True, True, True, False]
    assert (tally.expired, tally.full, diary.lines) == (3, 1, ["overflowed"])
    assert texts(box) == ["d", "e", "f"]
    assert box.bytes_in == box.bytes_out


def test_put_over_the_bytes_of_what_has_expired(box: Mailbox, tally: Tally) -> None:
    """So does its size."""
    box.put(Letter(size=6))
    age(box)
    assert box.put(Letter("a", size=5))
    assert (tally.expired, tally.full, box.bytes_in - box.bytes_out) == (1, 0, 5)
    assert not box.put(Letter(size=6))


def test_put_when_not_enough_has_expired(box: Mailbox, tally: Tally) -> None:
    """What is still good stays, and what does not fit beside it is dropped as ever."""
    box.put(Letter(size=4, age=STALE))
    box.put(Letter("a", size=6))
    assert not box.put(Letter(size=5))
    assert (tally.expired, tally.full) == (1, 1)
    assert texts(box) == ["a"]


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
    assert box.idle(start + 150) == pytest.approx(50)


async def test_idle_is_nothing_while_somebody_waits(box: Mailbox) -> None:
    """A reader may wait for ever, and is counted from the last look on when it gives up."""
    start = time.monotonic()
    reader = await start_reader(box)
    assert box.idle(start + 100) == 0
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert box.idle(start + 150) == pytest.approx(50)


async def test_idle_starts_anew_when_a_reader_got_something(box: Mailbox) -> None:
    """A message that went straight into a reader's hands counts as well."""
    reader = await start_reader(box)
    box.put(Letter())
    await reader
    assert box.taken == 1
    assert box.idle(time.monotonic() + 100) == 0
