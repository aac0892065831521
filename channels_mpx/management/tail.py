"""``mpx tail``: messages as they pass. Nobody else notices: it hears what processes hear."""

from __future__ import annotations

import math
import queue
import time
from collections import deque
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError

from channels_mpx.names import Kind, Topic, escape_glob
from channels_mpx.server import Server

from .console import Console
from .formats import milliseconds, plural, readable, size
from .messages import Arrival, Sighting, look_at
from .ping import percentiles
from .subcommand import PATIENCE, Subcommand, count, seconds

__all__ = ["Ear", "Tail"]

#: What may wait to be shown, in messages and in bytes; what comes on top is not shown.
MOST_MESSAGES = 10_000
MOST_BYTES = 64 * 2**20

#: How many of the last lags the median is of.
LAGS = 10_000

#: Characters of one message that a person is shown.
SHOWN = 2000


class Tail(Subcommand):
    """Shows messages as they pass."""

    name = "tail"
    help = (
        "Show messages as they pass, until Ctrl-C: those of groups decoded, of other Redis"
        " channels as they are."
    )

    def add_arguments(self, parser: Any) -> None:
        """See `Subcommand.add_arguments`."""
        parser.add_argument(
            "names", nargs="*", metavar="name", help="Which ones; without any, all groups."
        )
        kinds = parser.add_mutually_exclusive_group()
        kinds.add_argument("--group", action="store_true", help="The names are groups.")
        kinds.add_argument(
            "--channel", action="store_true", help="They are channels in Redis; the default."
        )
        kinds.add_argument(
            "--pattern", action="store_true", help="They are glob patterns in Redis."
        )
        parser.add_argument(
            "--count",
            type=count,
            metavar="N",
            help="End after so many messages; with 1 if a timeout comes first.",
        )
        parser.add_argument(
            "--timeout", type=seconds, metavar="SECONDS", help="End after this time."
        )

    def run(self, console: Console, server: Server, options: dict[str, Any]) -> None:
        """See `Subcommand.run`."""
        topics, what = _topics(server, options)
        server.reach(PATIENCE)
        if server.is_memory:
            console.aside("memory:// has only the messages of this very process.", "WARNING")
        ear = Ear()
        log = _Log(console, server)
        server.join(topics, ear)
        try:
            console.aside(f"Listening to {what}.")
            is_complete = log.follow(ear, options["count"], options["timeout"])
        except KeyboardInterrupt:
            is_complete = True
        finally:
            server.leave(ear)
        log.sum_up(ear)
        if not is_complete:
            raise CommandError(
                f"Only {log.shown} of {plural(options['count'], 'message')} came within"
                f" {options['timeout']:g} s."
            )


def _topics(server: Server, options: dict[str, Any]) -> tuple[list[Topic], str]:
    """Return what to subscribe to, and what to call it."""
    names = list(dict.fromkeys(options["names"]))
    kinds = [kind for kind in ("group", "channel", "pattern") if options[kind]]
    if len(kinds) > 1:
        raise CommandError("The names are groups, channels or patterns: give one of the options.")
    kind = kinds[0] if kinds else "channel" if names else "group"
    if not names and kind != "group":
        raise CommandError(f"Name at least one {kind}.")
    if not all(names):
        raise CommandError(f"A {kind} cannot have an empty name.")
    shown = ", ".join(map(readable, names))
    if kind == "group" and names:
        return [Topic(Kind.CHANNEL, _group(server, name)) for name in names], f"the group {shown}"
    if kind == "group":
        return [Topic(Kind.PATTERN, escape_glob(server.names.group("")) + b"*")], "all groups"
    hint = "" if kinds else " (a group takes --group)"
    where = Kind.PATTERN if kind == "pattern" else Kind.CHANNEL
    return [Topic(where, encode(name)) for name in names], f"the {kind} {shown} in Redis{hint}"


def encode(text: str) -> bytes:
    """Return an argument of the command line as the bytes that were typed."""
    return text.encode("utf-8", "surrogateescape")


def _group(server: Server, name: str) -> bytes:
    try:
        return server.group_channel(name)
    except TypeError as error:
        raise CommandError(readable(str(error))) from error


class Ear:
    """Hears messages and keeps them, within bounds, for who shows them in another thread."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Arrival | str] = queue.SimpleQueue()
        # Each counter has one writer: the reader's thread, and who takes.
        self._bytes_put = 0
        self._bytes_taken = 0
        self._is_deaf = False
        #: Messages that came while too many waited to be shown.
        self.missed = 0

    def take(self, timeout: float | None) -> Arrival | str | None:
        """Return the next message or piece of news; None if there is none within the time."""
        try:
            item = self._waiting.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(item, Arrival):
            self._bytes_taken += len(item.payload)
        return item

    # As a subscriber, on the reader

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`."""
        waiting = self._bytes_put - self._bytes_taken
        if waiting > MOST_BYTES or self._waiting.qsize() >= MOST_MESSAGES:
            self.missed += 1
            return
        self._bytes_put += len(payload)
        self._waiting.put(Arrival(time.time(), channel, payload))

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""
        if self._is_deaf:
            self._waiting.put(f"listening to {readable(topic.name)} again")

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`."""
        self._is_deaf = True
        self._waiting.put(f"the connection is lost, messages may be missing: {reason}")

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`."""
        self._waiting.put(str(error))


class _Log:
    """Shows what an ear hears."""

    def __init__(self, console: Console, server: Server) -> None:
        self._console = console
        self._server = server
        self._began = time.monotonic()
        self._bytes = 0
        self._undecodable = 0
        self._lags: deque[float] = deque(maxlen=LAGS)
        self._worst_lag = -math.inf
        self.shown = 0

    def follow(self, ear: Ear, most: int | None, timeout: float | None) -> bool:
        """Show messages until there were enough or the time is over; return whether all came."""
        while most is None or self.shown < most:
            left = None if timeout is None else self._began + timeout - time.monotonic()
            item = ear.take(left) if left is None or left > 0 else None
            if item is None:
                return most is None
            if isinstance(item, str):
                self._console.aside(item, "WARNING")
            else:
                self._show(item)
        return True

    def _show(self, arrival: Arrival) -> None:
        sighting = look_at(arrival, self._server.names, self._server.layer.codec)
        self.shown += 1
        self._bytes += sighting.size
        self._undecodable += sighting.problem is not None
        if sighting.lag is not None:
            self._lags.append(sighting.lag)
            self._worst_lag = max(self._worst_lag, sighting.lag)
        if self._console.is_json:
            self._console.document({"time": arrival.time, **sighting.document()})
        else:
            style = "ERROR" if sighting.problem is not None else ""
            self._console.line(self._line(arrival, sighting), style)

    def _line(self, arrival: Arrival, sighting: Sighting) -> str:
        moment = datetime.fromtimestamp(arrival.time).strftime("%H:%M:%S.%f")[:-3]
        lag = "" if sighting.lag is None else f"  {sighting.lag * 1000:+.2f} ms"
        text = sighting.text()
        if self._console.is_watched and len(text) > SHOWN:
            text = f"{text[:SHOWN]}… ({len(text) - SHOWN:,} more characters)"
        return f"{moment}  {sighting.name}{lag}  {size(sighting.size)}  {text}"

    def sum_up(self, ear: Ear) -> None:
        """Say how many there were, and how late they came."""
        span = time.monotonic() - self._began
        parts = [f"{plural(self.shown, 'message')}, {size(self._bytes)} in {span:.1f} s"]
        if self._lags:
            median = milliseconds(percentiles(self._lags)["p50"])
            parts.append(f"lag {median}, at most {milliseconds(self._worst_lag)}")
        if self._undecodable:
            parts.append(f"{self._undecodable:,} undecodable")
        if ear.missed:
            parts.append(f"{ear.missed:,} not shown: too many at once")
        self._console.aside("; ".join(parts))
