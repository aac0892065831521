"""Readers of mailboxes wait, give up, and are woken, from any thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from channels_mpx.mailbox import Item, Mailbox
from tests.helpers import eventually
from tests.unit.mailbox.letters import STALE, Letter, fill, in_thread, start_reader, texts

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


class Watched(deque[Any]):
    """A queue that another thread empties right after somebody has looked at it."""

    def __getitem__(self, at: Any) -> Any:
        item = super().__getitem__(at)
        self.clear()
        return item

    def __len__(self) -> int:
        length = super().__len__()
        self.clear()
        return length

    def __bool__(self) -> bool:
        return True


def test_take_what_another_thread_takes(box: Mailbox) -> None:
    """Between the look and the hand, or before the look: there is nothing, and no error."""
    fill(box, "a")
    box.items = Watched(box.items or ())
    assert box.take() is None
    assert box.take() is None
    assert box.taken == 0


async def test_put_back_what_others_take_meanwhile(box: Mailbox) -> None:
    """A message in hand finds its place though those before it go at that moment."""
    reader = await start_reader(box)
    letter = Letter("a")
    box.put(letter)
    fill(box, "b", "c")
    letter.arrived = time.monotonic() + 1
    box.items = Watched(box.items or ())
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert tuple(iter(box.items)) == (letter,)
