"""A gap opens once, and closes when everything that was wanted has been answered."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta, timezone

from channels_mpx.gap import Gap, GapWatch, Nobody
from channels_mpx.names import Kind, Topic

ONE, TWO, NEW = (Topic(Kind.CHANNEL, name) for name in (b"one", b"two", b"new"))


def test_gap_closes_with_the_last_topic() -> None:
    """Confirmed or refused; it knows the link that ended it and why the one before was lost."""
    watch = GapWatch()
    assert watch.linked(1, [ONE, TWO]) is None
    assert watch.settled(ONE) is None
    assert watch.settled(TWO) is None
    assert watch.open("cut", time.monotonic() - 100)
    assert watch.linked(2, [ONE, TWO]) is None
    assert watch.settled(TWO) is None
    gap = watch.settled(ONE)
    assert gap is not None
    assert (gap.epoch, gap.reason) == (2, "cut")
    assert 100 <= gap.seconds < 160
    assert watch.settled(ONE) is None


def test_gap_is_not_closed_by_what_is_new() -> None:
    """Only what was wanted when the link began counts, each once."""
    watch = GapWatch()
    watch.open("cut", 0.0)
    assert watch.linked(2, [ONE, TWO]) is None
    for topic in (NEW, ONE, ONE, NEW):
        assert watch.settled(topic) is None
    assert watch.settled(TWO) is not None


def test_gap_without_topics_closes_with_the_link() -> None:
    """Who wants nothing has everything back."""
    watch = GapWatch()
    watch.open("cut", 0.0)
    gap = watch.linked(2, [])
    assert gap is not None
    assert gap == Gap(2, "cut", gap.seconds, gap.since)


def test_gap_says_when_it_began_on_the_wall_clock() -> None:
    """Its beginning is aware, in UTC, and so many seconds before now as the monotonic clock says."""
    watch, before = GapWatch(), datetime.now(timezone.utc)
    watch.open("cut", time.monotonic() - 1000)
    gap = watch.linked(2, [])
    assert gap is not None
    assert gap.since.utcoffset() == timedelta(0)
    ago = before - gap.since
    assert timedelta(seconds=940) < ago <= timedelta(seconds=1000)


def test_gap_begins_with_the_earliest_of_what_it_is_made_of() -> None:
    """What is told of while it is open may have begun before it, and what began after changes nothing."""
    watch, now = GapWatch(), time.monotonic()
    assert watch.open("cut", now - 100)
    watch.linked(2, [ONE])
    assert not watch.open_for_topic("NOPERM", now - 500)
    assert not watch.open("again", now)
    watch.linked(3, [ONE])
    gap = watch.settled(ONE)
    assert gap is not None
    assert 500 <= gap.seconds < 560
    assert gap.reason == "cut"


def test_gap_that_is_open_does_not_open_again() -> None:
    """A link that is lost before everything is back goes on with the same gap, and its reason."""
    watch = GapWatch()
    assert not watch.is_open
    assert watch.open("first", 1.0)
    assert watch.is_open
    assert watch.linked(2, [ONE, TWO]) is None
    assert watch.settled(ONE) is None
    assert not watch.open("second", 2.0)
    assert watch.settled(TWO) is None  # its last wish is withdrawn while there is no link
    assert watch.linked(3, [ONE]) is None
    gap = watch.settled(ONE)
    assert gap is not None
    assert (gap.epoch, gap.reason) == (3, "first")


def test_gap_of_one_topic_closes_when_it_is_back() -> None:
    """It was refused while the link was there; everything else goes on."""
    watch = GapWatch()
    watch.linked(1, [ONE])
    watch.settled(ONE)
    assert watch.open_for_topic("NOPERM", since=0.0)
    gap = watch.settled(ONE)
    assert gap is not None
    assert (gap.epoch, gap.reason) == (1, "NOPERM")


def test_forget_a_gap_that_concerns_nobody() -> None:
    """It is never over, and the next one is new."""
    watch = GapWatch()
    watch.open("cut", 0.0)
    watch.forget()
    assert watch.linked(2, []) is None
    assert watch.open("again", 1.0)


def test_nobody_does_not_care() -> None:
    """The listener of a connection that nobody listens to."""
    nobody, loop = Nobody(), asyncio.new_event_loop()
    nobody.linked(1)
    nobody.unlinked("cut")
    nobody.gap_opened("cut")
    nobody.gap_went_on("cut")
    nobody.gap_closed(Gap(2, "cut", 0.1))
    nobody.tick()
    assert nobody.is_awaited() is False
    assert nobody.expects() is False
    assert nobody.lasting() == 0
    assert nobody.loop_ended(loop) is False
    loop.close()
