"""What is exported: the metrics, and the layers that they are read from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from channels.layers import channel_layers

from channels_mpx.layer import MultiplexedChannelLayer
from channels_mpx.statistics import LayerStatistics

__all__ = ["METRICS", "Metric", "Source"]

#: Seconds for which numbers are good enough: all metrics of one collection are read from the same.
FRESH = 0.5

Read = Callable[[LayerStatistics], "float | Mapping[str, float] | None"]


@dataclass(frozen=True)
class Metric:
    """One metric of each layer.

    Attributes:
        name: Its name, without prefix, unit and suffixes.
        help: What it is.
        read: Takes it out of the numbers: a value, None if there is none, or one for each value of
            the label.
        label: The name of its label, if it has one beside ``layer``.
        unit: ``seconds``, ``bytes``, or none.
        is_counter: Whether it only grows.
    """

    name: str
    help: str
    read: Read
    label: str = ""
    unit: str = ""
    is_counter: bool = False

    def samples(self, numbers: LayerStatistics) -> Iterator[tuple[str, float]]:
        """Yield the value of the label, empty if there is none, and the value."""
        found = self.read(numbers)
        if isinstance(found, Mapping):
            yield from found.items()
        elif found is not None:
            yield "", found


def _gauge(name: str, help: str, read: Read, label: str = "", unit: str = "") -> Metric:
    return Metric(name, help, read, label, unit)


def _counter(name: str, help: str, read: Read, label: str = "", unit: str = "") -> Metric:
    return Metric(name, help, read, label, unit, is_counter=True)


METRICS: Sequence[Metric] = (
    _gauge(
        "connected", "1 if connected to Redis.", lambda n: int(n.connection.state == "connected")
    ),
    _counter("connections", "Connections made.", lambda n: n.connection.epoch),
    _counter(
        "lost_connections",
        "Connections lost, by kind of reason.",
        lambda n: n.connection.reconnections,
        "reason",
    ),
    _counter(
        "refused_commands",
        "Commands and subscriptions that Redis answered with an error, by its code.",
        lambda n: n.connection.refused,
        "code",
    ),
    _gauge("wanted_topics", "Topics that somebody wants.", lambda n: n.connection.wanted),
    _gauge("active_topics", "Topics that Redis has confirmed.", lambda n: n.connection.active),
    _gauge("denied_topics", "Topics that Redis refuses now.", lambda n: n.connection.denied),
    _gauge("patterns", "Distinct patterns subscribed to.", lambda n: n.connection.patterns),
    _counter("commands", "Commands of verbs.", lambda n: n.connection.commands),
    _gauge("commands_in_flight", "Commands sent, not answered.", lambda n: n.connection.in_flight),
    _gauge("parked_commands", "Commands that wait for a link.", lambda n: n.connection.parked),
    _counter("received_messages", "Messages that came.", lambda n: n.connection.received),
    _counter(
        "undelivered_messages", "Messages that came for nobody.", lambda n: n.connection.undelivered
    ),
    _counter("read", "Bytes read.", lambda n: n.connection.bytes_read, unit="bytes"),
    _counter("written", "Bytes written.", lambda n: n.connection.bytes_written, unit="bytes"),
    _gauge("ping_rtt", "What the last PING took.", lambda n: n.connection.ping_rtt, unit="seconds"),
    _gauge(
        "probe_rtt",
        "What Redis took to accept the last message to ourselves.",
        lambda n: n.connection.probe_rtt,
        unit="seconds",
    ),
    _gauge("channels", "Direct channels.", lambda n: n.channels),
    _gauge("groups", "Groups with members here.", lambda n: n.groups),
    _counter(
        "dormant_channels",
        "Channels that left their groups, because nobody read them.",
        lambda n: n.dormant,
    ),
    _gauge("waiting_messages", "Messages in mailboxes of channels.", lambda n: n.waiting),
    _gauge(
        "deepest_mailbox_messages",
        "Messages in the fullest mailbox of a channel.",
        lambda n: n.deepest[1] if n.deepest else 0,
    ),
    _gauge("waiting_requests", "Requests that wait for their replies.", lambda n: n.requests),
    _counter("sent_messages", "Messages to be sent, by kind.", lambda n: n.sent, "kind"),
    _counter("delivered_messages", "Messages that consumers took.", lambda n: n.delivered),
    _counter(
        "dropped_messages",
        "Messages that no consumer took, by reason.",
        lambda n: n.dropped,
        "reason",
    ),
    _gauge(
        "subscriptions",
        "Open subscriptions of the layer's multiplexer.",
        lambda n: n.subscriptions.count,
    ),
    _gauge(
        "subscription_waiting_messages",
        "Messages and notices in subscriptions.",
        lambda n: n.subscriptions.waiting,
    ),
    _gauge(
        "subscription_deepest_messages",
        "Messages and notices in the fullest subscription.",
        lambda n: n.subscriptions.deepest[1] if n.subscriptions.deepest else 0,
    ),
    _counter(
        "subscription_delivered_messages",
        "Messages that callbacks or readers of subscriptions got.",
        lambda n: n.subscriptions.delivered,
    ),
    _counter(
        "subscription_dropped_messages",
        "Messages that no callback or reader of a subscription got, by reason.",
        lambda n: n.subscriptions.dropped,
        "reason",
    ),
    _gauge(
        "lag",
        "From sending to arrival here, the last sample.",
        lambda n: n.lag.last if n.lag else None,
        unit="seconds",
    ),
    _gauge(
        "lag_average",
        "From sending to arrival here, average of the last minute.",
        lambda n: n.lag.average if n.lag else None,
        unit="seconds",
    ),
    _gauge(
        "lag_max",
        "From sending to arrival here, maximum of the last minute.",
        lambda n: n.lag.most if n.lag else None,
        unit="seconds",
    ),
)


class Source:
    """The layers of this process, by the aliases of ``CHANNEL_LAYERS``.

    Args:
        aliases: Which; none: all that are ours.
    """

    def __init__(self, aliases: Sequence[str] = ()) -> None:
        self._aliases = tuple(aliases)
        self._numbers: list[tuple[str, LayerStatistics]] = []
        self._read_at = -FRESH

    def read(self) -> list[tuple[str, LayerStatistics]]:
        """Return the numbers of each layer, at most half a second old."""
        now = time.monotonic()
        if now - self._read_at >= FRESH:
            self._numbers = list(self._layers())
            self._read_at = now
        return self._numbers

    def _layers(self) -> Iterator[tuple[str, LayerStatistics]]:
        for alias in self._aliases or tuple(channel_layers.configs):
            layer = channel_layers[alias]
            if isinstance(layer, MultiplexedChannelLayer):
                yield alias, layer.statistics()
