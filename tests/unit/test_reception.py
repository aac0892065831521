"""What a subscriber hears becomes items of its mailbox: messages, and notices that stay in order."""

from __future__ import annotations

import math
from typing import Any

import pytest

from channels_mpx import CommandRefused, Gap, LinkLost, Multiplexer, PubSubMessage
from channels_mpx.body import Body
from channels_mpx.codec import Codec
from channels_mpx.names import Kind, Topic
from channels_mpx.reading import Bounds
from channels_mpx.reception import Notice, Reception
from channels_mpx.serializers import MsgPackSerializer
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


def outage(hearing: Hearing, seconds: float = 0.5, reason: str = "cut", epoch: int = 2) -> Gap:
    """Lose the link and have it back, with one channel; return the gap."""
    gap = Gap(epoch, reason, seconds)
    hearing.reception.interrupted(reason)
    hearing.reception.activated(ONE)
    hearing.reception.gap_closed(gap)
    return gap


def test_gap_goes_on_if_nobody_has_heard_of_its_end() -> None:
    """However often: its reason is the first, its epoch the last, its length that of all."""
    hearing = Hearing(*EVENTS)
    first = outage(hearing, 30.0, "first")
    for epoch in range(3, 400):
        outage(hearing, epoch=epoch)
    lost, activation, (event, gap) = hearing.take()
    assert (lost[0], activation, event) == ("on_disconnect", ("on_activation", b"one"), "on_gap")
    assert str(lost[1]) == (
        f"The connection to Redis at {hearing.reception._hub.address} was lost (first) and is being "
        "made again; what is published meanwhile may be missing."
    )
    assert (gap.epoch, gap.reason, 30.0 < gap.seconds < 35.0) == (399, "first", True)
    assert gap.since == first.since
    later = outage(hearing, 0.25, "later", 400)
    assert hearing.take()[2] == ("on_gap", later)


def test_gap_goes_on_for_who_has_heard_of_its_begin_only() -> None:
    """He hears of its end when it is over, and meanwhile nothing."""
    hearing = Hearing(*EVENTS)
    outage(hearing, 30.0)
    for event in ("on_disconnect", "on_activation"):
        notice: Any = hearing.mailbox.take()
        hearing.reception.taken(notice)
        assert notice.event == event
    hearing.reception.interrupted("again")
    assert hearing.take() == []
    hearing.reception.activated(ONE)
    hearing.reception.gap_closed(Gap(3, "again", 0.5))
    activation, (event, gap) = hearing.take()
    assert (activation, event) == (("on_activation", b"one"), "on_gap")
    assert gap.seconds > 30.0


def test_gaps_with_a_message_between_are_told_apart() -> None:
    """So that whoever reads knows where messages are missing."""
    hearing = Hearing(*EVENTS)
    gaps = [outage(hearing)]
    hearing.reception.deliver(ONE, b"one", b"1")
    gaps.append(outage(hearing, 0.25))
    told = hearing.take()
    assert [item[0] for item in told if isinstance(item, tuple)] == [*EVENTS[1::-1], EVENTS[2]] * 2
    assert [told[2][1], told[6][1]] == gaps
    assert told[3] == PubSubMessage(None, b"one", b"1")


@pytest.mark.parametrize("count", range(1, 8))
def test_notices_stay_few_whichever_somebody_cares_for(count: int) -> None:
    """At most one of each kind waits, and after the first one of each is told again."""
    events = [event for bit, event in enumerate(EVENTS[:3]) if count >> bit & 1]
    hearing = Hearing(*events)
    hearing.reception.activated(ONE)
    hearing.take()
    for _ in range(2):
        for _ in range(100):
            outage(hearing)
        assert sorted(event for event, _ in hearing.take()) == sorted(events)


def test_first_activation_is_told_before_the_first_gap() -> None:
    """It is no news of an earlier one."""
    hearing = Hearing("on_activation", "on_disconnect")
    hearing.reception.activated(ONE)
    for _ in range(2):
        outage(hearing)
    assert [event for event, _ in hearing.take()] == [EVENTS[0], EVENTS[1], EVENTS[0]]


def test_what_the_layer_says_of_gaps_does_not_stand_between() -> None:
    """Its messages wait in the same mailbox as a consumer's notices; others do stand between."""
    codec, kinds = Codec(MsgPackSerializer, []), [EVENTS[1], EVENTS[0], EVENTS[2]]
    for arrived, expected in ((math.inf, kinds), (1.0, kinds * 2)):
        hearing = Hearing(*EVENTS)
        for number in range(2):
            outage(hearing)
            if not number:
                hearing.mailbox.force(Body.made(codec, {"type": "back"}, arrived))
        told = [item[0] for item in hearing.take() if isinstance(item, tuple)]
        assert told == expected


def test_end_of_a_gap_that_somebody_takes_at_that_moment() -> None:
    """In another thread: the next one is told apart."""

    class Hasty(Reception):
        def _is_last(self, notice: Notice) -> bool:
            is_last = super()._is_last(notice)
            hearing.take()
            return is_last

    hearing = Hearing(*EVENTS)
    hearing.reception = Hasty(hearing.reception._hub, hearing.mailbox, EVENTS)
    outage(hearing)
    outage(hearing)
    assert [event for event, _ in hearing.take()] == [EVENTS[1], EVENTS[0], EVENTS[2]]


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
