"""What a link is: the interface between the multiplexer and one connection, real or in memory."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from .exceptions import CommandRefused
from .names import Kind, Topic
from .scripts import Script

__all__ = [
    "NOT_MASTER",
    "PASSING",
    "Argument",
    "Command",
    "Dialer",
    "Link",
    "LinkWatcher",
    "Loss",
    "Pending",
    "Receiver",
    "size_of",
]

Argument = bytes | int
Command = tuple[Argument, ...]
Pending = tuple[Command, "asyncio.Future[Any]"]

#: Codes of errors with which only a replica answers (Redis source, ``shared`` error objects).
NOT_MASTER = frozenset({"READONLY", "MASTERDOWN"})

#: Codes of errors that pass. The server has carried nothing out, and will later, or another will.
PASSING = NOT_MASTER | {"LOADING", "BUSY", "CLUSTERDOWN", "TRYAGAIN"}


class Loss(str, enum.Enum):
    """Why links are lost, in few enough words to count them. The reason beside it tells more."""

    #: The server, or something between, has closed the connection.
    CLOSED = "closed"
    #: The operating system reports an error: reset, timed out, no route.
    NETWORK = "network"
    #: No sign of life after a PING.
    SILENT = "silent"
    #: A message to ourselves did not come back.
    DEAF = "deaf"
    #: The server is not a master any more.
    NO_MASTER = "no master"
    #: The server said what no server says.
    DESYNC = "desync"
    #: An error of our own.
    INTERNAL = "internal"


class Receiver(Protocol):
    """Whom a link tells what it reads. Nothing here may wait; nothing here may raise."""

    def message(self, channel: bytes, payload: bytes) -> None:
        """A message came on an exact channel."""

    def pattern_message(self, pattern: bytes, channel: bytes, payload: bytes) -> None:
        """A message came through a pattern."""

    def acknowledged(self, topic: Topic, subscribed: bool) -> None:
        """Redis has confirmed that a topic is (or is not) subscribed."""

    def refused(self, topic: Topic, error: Exception) -> None:
        """Redis has refused to subscribe to a topic."""

    def failed(self, command: Command, future: asyncio.Future[Any], error: CommandRefused) -> None:
        """Redis has answered a command with an error, for whoever waits for ``future``."""

    def lost(self, link: Link, reason: str, unsent: Sequence[Pending]) -> None:
        """The link has ended; ``unsent`` never left and may go out on the next one."""


class Link(Protocol):
    """One connection's life. All of it happens on one event loop."""

    #: Where it leads, for people; never a password.
    address: str
    #: Bytes read and written so far.
    bytes_read: int
    bytes_written: int
    #: What kind of reason `lose` was given.
    loss: Loss

    def send(self, command: Command, future: asyncio.Future[Any]) -> None:
        """Send a command; its reply is set on ``future``. Never waits or raises.

        Redis's error goes to `Receiver.failed`; one of ours is set on ``future``. It is
        `LinkUnavailable` if too much waits to be written already.
        """

    def run(
        self, script: Script, keys: Sequence[bytes], args: Sequence[Argument]
    ) -> Awaitable[Any]:
        """Run a script and return its result."""

    def subscribe(self, kind: Kind, names: Sequence[bytes]) -> None:
        """Subscribe; the receiver learns about each name. Never waits."""

    def unsubscribe(self, kind: Kind, names: Sequence[bytes]) -> None:
        """Unsubscribe; the receiver learns about each name. Never waits."""

    def lose(self, reason: str, loss: Loss = Loss.CLOSED) -> None:
        """End the link at once; everything that waits for a reply fails with ``reason``."""

    def discard(self) -> None:
        """Break the connection without the link's loop, which has stopped or is closed.

        From any thread. What was in flight hears of it on that loop, if it ever runs again.
        """

    def disown(self) -> None:
        """In a child made by fork: let go of the connection, which stays the parent's."""

    @property
    def last_read(self) -> float:
        """When a byte last came, on the loop's clock."""

    @property
    def last_parsed(self) -> float:
        """When something complete last came, a reply or a push, on the loop's clock."""

    @property
    def in_flight(self) -> int:
        """How many replies are awaited."""

    @property
    def is_written(self) -> bool:
        """Whether the operating system has been given all that was sent."""


class LinkWatcher(Protocol):
    """Whom the traffic tells about its link."""

    def link_lost(self, link: Link, reason: str) -> None:
        """The link has ended."""

    def topic_settled(self, topic: Topic) -> None:
        """A topic was confirmed or refused on this link, or nobody wants it any more."""

    def topic_restored(self, reason: str, since: float) -> None:
        """What was refused to those who had it before is going to be confirmed.

        Args:
            reason: Why it was refused.
            since: When, in seconds of `time.monotonic`.
        """


class Dialer(Protocol):
    """Makes links to one server."""

    #: Where, for people; never a password.
    address: str

    async def dial(self, receiver: Receiver) -> Link:
        """Connect, shake hands and return a link.

        Raises:
            LinkRefused: The server answers, and trying again will not help.
            LinkUnavailable: It cannot be reached, or is not ready.
        """


def size_of(command: Command) -> int:
    """Return about how many bytes a command holds."""
    return sum(len(word) if isinstance(word, bytes) else 8 for word in command)
