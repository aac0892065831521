"""What a subscriber hears becomes items of its mailbox: messages, and notices that stay in order."""

from __future__ import annotations

from typing import Any

import pytest

from channels_mpx import CommandRefused, Gap, LinkLost, Multiplexer, PubSubMessage
from channels_mpx.names import Kind, Topic
from channels_mpx.reading import Bounds
from channels_mpx.reception import Notice, Reception
from channels_mpx.statistics import Tally

ONE, TWO = (Topic(Kind.CHANNEL, name) for name in (b"one", b"two"))
ALL = Topic(Kind.PATTERN, b"*")
EVENTS = ("on_activation", "on_disconnect", "on_gap", "on_end")


class Observer:
    """Whom overflows do not concern."""

    def overflowed(self, mailbox: Any) -> None:
        """See `Observer.overflowed`."""

    def relieved(self, mailbox: Any, dropped: int) -> None:
        """See `Observer.relieved`."""


class Hearing:
    """A reception and its mailbox."""

    def __init__(self, *events: str, capacity: int = 100) -> None:
        self.mailbox = Bounds(capacity).mailbox("ear", Tally(), Observer())
        hub = Multiplexer("memory://reception")._hub
        self.reception = Reception(hub, self.mailbox, events)

    def take(self) -> list[Any]:
        """Return the messages, and event and value of each notice, that have come."""
        items = []
        for item in iter(self.mailbox.take, None):
            if isinstance(item, Notice):
                self.reception.taken(item)
                item = (item.event, item.value)  # type: ignore[assignment]
            items.append(item)
        return items


def test_messages_know_what_they_came_through() -> None:
    """A pattern, or their very channel; what the layer itself sends does not come by a pattern."""
    hearing = Hearing()
    hearing.reception.deliver(ONE, b"one", b"1")
    hearing.reception.deliver(ALL, b"one", b"1")
    hearing.reception.deliver(ALL, b"mpx:group:room", b"secret")
    direct, matched = hearing.take()
    assert direct == PubSubMessage(None, b"one", b"1")
    assert matched == PubSubMessage(b"*", b"one", b"1")
    assert direct != matched
    assert repr(direct) == "<PubSubMessage on b'one': 1 bytes>"
    assert repr(matched) == "<PubSubMessage on b'one' through b'*': 1 bytes>"
    assert len({direct, matched, PubSubMessage(None, b"one", b"1")}) == 2
    assert direct != b"1"
    assert direct.size == 5


def test_notices_come_to_who_cares() -> None:
    """In order, among the messages; to nobody else."""
    error = CommandRefused(address="a", command="SUBSCRIBE", text="NOPERM")
    gap, end = Gap(2, "cut", 0.5), ValueError("end")
    for events in ((), EVENTS):
        hearing = Hearing(*events)
        reception = hearing.reception
        reception.activated(ONE)
        reception.deliver(ONE, b"one", b"1")
        reception.refused(TWO, error)
        reception.interrupted("cut")
        reception.gap_closed(gap)
        reception.end(end)
        taken = hearing.take()
        if not events:
            assert taken == [PubSubMessage(None, b"one", b"1")]
            continue
        lost = taken.pop(3)[1]
        assert isinstance(lost, LinkLost)
        assert "cut" in str(lost)
        assert taken == [
            ("on_activation", b"one"),
            PubSubMessage(None, b"one", b"1"),
            ("on_disconnect", error),
            ("on_gap", gap),
            ("on_end", end),
        ]


def test_one_disconnect_and_one_gap_per_gap() -> None:
    """However often it is interrupted; a gap that it was not in is not told."""
    hearing = Hearing(*EVENTS)
    gap = Gap(2, "cut", 0.5)
    hearing.reception.gap_closed(gap)
    assert hearing.take() == []
    for _ in range(2):
        for _ in range(3):
            hearing.reception.interrupted("cut")
        for _ in range(3):
            hearing.reception.gap_closed(gap)
        assert [event for event, _ in hearing.take()] == ["on_disconnect", "on_gap"]


def test_activations_are_told_once_while_they_wait() -> None:
    """And again after a disconnect, so that the last word is the true one."""
    hearing = Hearing(*EVENTS)
    reception, gap = hearing.reception, Gap(2, "cut", 0.5)
    for _ in range(3):
        reception.activated(ONE)
    reception.interrupted("cut")
    for _ in range(3):
        reception.activated(ONE)
    reception.gap_closed(gap)
    told = [event for event, _ in hearing.take()]
    assert told == ["on_activation", "on_disconnect", "on_activation", "on_gap"]
    reception.activated(ONE)
    assert hearing.take() == [("on_activation", b"one")]


def test_activations_of_a_crowded_mailbox_stay_few() -> None:
    """Whoever takes nothing is told once of each, however often the link is lost."""
    hearing = Hearing("on_activation", capacity=2)
    for _ in range(5):
        hearing.reception.activated(ONE)
        hearing.reception.activated(TWO)
        hearing.reception.interrupted("cut")
    assert len(hearing.mailbox) == 2


def test_notices_are_never_dropped() -> None:
    """They have no size and no age."""
    notice = Notice("on_gap", None)
    assert repr(notice) == "<Notice on_gap None>"
    assert (notice.size, notice.arrived) == (0, float("inf"))


@pytest.mark.parametrize("other", [None, 7, b"one"])
def test_messages_equal_messages_only(other: Any) -> None:
    """By what was published, not by when."""
    message = PubSubMessage(None, b"one", b"1", arrived=5.0)
    assert message != other
    assert message == PubSubMessage(None, b"one", b"1", arrived=6.0)
