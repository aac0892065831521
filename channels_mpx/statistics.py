"""What a process is doing, in numbers; counters run from the start of the process."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .lag import Lag

__all__ = [
    "Counters",
    "HubStatistics",
    "LayerStatistics",
    "MultiplexerStatistics",
    "SubscriptionStatistics",
    "Tally",
]

#: Codes of errors that are counted under their name (Redis source, ``shared`` error objects). The
#: code is text of the server's, so the others are counted together.
CODES = frozenset(
    "BUSY CLUSTERDOWN CROSSSLOT LOADING MASTERDOWN MISCONF MOVED NOAUTH NOPERM NOREPLICAS OOM "
    "READONLY TRYAGAIN WRONGPASS WRONGTYPE".split()
)


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
    refused: dict[str, int] = field(default_factory=dict)

    def moved(self) -> None:
        """There is a home, or none any more."""
        self.since = time.time()

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

    def lost(self, reason: str, loss: str) -> None:
        """A link was lost, for a reason of some kind."""
        self.last_error = reason
        self.reconnections[loss] = self.reconnections.get(loss, 0) + 1

    def refusal(self, code: str) -> None:
        """Redis has answered with an error."""
        code = code if code in CODES else "ERR"
        self.refused[code] = self.refused.get(code, 0) + 1


class Tally:
    """What became of the messages of one layer, or of one subscription."""

    __slots__ = (
        "delivered",
        "dormant",
        "ended",
        "expired",
        "full",
        "late",
        "malformed",
        "sent",
        "unknown",
    )

    def __init__(self) -> None:
        #: Taken by consumers that are gone; of a subscription: by its callbacks or readers.
        self.delivered = 0
        #: How often a channel has left its groups because nobody read it.
        self.dormant = 0
        #: Dropped because their channel ended while they waited.
        self.ended = 0
        #: Dropped because nobody took it in time.
        self.expired = 0
        #: Dropped because the mailbox was full.
        self.full = 0
        #: Replies dropped because nobody waits for them any more.
        self.late = 0
        #: Dropped because it was no message.
        self.malformed = 0
        #: Ready to be sent, by the number of their form.
        self.sent = [0] * 16
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
        reconnections: Lost links, by kind of reason: ``closed`` by the server, ``network`` (the
            operating system reports an error), ``silent``, ``deaf``, ``no master``, ``desync``,
            ``internal``. ``last_error`` has the reason itself.
        refused: Commands and subscriptions that Redis answered with an error, by its code, such as
            ``NOPERM`` or ``OOM``; ``ERR`` for all codes that are rare.
        wanted: Topics that somebody here wants.
        active: Topics that Redis has confirmed.
        denied: Topics that Redis refuses although they were active once; asked for again every 5 s.
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
    refused: dict[str, int]
    wanted: int
    active: int
    denied: int
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
class SubscriptionStatistics:
    """The channel and pattern subscriptions of a multiplexer; those of consumers are not among them.

    Attributes:
        count: Subscriptions that are open.
        waiting: Messages, and notices for callbacks, that wait in them.
        deepest: The subscription in which most waits, and how much; None if all are empty. It is
            named by its kind, its pattern or first channel, and how many channels more it has.
        delivered: Messages that callbacks or readers got.
        dropped: Messages that nobody got, by reason: ``full``, ``removed`` (the channel was removed
            while they waited).
    """

    count: int
    waiting: int
    deepest: tuple[str, int] | None
    delivered: int
    dropped: dict[str, int]


@dataclass(frozen=True)
class MultiplexerStatistics(HubStatistics):
    """A multiplexer: all of `HubStatistics`, and its subscriptions.

    Attributes:
        subscriptions: What waits in them, and what became of their messages.
    """

    subscriptions: SubscriptionStatistics


@dataclass(frozen=True)
class LayerStatistics:
    """The layer in this process.

    Attributes:
        connection: The connection below it.
        channels: Direct channels of consumers that live.
        groups: Groups that have members here.
        dormant: How often a channel has left its groups because nobody read it for
            ``group_expiry`` seconds; what the groups got until it was read again is in no counter.
        waiting: Messages in the mailboxes of direct channels.
        deepest: The channel with the most messages waiting, and how many; None if all are empty.
        requests: Requests of this process that wait for their replies.
        sent: Messages that verbs were to send, by kind: ``group``, ``direct``, ``worker``, ``reply``
            (failures are replies too). Those whose verb raised afterwards are among them.
        delivered: Messages that consumers have taken.
        dropped: Messages that no consumer took, by reason: ``full``, ``expired``, ``ended`` (the
            channel ended while they waited), ``malformed``, ``unknown`` (the channel is gone, or a
            job could not be given back to its queue), ``late`` (a reply for which nobody waits any
            more).
        lag: Seconds from sending to arrival here; None if nothing came in the last minute.
        subscriptions: The subscriptions of ``layer.multiplexer``; none of the numbers above has
            anything of them.
    """

    connection: HubStatistics
    channels: int
    groups: int
    dormant: int
    waiting: int
    deepest: tuple[str, int] | None
    requests: int
    sent: dict[str, int]
    delivered: int
    dropped: dict[str, int]
    lag: Lag | None
    subscriptions: SubscriptionStatistics
