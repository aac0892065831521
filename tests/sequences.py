"""Numbered messages, and what must have become of each: delivered once, or lost in a known gap."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from channels_mpx import LinkError, LinkLost, LinkUnavailable, NotConfirmed

#: The messages that tell a receiver of the beginning and the end of a gap, as layer options.
NOTICES = {"on_disconnect": "gap.opened", "on_reconnect": "gap.closed"}


class Outcome(enum.Enum):
    """What a sender was told of one message."""

    TAKEN = "taken"
    UNKNOWN = "unknown"  # the link was lost: perhaps
    UNSENT = "unsent"


#: What each sender was told, in the order of its numbers.
Sent = Mapping[str, Sequence[Outcome]]

Event = Mapping[str, Any]


class Sender:
    """Sends numbers, one after the other, and writes down what became of each.

    Args:
        name: Its name in the messages.
        send: Sends one message.
    """

    def __init__(self, name: str, send: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
        self.name = name
        self.outcomes: list[Outcome] = []
        self._send = send

    async def step(self) -> None:
        """Send the next number."""
        number = len(self.outcomes)
        self.outcomes.append(Outcome.UNKNOWN)  # also if we are cancelled meanwhile
        try:
            await self._send({"type": "number", "sender": self.name, "number": number})
            self.outcomes[number] = Outcome.TAKEN
        except (LinkLost, NotConfirmed):
            pass
        except LinkUnavailable:
            self.outcomes[number] = Outcome.UNSENT
        except LinkError:  # refused
            self.outcomes[number] = Outcome.UNSENT

    async def run(self, stop: asyncio.Event, pause: float = 0.0) -> None:
        """Send until told to stop."""
        while not stop.is_set():
            await self.step()
            await asyncio.sleep(pause)


@dataclass
class Account:
    """What became of the messages for one receiver.

    Attributes:
        delivered: How many came.
        in_gaps: How many that Redis had taken are missing where a gap was announced.
        dropped: How many are missing elsewhere; the receiver's drop counter must say the same.
        opened: How many notices of a gap's beginning came.
        closed: How many notices of a gap's end came.
        errors: What must not be: duplicates, wrong order, messages that were never sent.
    """

    delivered: int = 0
    in_gaps: int = 0
    dropped: int = 0
    opened: int = 0
    closed: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class _Place:
    """How far one sender's numbers have come, and what was known of gaps at that moment."""

    def __init__(self) -> None:
        self.last = -1
        self.opened = 0
        self.is_open = False


def check(sent: Sent, heard: Iterable[Event], first: Mapping[str, int] | None = None) -> Account:
    """Compare what was sent to what one receiver heard, in the order in which it heard it.

    A message that is missing is excused if a gap was open, or was opened, between the message
    before it and the one after it. So each sender's last message should come through.

    Args:
        sent: All senders that the receiver listens to.
        heard: Numbers and notices.
        first: The first number of each sender that the receiver can have heard; 0 by default.
    """
    account, is_open = Account(), False
    places = {name: _Place() for name in sent}
    for name, number in (first or {}).items():
        places[name].last = number - 1
    for event in heard:
        if event["type"] == "gap.opened":
            account.opened += 1
            is_open = True
        elif event["type"] == "gap.closed":
            account.closed += 1
            is_open = False
        else:
            _count(account, sent, places, event, is_open)
    for name, place in places.items():
        _miss(account, place, sent[name][place.last + 1 :])
    return account


def _count(
    account: Account, sent: Sent, places: Mapping[str, _Place], event: Event, is_open: bool
) -> None:
    name, number = event["sender"], event["number"]
    if name not in sent or number >= len(sent[name]):
        account.errors["never sent"] += 1
        return
    place = places[name]
    if number <= place.last:
        account.errors["again, or out of order"] += 1
        return
    if sent[name][number] is Outcome.UNSENT:
        account.errors["came, though its sender was told that it was not sent"] += 1
    account.delivered += 1
    _miss(account, place, sent[name][place.last + 1 : number])
    place.last, place.opened, place.is_open = number, account.opened, is_open


def _miss(account: Account, place: _Place, outcomes: Sequence[Outcome]) -> None:
    missing = sum(outcome is Outcome.TAKEN for outcome in outcomes)
    if place.is_open or account.opened > place.opened:
        account.in_gaps += missing
    else:
        account.dropped += missing
