"""Reading a subscription from code without an event loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from . import exceptions
from .arguments import require_timeout
from .couriers import require_no_loop
from .hub import Hub
from .reception import PubSubMessage

__all__ = ["SyncReading"]

#: Seconds for which a thread waits at a time: that long it takes it to notice that home has moved.
SLICE = 1.0


class Readable(Protocol):
    """A subscription, as whoever reads it sees it."""

    async def get_message(self, timeout: float | None = None) -> PubSubMessage | None:
        """Return the next message."""

    async def activated(self, timeout: float | None = None) -> None:
        """Return when everything is active."""


class SyncReading:
    """Reading a subscription without an event loop; blocks the thread that calls.

    Any number of threads may read; each message goes to one of them. ``for message in
    subscription.sync`` ends when the subscription is closed, and raises `SubscriptionOverflow` if
    its overflow has closed it. Callbacks for notices, and those of single channels, run in the
    background, on the connection's own loop.
    """

    def __init__(self, subscription: Readable, hub: Hub) -> None:
        """Make a reader.

        Args:
            subscription: What to read.
            hub: The connection.
        """
        self._subscription = subscription
        self._hub = hub
        #: Taken for a thread, which may have been interrupted meanwhile.
        self._fetched: deque[PubSubMessage] = deque()

    def get_message(self, timeout: float | None = None) -> PubSubMessage | None:
        """Return the next message; see `ChannelSubscription.get_message`.

        Raises:
            SyncCallFromAsync: On a thread that runs an event loop.
        """
        require_no_loop("get_message")
        for seconds in _slices(require_timeout(timeout)):
            if not self._fetched:
                with contextlib.suppress(exceptions.LinkLost):  # home has moved, or is busy
                    self._hub.call_sync(self._fetch, seconds, allowance=seconds)
            with contextlib.suppress(IndexError):  # none, or another thread was quicker
                return self._fetched.popleft()
        return None

    def activated(self, timeout: float | None = None) -> None:
        """Block until Redis has confirmed all; see `ChannelSubscription.activated`.

        Raises:
            SyncCallFromAsync: On a thread that runs an event loop.
        """
        require_no_loop("activated")
        limit = require_timeout(timeout)
        for seconds in _slices(limit):
            with contextlib.suppress(exceptions.NotConfirmed, exceptions.LinkLost):
                self._hub.call_sync(self._subscription.activated, seconds, allowance=seconds)
                return
        raise exceptions.NotConfirmed(
            address=self._hub.address, what=repr(self._subscription), seconds=limit
        )

    def __iter__(self) -> Iterator[PubSubMessage]:
        while True:
            try:
                message = self.get_message()
            except exceptions.SubscriptionOverflow:
                raise
            except exceptions.SubscriptionIsClosed:
                return
            assert message is not None
            yield message

    async def _fetch(self, seconds: float) -> None:
        """Take a message for a thread; at home, where it may end when the thread has gone on."""
        message = await self._subscription.get_message(seconds)
        if message is not None:
            self._fetched.append(message)


def _slices(limit: float | None) -> Iterator[float]:
    """Yield for how many seconds to wait at a time, until ``limit`` seconds are over."""
    until = math.inf if limit is None else time.monotonic() + limit
    while True:
        left = max(0.0, until - time.monotonic())
        yield min(left, SLICE)
        if left <= SLICE:
            return
