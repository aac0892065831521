"""Commands and callers wait until their own deadlines, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from channels_mpx import parking as parking_module
from channels_mpx.names import Kind, Topic
from channels_mpx.parking import Confirmations, Parking, Retries
from tests.helpers import eventually

TOPIC = Topic(Kind.CHANNEL, b"one")


def parking(timeout: float) -> Parking:
    return Parking(
        asyncio.get_running_loop(), timeout, lambda obstacle: TimeoutError(f"no link; {obstacle}")
    )


def confirmations(timeout: float) -> Confirmations:
    return Confirmations(asyncio.get_running_loop(), timeout, lambda topic: TimeoutError(topic))


def future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


async def test_each_command_has_a_deadline_of_its_own() -> None:
    """What was parked later fails later; whoever has gone is skipped."""
    place, first, gone, last = parking(0.05), future(), future(), future()
    place.park((b"1",), first)
    place.park((b"2",), gone)
    gone.cancel()
    await asyncio.wait([first], timeout=0.02)
    place.park((b"3",), last)
    with pytest.raises(TimeoutError):
        await first
    assert not last.done()
    assert len(place) == 1
    with pytest.raises(TimeoutError):
        await last
    assert len(place) == 0


async def test_parking_releases_in_order_and_without_those_who_have_gone() -> None:
    """Everything that still waits goes out on the next link."""
    place, futures = parking(5), [future() for _ in range(3)]
    for number, waiting in enumerate(futures):
        place.park((number,), waiting)
    futures[1].cancel()
    assert [command for command, _ in place.release()] == [(0,), (2,)]
    assert place.release() == []


async def test_parking_fails_everything_at_once() -> None:
    """What stands in the way of all of them is told to all of them."""
    place, waiting = parking(5), future()
    place.park((b"1",), waiting)
    place.fail(ConnectionError("refused"))
    with pytest.raises(ConnectionError, match="refused"):
        await waiting
    assert len(place) == 0


async def test_deadline_stays_however_often_a_command_comes_back() -> None:
    """Links that come and go do not make a caller wait longer than he was promised."""
    place, waiting = parking(0.2), future()
    loop = asyncio.get_running_loop()
    start = loop.time()
    place.park((b"1",), waiting)
    while not waiting.done():
        await asyncio.wait([waiting], timeout=0.02)
        for command, one in place.release():
            place.park(command, one)
    # It came to an end at all: a deadline that began anew at each return would never be reached.
    assert loop.time() - start > 0.15


async def test_command_that_comes_back_too_late_fails_at_once() -> None:
    """A link that took it beyond its deadline, and gave it back, has not won it any time."""
    place, waiting = parking(0.05), future()
    place.park((b"1",), waiting)
    released = place.release()
    await asyncio.sleep(0.06)  # on a link
    place.park(*released[0])
    await asyncio.wait([waiting], timeout=0.02)
    with pytest.raises(TimeoutError):
        await waiting


async def test_deadline_of_a_command_that_is_cancelled_in_the_same_turn() -> None:
    """A deadline that finds nobody there does nothing."""
    place, waiting = parking(0), future()
    loop = asyncio.get_running_loop()
    # The cancellation is due before the deadline, in the same turn of the loop.
    loop.call_at(loop.time() - 1, waiting.cancel)
    place.park((b"1",), waiting)
    await eventually(waiting.done)
    await asyncio.sleep(0)
    assert waiting.cancelled()
    assert len(place) == 0


async def test_error_that_was_the_reason_is_the_error_at_the_deadline() -> None:
    """Who waits for a server that is not ready is told that, and not that there is no link."""
    place, waiting = parking(0.01), future()
    place.park((b"1",), waiting, ConnectionError("BUSY"))
    with pytest.raises(ConnectionError, match="BUSY"):
        await waiting


async def test_parking_is_bounded_in_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is told at once; whoever has gone makes room."""
    monkeypatch.setattr(parking_module, "MAX_COMMANDS", 2)
    place, futures = parking(5), [future() for _ in range(4)]
    for waiting in futures[:3]:
        place.park((b"1",), waiting)
    with pytest.raises(TimeoutError, match=r"2 commands \(2 bytes\) wait for it already"):
        await futures[2]
    futures[0].cancel()
    await asyncio.sleep(0)
    place.park((b"4",), futures[3])
    assert [one for _, one in place.release()] == [futures[1], futures[3]]


async def test_parking_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few large commands fill it as many small ones do; released, they make room."""
    monkeypatch.setattr(parking_module, "MAX_BYTES", 100)
    place, futures = parking(5), [future() for _ in range(4)]
    place.park((b"PUBLISH", 7, b"x" * 80), futures[0])
    place.park((b"x" * 10,), futures[1])
    assert isinstance(futures[1].exception(), TimeoutError)
    place.release()
    place.park((b"x" * 100,), futures[2])
    place.park((b"x",), futures[3])
    assert not futures[2].done()
    assert isinstance(futures[3].exception(), TimeoutError)


class Clock:
    """What `Retries` needs of an event loop, with a time of its own: `run` passes the next pause."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self._next: tuple[asyncio.TimerHandle, Callable[[], None]] | None = None

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        assert self._next is None, "two are under way"
        self.pauses.append(delay)
        handle = asyncio.get_running_loop().call_later(3600, callback)
        self._next = handle, callback
        return handle

    def run(self) -> None:
        """Let the pause pass, and call what waits for its end unless that was cancelled."""
        assert self._next is not None
        (handle, callback), self._next = self._next, None
        self.now += self.pauses[-1]
        if not handle.cancelled():
            handle.cancel()
            callback()


async def test_retries_grow_rare_and_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in vain doubles the pause, at most one is under way, and calm makes it short again."""
    monkeypatch.setattr(parking_module, "PAUSES", (0.01, 0.08))
    clock = Clock()
    calls: list[float] = []
    retries = Retries(cast(asyncio.AbstractEventLoop, clock), lambda: calls.append(clock.now))
    for number in range(6):
        retries.ask()
        retries.ask()
        clock.run()
        assert len(calls) == number + 1
    assert clock.pauses[0] <= 0.01
    assert clock.pauses[3] > 0.03
    clock.now += parking_module.CALM + 0.1
    retries.ask()
    assert clock.pauses[6] <= 0.01
    clock.run()
    retries.ask()
    retries.stop()
    clock.run()
    assert len(calls) == 7


async def test_waiters_for_one_topic_come_and_go_alone() -> None:
    """One caller that is cancelled takes nothing from the other."""
    board = confirmations(5)
    first, second = (asyncio.ensure_future(board.wait(TOPIC)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert len(board) == 1
    board.confirm(TOPIC)
    await second
    assert len(board) == 0


@pytest.mark.parametrize("verb", ["confirm", "refuse"])
async def test_waiter_that_is_cancelled_in_the_same_turn_is_left_alone(verb: str) -> None:
    """An answer for somebody who has just gone hurts nobody."""
    board = confirmations(5)
    first, second = (asyncio.ensure_future(board.wait(TOPIC)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    if verb == "confirm":
        board.confirm(TOPIC)
        await second
    else:
        board.refuse(TOPIC, ConnectionError("no"))
        with pytest.raises(ConnectionError):
            await second
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_deadline_of_a_waiter_that_is_cancelled_in_the_same_turn() -> None:
    """A deadline that finds its caller gone does nothing."""
    board = confirmations(0)
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(board.wait(TOPIC))
    await asyncio.sleep(0)
    # The cancellation is due before the deadline, in the same turn of the loop.
    loop.call_at(loop.time() - 1, task.cancel)
    await eventually(task.done)
    assert task.cancelled()
    assert len(board) == 0
