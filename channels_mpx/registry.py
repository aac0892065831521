"""The subscriptions of one connection, for what concerns all of them."""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import Protocol

from .gap import Gap, Nobody

__all__ = ["Registered", "Registry"]


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


class Registry(Nobody):
    """The subscriptions of one hub, and its listener for them.

    Attributes:
        lock: Guards what they share. Reentrant: a collection in the middle may end one.
    """

    def __init__(self) -> None:
        self._subscriptions: weakref.WeakSet[Registered] = weakref.WeakSet()
        self._held: set[Registered] = set()
        self.lock = threading.RLock()

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
