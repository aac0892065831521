"""What a process is doing, in numbers; counters run from the start of the process."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

__all__ = ["Counters", "HubStatistics", "LayerStatistics", "Tally"]


@dataclass
class Counters:
    """What a hub counts while it runs; see `HubStatistics` for the meanings."""

    epoch: int = 0
    commands: int = 0
    received: int = 0
    undelivered: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    ping_rtt: float | None = None
    probe_rtt: float | None = None
    last_error: str | None = None
    since: float = field(default_factory=time.time)
    reconnections: dict[str, int] = field(default_factory=dict)

    def linked(self) -> None:
        """A link was made."""
        self.epoch += 1
        self.since = time.time()
        self.last_error = None

    def unlinked(self, bytes_read: int, bytes_written: int) -> None:
        """A link has ended, however; so much went over it."""
        self.bytes_read += bytes_read
        self.bytes_written += bytes_written
        self.since = time.time()

    def lost(self, reason: str) -> None:
        """A link was lost."""
        self.last_error = reason
        self.reconnections[reason] = self.reconnections.get(reason, 0) + 1


class Tally:
    """What became of the messages of one layer."""

    __slots__ = ("delivered", "expired", "full", "malformed", "unknown")

    def __init__(self) -> None:
        #: Taken by consumers that are gone.
        self.delivered = 0
        #: Dropped because nobody took it in time.
        self.expired = 0
        #: Dropped because the mailbox was full.
        self.full = 0
        #: Dropped because it was no message.
        self.malformed = 0
        #: Dropped because its channel is gone.
        self.unknown = 0


@dataclass(frozen=True)
class HubStatistics:
    """The connection.

    Attributes:
        process: The process name, the last part of the inbox.
        address: The server; never a password.
        state: ``idle``, ``connecting`` or ``connected``.
        since: When the state began, seconds since 1970.
        epoch: How many links there have been.
        last_error: Why the last link was lost or could not be made.
        reconnections: Lost links, by reason.
        wanted: Topics that somebody here wants.
        active: Topics that Redis has confirmed.
        patterns: Distinct patterns among them; each slows every PUBLISH on the server.
        commands: Commands of verbs, scripts among them; neither subscriptions nor signs of life.
        received: Messages that came.
        undelivered: Messages that came for nobody.
        bytes_read: Bytes read, on all links.
        bytes_written: Bytes written, on all links.
        in_flight: Commands whose reply is awaited.
        parked: Commands that wait for a link.
        ping_rtt: Seconds that the last PING took.
        probe_rtt: Seconds that Redis took to accept the last message to ourselves.
    """

    process: str
    address: str
    state: str
    since: float
    epoch: int
    last_error: str | None
    reconnections: dict[str, int]
    wanted: int
    active: int
    patterns: int
    commands: int
    received: int
    undelivered: int
    bytes_read: int
    bytes_written: int
    in_flight: int
    parked: int
    ping_rtt: float | None
    probe_rtt: float | None


@dataclass(frozen=True)
class LayerStatistics:
    """The layer in this process.

    Attributes:
        connection: The connection below it.
        channels: Direct channels of consumers that live.
        groups: Groups that have members here.
        waiting: Messages in the mailboxes of direct channels.
        deepest: The channel with the most messages waiting, and how many; None if all are empty.
        delivered: Messages that consumers have taken.
        dropped: Messages that no consumer took, by reason: ``full``, ``expired``, ``malformed``,
            ``unknown`` (the channel is gone).
    """

    connection: HubStatistics
    channels: int
    groups: int
    waiting: int
    deepest: tuple[str, int] | None
    delivered: int
    dropped: dict[str, int]
