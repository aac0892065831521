"""A gap opens once, and closes when everything that was wanted has been answered."""

from __future__ import annotations

import asyncio

from channels_mpx.gap import Gap, GapWatch, Nobody


def test_gap_closes_with_the_last_topic() -> None:
    """Confirmed or refused; it knows the link that ended it and why the one before was lost."""
    watch = GapWatch()
    assert watch.linked(1, 2) is None
    assert watch.joined() is None
    assert watch.joined() is None
    assert watch.open("cut")
    assert watch.linked(2, 2) is None
    assert watch.joined() is None
    gap = watch.joined()
    assert gap is not None
    assert (gap.epoch, gap.reason) == (2, "cut")
    assert 0 <= gap.seconds < 5
    assert watch.joined() is None


def test_gap_without_topics_closes_with_the_link() -> None:
    """Who wants nothing has everything back."""
    watch = GapWatch()
    watch.open("cut")
    gap = watch.linked(2, 0)
    assert gap is not None
    assert gap == Gap(2, "cut", gap.seconds)


def test_gap_that_is_open_does_not_open_again() -> None:
    """A link that is lost before everything is back goes on with the same gap, and its reason."""
    watch = GapWatch()
    assert watch.open("first")
    assert watch.linked(2, 2) is None
    assert watch.joined() is None
    assert not watch.open("second")
    assert watch.linked(3, 1) is None
    gap = watch.joined()
    assert gap is not None
    assert (gap.epoch, gap.reason) == (3, "first")


def test_forget_a_gap_that_concerns_nobody() -> None:
    """It is never over, and the next one is new."""
    watch = GapWatch()
    watch.open("cut")
    watch.forget()
    assert watch.linked(2, 0) is None
    assert watch.open("again")


def test_nobody_does_not_care() -> None:
    """The listener of a connection that nobody listens to."""
    nobody, loop = Nobody(), asyncio.new_event_loop()
    nobody.linked(1)
    nobody.unlinked("cut")
    nobody.gap_opened("cut")
    nobody.gap_closed(Gap(2, "cut", 0.1))
    nobody.tick()
    assert nobody.is_awaited() is False
    assert nobody.loop_ended(loop) is False
    loop.close()
