"""Those who wait are told one by one, in order, on their own loops, however they come and go."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from channels_mpx.waiting import Waiter, WaitingRoom
from tests.helpers import eventually


@pytest.fixture
def room() -> WaitingRoom:
    return WaitingRoom()


def enter(room: WaitingRoom) -> asyncio.Future[Any]:
    """Wait on the running loop."""
    waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    room._waiters.append(waiter)
    return waiter


def in_thread(function: Callable[..., object], *arguments: object) -> None:
    """Call a function in a thread and block this loop until it has returned."""
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()


@contextlib.contextmanager
def other_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.close()


async def test_wake_one_after_the_other(room: WaitingRoom) -> None:
    """In the order in which they came, each once; those who are done are passed over."""
    waiters = [enter(room) for _ in range(4)]
    assert room.is_awaited
    waiters[1].cancel()
    room._wake()
    assert [waiter.done() for waiter in waiters] == [True, True, False, False]
    room._wake()
    room.forget(waiters[3])
    room.forget(waiters[3])
    room._wake()
    assert [waiter.done() for waiter in waiters] == [True, True, True, False]
    assert not room.is_awaited
    assert waiters[0].result() is None


async def test_first_waiter_here(room: WaitingRoom) -> None:
    """Is taken out if it waits on this loop and waits still."""
    assert room._first_waiter_here() is None
    first, second = enter(room), enter(room)
    assert room._first_waiter_here() is first
    second.cancel()
    assert room._first_waiter_here() is None
    assert not room.is_awaited
    with other_loop() as loop:
        room._waiters.append(loop.create_future())
        assert room._first_waiter_here() is None
        assert room.is_awaited


async def test_wake_from_another_thread(room: WaitingRoom) -> None:
    """The loop is told, and the waiter looks there."""
    waiter = enter(room)
    in_thread(room._wake)
    assert not waiter.done()
    assert await asyncio.wait_for(waiter, 5) is None


async def test_wake_the_next_if_the_first_has_gone(room: WaitingRoom) -> None:
    """Whether its loop has ended, or it has given up before its loop told it."""
    with other_loop() as loop:
        room._waiters.append(loop.create_future())
    hasty, patient = enter(room), enter(room)
    in_thread(room._wake)
    hasty.cancel()
    assert await asyncio.wait_for(patient, 5) is None
    last = enter(room)
    in_thread(room._wake)
    last.cancel()
    await eventually(lambda: not room.is_awaited)


async def test_another_thread_is_quicker(room: WaitingRoom) -> None:
    """A list that is emptied between looking and taking is an empty room."""

    class Emptied(list[Waiter]):
        def __bool__(self) -> bool:
            return True

    room._waiters = Emptied()
    room._wake()


async def test_another_thread_is_quicker_than_who_puts(room: WaitingRoom) -> None:
    """The waiter that another thread takes out at this moment is not confused with the next one."""

    class Raided(list[Waiter]):
        def __getitem__(self, at: Any) -> Any:
            return self.pop(at)

    first, second = enter(room), enter(room)
    room._waiters = Raided([first, second])
    assert room._first_waiter_here() is None
    assert list(room._waiters) == [second]
