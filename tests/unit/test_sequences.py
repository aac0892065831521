"""The bookkeeping of fault tests finds whatever is wrong: it is their negative control."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from channels_mpx import CommandRefused, LinkLost, LinkUnavailable
from tests.sequences import Outcome, Outcomes, Sender, check

TAKEN, UNKNOWN, UNSENT = Outcome.TAKEN, Outcome.UNKNOWN, Outcome.UNSENT
OPENED, CLOSED = {"type": "gap.opened"}, {"type": "gap.closed"}


def numbers(*values: int, sender: str = "a") -> list[dict[str, Any]]:
    return [{"type": "number", "sender": sender, "number": value} for value in values]


def test_everything_once_is_fine() -> None:
    """Nothing is missing, nothing is wrong."""
    account = check(
        {"a": Outcomes([TAKEN] * 3), "b": Outcomes([TAKEN])}, numbers(0, 1) + numbers(0, sender="b")
    )
    assert (account.delivered, account.dropped, account.in_gaps) == (3, 1, 0)
    account = check({"a": Outcomes([TAKEN] * 3)}, numbers(0, 1, 2))
    assert (account.delivered, account.dropped, account.in_gaps) == (3, 0, 0)
    assert not account.errors


@pytest.mark.parametrize(
    ("heard", "error"),
    [
        (numbers(0, 1, 1), "again, or out of order"),
        (numbers(1, 0), "again, or out of order"),
        (numbers(7), "never sent"),
        (numbers(0, sender="z"), "never sent"),
        (numbers(2), "came, though its sender was told that it was not sent"),
    ],
)
def test_what_must_not_be_is_an_error(heard: list[dict[str, Any]], error: str) -> None:
    """Duplicates, wrong order, messages from nowhere and lies to senders."""
    assert set(check({"a": Outcomes([TAKEN, TAKEN, UNSENT])}, heard).errors) == {error}


@pytest.mark.parametrize(
    ("heard", "in_gaps", "dropped"),
    [
        (numbers(0, 3), 0, 2),
        ([*numbers(0), OPENED, CLOSED, *numbers(3)], 2, 0),
        ([OPENED, *numbers(0), CLOSED, *numbers(3)], 2, 0),
        ([*numbers(0), OPENED, *numbers(3), CLOSED], 2, 0),
        ([OPENED, CLOSED, *numbers(0, 3)], 0, 2),
        ([*numbers(0, 3), OPENED, CLOSED], 0, 2),
        ([*numbers(0), CLOSED, *numbers(3)], 0, 2),
        ([OPENED, CLOSED, *numbers(2, 3)], 2, 0),
        ([*numbers(0, 1), OPENED], 2, 0),
        (numbers(0, 1), 0, 2),
    ],
)
def test_missing_messages_are_excused_by_a_gap_only(
    heard: list[dict[str, Any]], in_gaps: int, dropped: int
) -> None:
    """The notice must stand where the messages are missing."""
    account = check({"a": Outcomes([TAKEN] * 4)}, heard)
    assert (account.in_gaps, account.dropped) == (in_gaps, dropped)
    assert not account.errors


def test_messages_that_may_not_have_left_may_be_missing() -> None:
    """Only what Redis has taken is missed."""
    account = check({"a": Outcomes([TAKEN, UNKNOWN, UNSENT, TAKEN])}, numbers(0, 3))
    assert (account.delivered, account.dropped, account.in_gaps) == (2, 0, 0)


def test_receiver_that_comes_late_misses_nothing_before() -> None:
    """What was sent before it listened is not missed."""
    assert check({"a": Outcomes([TAKEN] * 4)}, numbers(2, 3), first={"a": 2}).dropped == 0


async def test_sender_writes_down_what_it_was_told() -> None:
    """Each error is the outcome that it means; one that is cancelled does not know."""
    hang = asyncio.Event()
    errors: list[BaseException | None] = [
        None,
        LinkLost(address="", reason=""),
        LinkUnavailable(address="", seconds=0, reason=""),
        CommandRefused(address="", command="", text="OOM"),
    ]

    async def send(message: dict[str, Any]) -> None:
        if message["number"] == len(errors):
            hang.set()
            await asyncio.Event().wait()
        if (error := errors[message["number"]]) is not None:
            raise error

    sender = Sender("a", send)
    task = asyncio.ensure_future(sender.run(asyncio.Event()))
    await hang.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    outcomes = [sender.outcomes.get(number) for number in range(sender.outcomes.count)]
    assert outcomes == [TAKEN, UNKNOWN, UNSENT, UNSENT, UNKNOWN]
