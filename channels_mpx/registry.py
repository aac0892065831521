"""The subscriptions of one connection, for what concerns all of them."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Protocol

from .gap import Gap, Nobody
from .statistics import SubscriptionStatistics, Tally

__all__ = ["Metered", "Registered", "Registry"]


class Registered(Protocol):
    """A subscription, as the connection sees it."""

    loop: asyncio.AbstractEventLoop | None

    @property
    def closed(self) -> bool:
        """Whether it is over."""

    def outlives(self, ended: asyncio.AbstractEventLoop) -> bool:
        """Tell whether it goes on, and wants something, although a loop has ended."""

    def gap_opened(self, reason: str) -> None:
        """The link is lost."""

    def gap_went_on(self, reason: str) -> None:
        """The link is lost again within the gap; who came in between has not heard of it."""

    def gap_closed(self, gap: Gap) -> None:
        """Everything wanted is active again."""

    def close(self) -> None:
        """End it."""


class Metered(Registered, Protocol):
    """A subscription with a mailbox of its own."""

    @property
    def name(self) -> str:
        """What it is called in the statistics."""

    @property
    def waiting(self) -> int:
        """How many items wait in it."""


class _Meter(weakref.ref[Metered]):
    """The counters of a subscription, which run as long as anybody may still read it."""

    __slots__ = ("tally",)

    tally: Tally


class Registry(Nobody):
    """The subscriptions of one hub, and its listener for them.

    Attributes:
        lock: Guards what they share. Reentrant: a collection in the middle may end one.
        announce: Told by name what users may want to hear of, on any thread, the reader's too.
    """

    def __init__(self) -> None:
        self._subscriptions: weakref.WeakSet[Registered] = weakref.WeakSet()
        self._held: set[Registered] = set()
        self._meters: set[_Meter] = set()
        #: Meters of subscriptions that are gone: any thread may collect, in the middle of anything.
        self._stopped: deque[_Meter] = deque()
        #: What the meters say that are not in `_meters` any more.
        self._past = Tally()
        self.lock = threading.RLock()
        self.announce: Callable[..., object] = lambda event, **details: None

    def __repr__(self) -> str:
        return f"<Registry {len(self._subscriptions)}>"

    def add(self, subscription: Registered, is_held: bool = False) -> None:
        """Note a subscription. For any thread.

        Args:
            subscription: The subscription.
            is_held: Whether it lives on until it is discarded, although nobody else holds it: a
                task that waits to call its callbacks is held by nobody.
        """
        with self.lock:
            self._subscriptions.add(subscription)
            if is_held:
                self._held.add(subscription)

    def meter(self, subscription: Metered, tally: Tally) -> None:
        """Have the numbers of a subscription in `statistics`. For any thread.

        Args:
            subscription: The subscription, until it is closed.
            tally: What it counts, for good: also what is counted after it was closed.
        """
        meter = _Meter(subscription, self._stopped.append)
        meter.tally = tally
        with self.lock:
            self._forget_stopped()
            self._meters.add(meter)

    def statistics(self) -> SubscriptionStatistics:
        """Return the numbers of the subscriptions with mailboxes of their own. For any thread."""
        with self.lock:
            self._forget_stopped()
            past, meters = self._past, tuple(self._meters)
            # Not to be folded into the past before they are added up.
            full, unknown, delivered = past.full, past.unknown, past.delivered
            for meter in meters:
                full += meter.tally.full
                unknown += meter.tally.unknown
                delivered += meter.tally.delivered
        there = [each for meter in meters if (each := meter()) is not None and not each.closed]
        waiting = [each.waiting for each in there]
        most = max(waiting, default=0)
        return SubscriptionStatistics(
            count=len(there),
            waiting=sum(waiting),
            deepest=(there[waiting.index(most)].name, most) if most else None,
            delivered=delivered,
            dropped={"full": full, "removed": unknown},
        )

    def _forget_stopped(self) -> None:
        while self._stopped:
            meter = self._stopped.popleft()
            self._meters.discard(meter)
            self._past.full += meter.tally.full
            self._past.unknown += meter.tally.unknown
            self._past.delivered += meter.tally.delivered

    def discard(self, subscription: Registered) -> None:
        """Forget a subscription that is over. For any thread."""
        with self.lock:
            self._subscriptions.discard(subscription)
            self._held.discard(subscription)

    def forget_parent(self) -> None:
        """In a child made by fork: end all subscriptions here; the parent's go on."""
        self.lock = threading.RLock()  # a thread that is gone may have held the old one
        self.close()

    def _all(self) -> list[Registered]:
        with self.lock:
            return list(self._subscriptions)

    def close(self) -> None:
        """End all subscriptions."""
        for subscription in self._all():
            subscription.close()

    def tick(self) -> None:
        """See `Listener.tick`: subscriptions of loops that have ended are over."""
        for subscription in self._all():
            if subscription.loop is not None and subscription.loop.is_closed():
                subscription.outlives(subscription.loop)

    def is_awaited(self) -> bool:
        """See `Listener.is_awaited`."""
        return any(not subscription.closed for subscription in self._all())

    def loop_ended(self, loop: asyncio.AbstractEventLoop) -> bool:
        """See `Listener.loop_ended`."""
        outliving = [subscription for subscription in self._all() if subscription.outlives(loop)]
        return bool(outliving)

    def gap_opened(self, reason: str) -> None:
        """See `Listener.gap_opened`."""
        for subscription in self._all():
            subscription.gap_opened(reason)

    def gap_went_on(self, reason: str) -> None:
        """See `Listener.gap_went_on`."""
        for subscription in self._all():
            subscription.gap_went_on(reason)

    def gap_closed(self, gap: Gap) -> None:
        """See `Listener.gap_closed`."""
        for subscription in self._all():
            subscription.gap_closed(gap)
