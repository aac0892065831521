"""Commands and callers wait until their own deadlines, and no longer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from channels_mpx.names import Kind, Topic
from channels_mpx.parking import Confirmations, Parking
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
