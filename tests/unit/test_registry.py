"""The registry knows the subscriptions, tells them, ends them, and holds whom nobody else does."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from channels_mpx.gap import Gap
from channels_mpx.registry import Registry
from channels_mpx.statistics import SubscriptionStatistics, Tally


class Subscription:
    """A subscription that writes down what it is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop
        self.closed = False
        self.wants_something = True
        self.lines: list[Any] = []

    def outlives(self, ended: asyncio.AbstractEventLoop) -> bool:
        """See `Registered.outlives`."""
        self.lines.append(("ended", ended))
        if self.loop is ended:
            self.close()
        return not self.closed and self.wants_something

    def gap_opened(self, reason: str) -> None:
        """See `Registered.gap_opened`."""
        self.lines.append(reason)

    def gap_went_on(self, reason: str) -> None:
        """See `Registered.gap_went_on`."""
        self.lines.append(f"again {reason}")

    def gap_closed(self, gap: Gap) -> None:
        """See `Registered.gap_closed`."""
        self.lines.append(gap)

    def close(self) -> None:
        """See `Registered.close`."""
        self.closed = True
        self.lines.append("closed")


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_tell_everybody_of_gaps(registry: Registry) -> None:
    """Of both ends, and only who is there."""
    subscriptions = [Subscription() for _ in range(3)]
    for subscription in subscriptions:
        registry.add(subscription)
    registry.discard(subscriptions[2])
    registry.discard(subscriptions[2])
    gap = Gap(2, "cut", 0.1)
    registry.gap_opened("cut")
    registry.gap_went_on("cut")
    registry.gap_closed(gap)
    heard = ["cut", "again cut", gap]
    assert [subscription.lines for subscription in subscriptions] == [heard, heard, []]
    assert repr(registry) == "<Registry 2>"


def test_awaited_while_a_subscription_is_open(registry: Registry) -> None:
    """A closed one waits for nothing."""
    assert not registry.is_awaited()
    subscription = Subscription()
    registry.add(subscription)
    assert registry.is_awaited()
    subscription.closed = True
    assert not registry.is_awaited()


def test_loop_that_ends(registry: Registry) -> None:
    """Everybody is asked, and one who goes on is enough."""
    loop = asyncio.new_event_loop()
    mine, other = Subscription(loop), Subscription()
    for subscription in (mine, other):
        registry.add(subscription)
    assert registry.loop_ended(loop)
    assert mine.lines == [("ended", loop), "closed"]
    assert other.lines == [("ended", loop)]
    other.wants_something = False
    assert not registry.loop_ended(loop)
    assert not Registry().loop_ended(loop)
    loop.close()


def test_tick_finds_loops_that_were_closed(registry: Registry) -> None:
    """Theirs are over; others are not asked."""
    loop, closed = asyncio.new_event_loop(), asyncio.new_event_loop()
    closed.close()
    subscriptions = [Subscription(None), Subscription(loop), Subscription(closed)]
    for subscription in subscriptions:
        registry.add(subscription)
    registry.tick()
    assert [len(subscription.lines) for subscription in subscriptions] == [0, 0, 2]
    loop.close()


def test_hold_whom_nobody_else_holds(registry: Registry) -> None:
    """If asked to, until it is discarded; otherwise the registry keeps nobody alive."""
    held = Subscription()
    registry.add(Subscription())
    registry.add(held, is_held=True)
    name = id(held)
    del held
    gc.collect()
    (held,) = registry._all()  # type: ignore[assignment]
    assert id(held) == name
    registry.discard(held)
    del held
    gc.collect()
    assert registry._all() == []


class Mailbox(Subscription):
    """A subscription with a mailbox of its own."""

    def __init__(self, name: str, waiting: int) -> None:
        super().__init__()
        self.name = name
        self.waiting = waiting


def test_numbers_of_those_with_mailboxes(registry: Registry) -> None:
    """What waits is of those that are open; what was counted, of all that ever were."""
    registry.add(Subscription())
    assert registry.statistics() == SubscriptionStatistics(0, 0, None, 0, dropped(0, 0))
    tallies, boxes = [Tally() for _ in range(3)], [Mailbox(f"box {n}", n) for n in (2, 3, 0)]
    for box, tally in zip(boxes, tallies, strict=True):
        registry.meter(box, tally)
        tally.full, tally.unknown, tally.delivered = 1, 10, 100
    counted = (300, dropped(3, 30))
    assert registry.statistics() == SubscriptionStatistics(3, 5, ("box 3", 3), *counted)
    boxes[1].close()
    assert registry.statistics() == SubscriptionStatistics(2, 2, ("box 2", 2), *counted)
    del box, boxes
    tallies[0].delivered += 1  # by somebody who was about to
    gc.collect()
    counted = (301, dropped(3, 30))
    for _ in range(2):
        assert registry.statistics() == SubscriptionStatistics(0, 0, None, *counted)
    registry.meter(Mailbox("gone", 1), Tally())
    gc.collect()
    assert registry.statistics() == SubscriptionStatistics(0, 0, None, *counted)


def dropped(full: int, removed: int) -> dict[str, int]:
    """Return drops by reason."""
    return {"full": full, "removed": removed}


def test_close_ends_everybody(registry: Registry) -> None:
    """Also one that discards itself meanwhile."""
    subscriptions = [Subscription() for _ in range(3)]
    for subscription in subscriptions:
        registry.add(subscription, is_held=True)
        subscription.close = lambda s=subscription: registry.discard(s)  # type: ignore[method-assign, misc]
    registry.close()
    assert registry._all() == []


def test_child_ends_everybody_whatever_was_held(registry: Registry) -> None:
    """A thread that did not come along may have held the lock."""
    subscription = Subscription()
    registry.add(subscription)
    thread = threading.Thread(target=registry.lock.acquire)
    thread.start()
    thread.join()
    assert not registry.lock.acquire(blocking=False)
    registry.forget_parent()
    assert subscription.closed
    with registry.lock:
        assert registry.is_awaited() is False
