"""What waits: commands for a link, and callers for a confirmation. Each until its own deadline."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from .frames import Activated, Event, Interrupted
from .names import Topic
from .wire import Command, Pending

__all__ = ["Confirmations", "Parking"]


class Parking:
    """Commands that found no link, in order.

    Args:
        loop: The home loop.
        timeout: Seconds until a command's deadline.
        explain: Returns the error for a command whose deadline has passed.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout: float, explain: Callable[[], Exception]
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._explain = explain
        self._queue: deque[tuple[float, Command, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._queue)

    def park(self, command: Command, future: asyncio.Future[Any]) -> None:
        """Keep a command; its future fails at its deadline."""
        self._queue.append((self._loop.time() + self._timeout, command, future))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._expire)

    def release(self) -> list[Pending]:
        """Return everything that still waits, in order, and forget it."""
        queue, self._queue = self._queue, deque()
        self._stop()
        return [(command, future) for _, command, future in queue if not future.done()]

    def fail(self, error: Exception) -> None:
        """Fail everything that waits."""
        for _, future in self.release():
            future.set_exception(error)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._queue and (self._queue[0][0] <= now or self._queue[0][2].done()):
            future = self._queue.popleft()[2]
            if not future.done():
                future.set_exception(self._explain())
        if self._queue:
            self._timer = self._loop.call_later(self._queue[0][0] - now, self._expire)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Confirmations:
    """Callers that wait until Redis has confirmed a topic.

    Args:
        loop: The home loop.
        timeout: Seconds that a caller waits.
        explain: Returns the error for a caller whose deadline has passed.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout: float, explain: Callable[[Topic], Exception]
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._explain = explain
        self._waiters: dict[Topic, list[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    async def wait(self, topic: Topic) -> None:
        """Return when the topic is confirmed; raise why it will not be, or that it took too long."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.setdefault(topic, []).append(waiter)
        deadline = self._loop.call_later(self._timeout, self._expire, topic, waiter)
        try:
            await waiter
        finally:
            deadline.cancel()
            self._forget(topic, waiter)

    def _forget(self, topic: Topic, waiter: asyncio.Future[None]) -> None:
        """Drop a waiter that was cut short; those that were answered are gone already."""
        waiters = self._waiters.get(topic, [])
        if waiter in waiters:
            waiters.remove(waiter)
        if not waiters:
            self._waiters.pop(topic, None)

    def announce(self, events: Iterable[Event]) -> None:
        """Tell subscribers what has happened to them, and release who waited for it."""
        for event in events:
            if isinstance(event, Activated):
                self.confirm(event.topic)
                for subscriber in event.subscribers:
                    subscriber.activated(event.topic)
            elif isinstance(event, Interrupted):
                for subscriber in event.subscribers:
                    subscriber.interrupted(event.reason)
            else:
                self.refuse(event.topic, event.error)
                for subscriber in event.subscribers:
                    subscriber.refused(event.topic, event.error)

    def confirm(self, topic: Topic) -> None:
        """Release whoever waits for a topic."""
        for waiter in self._waiters.pop(topic, ()):
            if not waiter.done():
                waiter.set_result(None)

    def refuse(self, topic: Topic, error: Exception) -> None:
        """Fail whoever waits for a topic."""
        for waiter in self._waiters.pop(topic, ()):
            if not waiter.done():
                waiter.set_exception(error)

    def fail(self, error: Exception) -> None:
        """Fail everybody."""
        for topic in tuple(self._waiters):
            self.refuse(topic, error)

    def _expire(self, topic: Topic, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_exception(self._explain(topic))
