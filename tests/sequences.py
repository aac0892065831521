"""Numbered messages, and what must have become of each: delivered once, or lost in a known gap."""

from __future__ import annotations

import asyncio
import bisect
import enum
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from channels_mpx import LinkError, LinkLost, NotConfirmed

#: The messages that tell a receiver of the beginning and the end of a gap, as layer options.
NOTICES = {"on_disconnect": "gap.opened", "on_reconnect": "gap.closed"}

Event = Mapping[str, Any]


class Outcome(enum.Enum):
    """What a sender was told of one message."""

    TAKEN = "taken"
    UNKNOWN = "unknown"  # the link was lost: perhaps
    UNSENT = "unsent"


class Outcomes:
    """What a sender was told of each message; little memory as long as most of them were taken.

    Args:
        outcomes: Those of the first messages.
    """

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        self.count = 0
        self.others: dict[int, Outcome] = {}
        for outcome in outcomes:
            self.set(self.add(), outcome)

    def add(self) -> int:
        """Add a message of which nothing is known yet; return its number."""
        self.others[self.count] = Outcome.UNKNOWN
        self.count += 1
        return self.count - 1

    def set(self, number: int, outcome: Outcome) -> None:
        """Note what became of a message."""
        if outcome is Outcome.TAKEN:
            del self.others[number]
        else:
            self.others[number] = outcome

    def get(self, number: int) -> Outcome:
        """Return what became of a message."""
        return self.others.get(number, Outcome.TAKEN)

    def taken(self, start: int, end: int) -> int:
        """Return how many from ``start`` to before ``end`` were taken."""
        return end - start - sum(start <= number < end for number in self.others)


class Sender:
    """Sends numbers, one after the other, and writes down what became of each.

    Args:
        name: Its name in the messages.
        send: Sends one message.
    """

    def __init__(self, name: str, send: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
        self.name = name
        self.outcomes = Outcomes()
        #: When each message was given away, and when its outcome was known: seconds since 1970.
        self.asked, self.told = array("d"), array("d")
        self._send = send

    async def step(self) -> Outcome:
        """Send the next number."""
        number = self.outcomes.add()  # unknown, also if we are cancelled meanwhile
        self.asked.append(time.time())
        outcome = Outcome.TAKEN
        try:
            await self._send({"type": "number", "sender": self.name, "number": number})
        except (LinkLost, NotConfirmed):
            outcome = Outcome.UNKNOWN
        except LinkError:  # refused, or there was no link
            outcome = Outcome.UNSENT
        self.told.append(time.time())
        self.outcomes.set(number, outcome)
        return outcome

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
    """How far one sender's numbers have come, and what was known of gaps at that moment.

    Attributes:
        holes: Where numbers are missing: the first of them, the one after the last, and whether
            a gap excuses it.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.next = first
        self.opened = 0
        self.is_open = False
        self.holes: list[tuple[int, int, bool]] = []

    def has(self, number: int) -> bool:
        """Tell whether a number came."""
        at = bisect.bisect(self.holes, (number, 1 << 62, True)) - 1
        is_in_hole = at >= 0 and self.holes[at][0] <= number < self.holes[at][1]
        return self.first <= number < self.next and not is_in_hole


class Hearing:
    """Takes down what one receiver hears, in order, in little memory.

    A message that is missing is excused if a gap was open, or was opened, between the message
    before it and the one after it. So each sender's last message should come through.

    Args:
        first: The first number of each sender that the receiver can hear; 0 by default.
    """

    def __init__(self, first: Mapping[str, int] | None = None) -> None:
        #: The gaps that were told of: begin and end of each, in seconds since 1970.
        self.gaps: list[tuple[float, float]] = []
        self._account = Account()
        self._is_open = False
        self._first = first or {}
        self._places: dict[str, _Place] = {}

    def hear(self, event: Event) -> None:
        """Take down a number or a notice."""
        if event["type"] == "gap.opened":
            self._account.opened += 1
            self._is_open = True
        elif event["type"] == "gap.closed":
            self._account.closed += 1
            self._is_open = False
            if "since" in event:
                self.gaps.append((event["since"], event["since"] + event["seconds"]))
        else:
            self._number(event["sender"], event["number"])

    def last(self, sender: str) -> int:
        """Return the last number that came from a sender; −1 if none has."""
        return self._place(sender).next - 1

    def _number(self, sender: str, number: int) -> None:
        place = self._place(sender)
        if number < place.next:
            self._account.errors["again, or out of order"] += 1
            return
        if number > place.next:
            place.holes.append((place.next, number, self._is_excused(place)))
        place.next = number + 1
        place.opened, place.is_open = self._account.opened, self._is_open
        self._account.delivered += 1

    def account(self, sent: Mapping[str, Outcomes]) -> Account:
        """Compare with what was sent by all senders to whom this receiver listened. Call it once."""
        account = self._account
        account.errors["never sent"] += len(self._places.keys() - sent.keys())
        for name, outcomes in sent.items():
            place = self._place(name)
            if place.next > outcomes.count:
                account.errors["never sent"] += 1
                continue
            if place.next < outcomes.count:
                place.holes.append((place.next, outcomes.count, self._is_excused(place)))
            for start, end, is_excused in place.holes:
                missing = outcomes.taken(start, end)
                account.in_gaps += missing if is_excused else 0
                account.dropped += 0 if is_excused else missing
            for number, outcome in outcomes.others.items():
                if outcome is Outcome.UNSENT and place.has(number):
                    account.errors["came, though its sender was told that it was not sent"] += 1
        account.errors += Counter()  # without zeros
        return account

    def holes(self) -> dict[str, list[tuple[int, int]]]:
        """Return where each sender's numbers are missing: the first, and the one after the last.

        Ask after `account`, which knows what is missing at the end.
        """
        return {
            name: [(start, end) for start, end, _ in place.holes]
            for name, place in self._places.items()
            if place.holes
        }

    def _is_excused(self, place: _Place) -> bool:
        return place.is_open or self._account.opened > place.opened

    def _place(self, sender: str) -> _Place:
        if sender not in self._places:
            self._places[sender] = _Place(self._first.get(sender, 0))
        return self._places[sender]


def check(
    sent: Mapping[str, Outcomes], heard: Iterable[Event], first: Mapping[str, int] | None = None
) -> Account:
    """Compare what was sent to what one receiver heard; see `Hearing`."""
    hearing = Hearing(first)
    for event in heard:
        hearing.hear(event)
    return hearing.account(sent)
