"""What the client sends, put into the mailbox where the messages of the layer are."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

from channels_mpx import exceptions
from channels_mpx.mailbox import Mailbox

__all__ = ["ClientEvent", "Event", "Pump", "is_last", "require_read_ahead"]

Event = dict[str, Any]
"""What ASGI and channel layers call an event and a message."""

#: After these the client has gone: servers say so again and again, or have nothing more to say.
LAST = frozenset({"websocket.disconnect", "http.disconnect"})


def require_read_ahead(value: object, consumer: str) -> None:
    """Refuse what is no number of events, with the name of the consumer.

    Raises:
        ConfigurationError: It is not a positive number.
    """
    if not isinstance(value, int) or value < 1:
        raise exceptions.ConfigurationError(
            problem=f"read_ahead of {consumer} must be 1 or more, not {value!r}"
        )


def is_last(event: object) -> bool:
    """Tell whether an event says that the client has gone."""
    return isinstance(event, dict) and event.get("type") in LAST


class _Forced:
    """What must not be dropped and does not expire: see `Mailbox.force`."""

    __slots__ = ()
    size = 0
    arrived = math.inf


class ClientEvent(_Forced):
    """An event from the client."""

    __slots__ = ("event",)

    def __init__(self, event: Event) -> None:
        self.event = event


class _Failure(_Forced):
    """What ``receive`` has raised."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def deliver_to(self, consumer: object) -> None:
        """Raise it in the consumer's own task."""
        raise self._error


class _Milestone(_Forced):
    """Tells when everything before it has been handled."""

    __slots__ = ("_passed",)

    def __init__(self, passed: asyncio.Future[None]) -> None:
        self._passed = passed

    async def deliver_to(self, consumer: object) -> None:
        """Let the pump go on."""
        if not self._passed.done():
            self._passed.set_result(None)


class Pump:
    """Reads a client's events ahead of the consumer, but not far ahead.

    An event that is read and not taken yet has room of its own in the mailbox: it takes none from
    the messages of the layer. What ``receive`` raises is raised in the consumer, after all that
    came before it. After a disconnect nothing is read until the consumer has handled it and lives
    on.

    Args:
        receive: The server's.
        read_ahead: The most events that are read and not taken yet.
        notice: Called with each event when it comes, whatever the consumer is doing.

    Attributes:
        has_ended: Whether the client has gone away, or ``receive`` has failed.

    Raises:
        ConfigurationError: ``read_ahead`` is not a positive number.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[Event]],
        read_ahead: int,
        notice: Callable[[Event], None],
    ) -> None:
        require_read_ahead(read_ahead, "a consumer")
        self._receive = receive
        self._read_ahead = read_ahead
        self._notice = notice
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self.has_ended = False
        self._room: asyncio.Future[None] | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self._mailbox: Mailbox

    def __repr__(self) -> str:
        return f"<Pump waiting={self._waiting}/{self._read_ahead}>"

    def start(self, mailbox: Mailbox) -> None:
        """Begin to read, for a mailbox whose items are taken on this event loop."""
        self._mailbox = mailbox
        self._task = self._loop.create_task(self._run(), name=f"{mailbox.name}.pump")

    async def opened(self) -> None:
        """Wait until the client's first event, or an error instead, is in the mailbox."""
        await self._opened

    def taken(self) -> None:
        """Note that the consumer has taken an event out of the mailbox."""
        mailbox = self._mailbox
        mailbox.capacity -= 1
        mailbox.taken -= 1  # these two are for messages of the layer
        self._waiting -= 1
        room = self._room
        if room is not None and not room.done():
            room.set_result(None)

    def stop(self) -> None:
        """Read no more; see `stopped`."""
        if self._task is not None and not self._loop.is_closed():
            self._task.cancel()

    async def stopped(self) -> None:
        """Wait until ``receive`` has been left."""
        task, self._task = self._task, None  # the task knows us: no cycle
        if task is not None and not self._loop.is_closed():
            await asyncio.wait([task])

    async def _run(self) -> None:
        mailbox = self._mailbox
        try:
            while True:
                if self._waiting >= self._read_ahead:
                    self._room = self._loop.create_future()
                    await self._room
                event = await self._receive()
                self._notice(event)
                self._waiting += 1
                mailbox.capacity += 1
                mailbox.force(ClientEvent(event))
                if not self._opened.done():
                    self._opened.set_result(None)
                if is_last(event):
                    self.has_ended = True
                    passed: asyncio.Future[None] = self._loop.create_future()
                    mailbox.force(_Milestone(passed))
                    await passed
        except BaseException as error:  # the server's, or of a middleware in between
            self.has_ended = True
            mailbox.force(_Failure(error))
            if not self._opened.done():
                self._opened.set_result(None)
            if not isinstance(error, Exception):
                raise
