"""What waits: commands for a link, callers for a confirmation, each until its own deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from .backoff import delays
from .frames import Activated, Event, Interrupted
from .home import left_of
from .names import Topic
from .wire import Command, Pending, size_of

__all__ = ["Confirmations", "Parking", "Retries"]

#: How much may wait for a link: who publishes faster than that must learn that nothing leaves.
MAX_COMMANDS = 100_000
MAX_BYTES = 64 * 2**20


#: Seconds before a server that is not ready is asked again: they double from the first to the last.
PAUSES = (0.05, 1.0)

#: Seconds without need for it after which the pauses are short again.
CALM = 5.0


class _Place(NamedTuple):
    """What is kept of a command."""

    command: Command
    size: int
    timer: asyncio.TimerHandle
    error: Exception | None


class Parking:
    """Commands that found no link, or a server that is not ready, in order.

    A command waits here until one deadline of its own, however often it comes back from a link.

    Args:
        loop: The home loop.
        timeout: Seconds until a command's deadline.
        explain: Returns the error for a command whose deadline has passed, or, given a reason,
            for one that cannot even wait.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        explain: Callable[[str | None], Exception],
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._explain = explain
        self._places: dict[asyncio.Future[Any], _Place] = {}
        self._deadlines: WeakKeyDictionary[asyncio.Future[Any], float] = WeakKeyDictionary()
        self._bytes = 0
        self._closed_by: Exception | None = None

    def __len__(self) -> int:
        return len(self._places)

    def park(
        self, command: Command, future: asyncio.Future[Any], error: Exception | None = None
    ) -> None:
        """Keep a command; its future fails at its deadline, or at once if too much waits.

        Args:
            command: What to send later.
            future: Gets the reply.
            error: Why it could not be done so far, if it is not that there is no link.
        """
        if self._closed_by is not None:
            future.set_exception(self._closed_by)
            return
        size = size_of(command)
        if len(self._places) >= MAX_COMMANDS or self._bytes + size > MAX_BYTES:
            reason = f"{len(self._places)} commands ({self._bytes} bytes) wait for it already"
            future.set_exception(self._explain(reason))
            return
        limit = self._loop.time() + left_of(self._timeout)
        deadline = self._deadlines.setdefault(future, limit)
        timer = self._loop.call_at(deadline, self._expire, future)
        self._places[future] = _Place(command, size, timer, error)
        self._bytes += size
        future.add_done_callback(self._remove)

    def release(self) -> list[Pending]:
        """Return everything that still waits, in order, and forget it."""
        places, self._places = self._places, {}
        self._bytes = 0
        for place in places.values():
            place.timer.cancel()
        return [(place.command, future) for future, place in places.items() if not future.done()]

    def fail(self, error: Exception) -> None:
        """Fail everything that waits."""
        for _, future in self.release():
            future.set_exception(error)

    def close(self, error: Exception) -> None:
        """Fail everything that waits, and whatever is still going to."""
        self._closed_by = error
        self.fail(error)

    def _remove(self, future: asyncio.Future[Any]) -> _Place | None:
        """Forget a command, whoever waits for it; also called when that one has gone."""
        place = self._places.pop(future, None)
        if place is not None:
            place.timer.cancel()
            self._bytes -= place.size
        return place

    def _expire(self, future: asyncio.Future[Any]) -> None:
        place = self._remove(future)
        if place is not None and not future.done():
            future.set_exception(place.error or self._explain(None))


class Retries:
    """Has something tried again, after pauses that grow while it is in vain.

    Args:
        loop: The home loop.
        again: What to call.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, again: Callable[[], None]) -> None:
        self._loop = loop
        self._again = again
        self._pauses = delays(*PAUSES)
        self._asked_at = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def ask(self) -> None:
        """Have it called soon, once."""
        now = self._loop.time()
        if self._handle is None:
            if now - self._asked_at > CALM:
                self._pauses = delays(*PAUSES)
            self._handle = self._loop.call_later(next(self._pauses), self._fire)
        self._asked_at = now

    def stop(self) -> None:
        """Do not call any more."""
        if self._handle is not None:
            self._handle.cancel()

    def _fire(self) -> None:
        self._handle = None
        self._again()


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
        seconds = left_of(self._timeout)
        deadline = self._loop.call_later(seconds, self._expire, topic, waiter)
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
