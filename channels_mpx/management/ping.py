"""``mpx ping``: how long a message takes to Redis and back, and whether all of them come back."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from django.core.management.base import CommandError

from channels_mpx import envelope
from channels_mpx.exceptions import LinkError
from channels_mpx.names import Topic
from channels_mpx.server import Server

from .console import Console, Line
from .formats import milliseconds, plural, table
from .subcommand import PATIENCE, Subcommand, count, pause, seconds

__all__ = ["Echo", "Ping", "percentiles"]

#: Which of the sorted times are shown.
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


class Ping(Subcommand):
    """Sends messages to this process, through Redis."""

    name = "ping"
    help = (
        "Send messages to this very process through Redis, as the layer's own probe does, and a"
        " PING after each; show how long they took. Ends with 1 if one did not come back."
    )

    def add_arguments(self, parser: Any) -> None:
        """See `Subcommand.add_arguments`."""
        parser.add_argument(
            "--count", type=count, default=100, metavar="N", help="How many messages: %(default)s."
        )
        parser.add_argument(
            "--interval",
            type=pause,
            default=0.01,
            metavar="SECONDS",
            help="Time between two messages: %(default)s.",
        )
        parser.add_argument(
            "--timeout",
            type=seconds,
            default=2.0,
            metavar="SECONDS",
            help="A message that takes longer is lost: %(default)s, or the layer's own timeout if"
            " that is less.",
        )

    def run(self, console: Console, server: Server, options: dict[str, Any]) -> None:
        """See `Subcommand.run`."""
        server.reach(PATIENCE)
        echo = Echo(server, options["timeout"])
        try:
            echo.open()
            for number in range(1, options["count"] + 1):
                console.progress(f"{number} of {options['count']}")
                echo.ping()
                if number < options["count"]:
                    time.sleep(options["interval"])
        except KeyboardInterrupt:
            pass  # what was measured is shown
        finally:
            echo.close()
            console.progress()
        _report(console, server, options["layer"], echo)
        if echo.lost:
            reasons = "; ".join(f"{number} × {reason}" for reason, number in echo.lost.items())
            raise CommandError(f"{plural(echo.lost.total(), 'message')} lost: {reasons}")


class Echo:
    """Sends messages to this process's own inbox and hears them come back.

    Args:
        server: Through which server.
        timeout: Seconds after which a message is lost.
    """

    def __init__(self, server: Server, timeout: float) -> None:
        self._server = server
        self._hub = server.hub
        self._timeout = min(timeout, server.layer.options.timeout)
        self._awaited: tuple[bytes, asyncio.Future[float]] | None = None
        #: How many messages were sent, or tried to.
        self.sent = 0
        #: Seconds that messages took, in order.
        self.messages: list[float] = []
        #: Seconds that PINGs took, in order.
        self.pings: list[float] = []
        #: How many messages, or the PINGs after them, were lost, by reason.
        self.lost: Counter[str] = Counter()

    def open(self) -> None:
        """Listen. Raises what `Server.join` does."""
        self._server.join([self._hub.inbox], self)

    def close(self) -> None:
        """Listen no more."""
        self._server.leave(self)

    def ping(self) -> None:
        """Send one message and one PING, and note how long they took or why they are lost."""
        self.sent += 1
        try:
            self._server.call(self._ping)
        except LinkError as error:
            self.lost[str(error)] += 1

    async def _ping(self) -> None:
        try:
            self.messages.append(await asyncio.wait_for(self._message(), self._timeout))
        except LinkError:
            raise
        except asyncio.TimeoutError:
            reason = self._hub.statistics().last_error
            self.lost[reason or f"not back within {self._timeout:g} s"] += 1
            return
        began = time.perf_counter()
        await self._hub.command(b"PING")
        self.pings.append(time.perf_counter() - began)

    async def _message(self) -> float:
        # What the layer's probe sends. The time in it tells one from the other.
        payload = envelope.wrap(envelope.Form.PROBE, b"")
        back: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._awaited = payload, back
        began = time.perf_counter()
        await self._hub.publish(self._hub.inbox.name, payload)
        return await back - began

    # As a subscriber, on the reader

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`."""
        if self._awaited is not None and self._awaited[0] == payload:
            back, self._awaited = self._awaited[1], None
            if not back.done():
                back.set_result(time.perf_counter())

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`: what is under way is lost, and found to be."""

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`: `open` raises it."""


def percentiles(times: Iterable[float]) -> dict[str, float | None]:
    """Return p50, p90, p99 and the maximum: times that really occurred, by nearest rank.

    They are rounded to microseconds.
    """
    ordered = sorted(round(time, 6) for time in times)
    return {
        name: ordered[math.ceil(share * len(ordered)) - 1] if ordered else None
        for name, share in QUANTILES.items()
    }


def _report(console: Console, server: Server, alias: str, echo: Echo) -> None:
    lost = echo.lost.total()
    found = {"message": percentiles(echo.messages), "PING": percentiles(echo.pings)}
    if console.is_json:
        console.document(
            {
                "layer": alias,
                "address": server.address,
                "sent": echo.sent,
                "lost": lost,
                "reasons": dict(echo.lost),
                "message": found["message"],
                "ping": found["PING"],
            }
        )
        return
    console.line(
        f"Layer {alias} on {server.address}: {plural(echo.sent, 'message')} to this process, {lost} lost",
        "MIGRATE_HEADING",
    )
    rows = [(name, *map(milliseconds, times.values())) for name, times in found.items()]
    console.lines(Line(f"  {line}") for line in table(("", *QUANTILES), rows))
