"""``mpx ping``: how long a message takes to Redis and back, and whether all of them come back."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
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
                lost = f", {echo.lost.total():,} lost" if echo.lost else ""
                console.progress(f"{number} of {options['count']}{lost}")
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

    What is begun without a connection, or loses it on its way, is lost: its time would be that of
    the outage, and not that of the way.

    Args:
        server: Through which server.
        timeout: Seconds after which a message, or a PING, is lost.
    """

    def __init__(self, server: Server, timeout: float) -> None:
        self._server = server
        self._hub = server.hub
        self._timeout = min(timeout, server.layer.options.timeout)
        #: The payload that is to come back, if any, and who waits; both for the home loop.
        self._awaited: tuple[bytes | None, asyncio.Future[float]] | None = None
        self._deaf_since: float | None = None
        self._outages: list[float] = []
        #: How many messages were sent, or should have been.
        self.sent = 0
        #: Seconds that messages took, in order.
        self.messages: list[float] = []
        #: Seconds that PINGs took, in order.
        self.pings: list[float] = []
        #: How many messages, or the PINGs after them, were lost, by reason.
        self.lost: Counter[str] = Counter()

    @property
    def is_deaf(self) -> bool:
        """Whether there is no connection."""
        return self._deaf_since is not None

    @property
    def outages(self) -> list[float]:
        """The seconds of each time without a connection; the last one may not be over."""
        since = self._deaf_since
        return self._outages + ([] if since is None else [time.monotonic() - since])

    def open(self) -> None:
        """Listen. Raises what `Server.join` does."""
        self._server.join([self._hub.inbox], self)

    def close(self) -> None:
        """Listen no more."""
        self._server.leave(self)

    def ping(self) -> None:
        """Send one message and one PING, and note how long they took or why they are lost."""
        try:
            self.messages.append(self._server.call(self._travel, self._send_message))
            self.pings.append(self._server.call(self._travel, self._send_ping))
        except (_Lost, LinkError) as error:
            self.lost[str(error)] += 1
        self.sent += 1

    async def _travel(self, send: Callable[[asyncio.Future[float]], asyncio.Future[Any]]) -> float:
        """Return how long something takes there and back.

        Raises:
            _Lost: It does not come back, or not in time.
            CommandRefused: Redis does not allow it.
        """
        if self._hub.state != "connected":  # it would wait for that, and come back in time
            reason = self._hub.statistics().last_error or "still connecting"
            raise _Lost(f"there was no connection: {reason}")
        back: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        reply = send(back)
        reply.add_done_callback(lambda reply: _tell_failure(reply, back))
        try:
            return await asyncio.wait_for(back, self._timeout) - began
        except LinkError:
            raise  # some are a TimeoutError
        except asyncio.TimeoutError:
            raise _Lost(f"not back within {self._timeout:g} s") from None
        finally:
            self._awaited = None
            reply.cancel()  # it may wait for the next connection

    def _send_message(self, back: asyncio.Future[float]) -> asyncio.Future[Any]:
        # What the layer's probe sends. The time in it tells one from the other.
        payload = envelope.wrap(envelope.Form.PROBE, b"")
        self._awaited = payload, back
        return self._hub.publish(self._hub.inbox.name, payload)

    def _send_ping(self, back: asyncio.Future[float]) -> asyncio.Future[Any]:
        self._awaited = None, back
        pong = self._hub.command(b"PING")
        pong.add_done_callback(lambda pong: None if _has_failed(pong) else _arrive(back))
        return pong

    # As a subscriber, on the reader

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`."""
        if self._awaited is not None and self._awaited[0] == payload:
            _arrive(self._awaited[1])

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""
        if self._deaf_since is not None:
            self._outages.append(time.monotonic() - self._deaf_since)
            self._deaf_since = None

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`: what is under way is lost."""
        if self._deaf_since is None:
            self._deaf_since = time.monotonic()
        if self._awaited is not None and not self._awaited[1].done():
            self._awaited[1].set_exception(_Lost(f"the connection was lost: {reason}"))

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`: `open` raises it."""


class _Lost(Exception):
    """Why something did not come back."""


def _arrive(back: asyncio.Future[float]) -> None:
    if not back.done():
        back.set_result(time.perf_counter())


def _has_failed(reply: asyncio.Future[Any]) -> bool:
    return reply.cancelled() or reply.exception() is not None


def _tell_failure(reply: asyncio.Future[Any], back: asyncio.Future[float]) -> None:
    """Tell who waits for a message that it was not even sent."""
    error = None if reply.cancelled() else reply.exception()
    if error is not None and not back.done():
        back.set_exception(error)


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
                "outages": [round(seconds, 6) for seconds in echo.outages],
                "message": found["message"],
                "ping": found["PING"],
            }
        )
        return
    console.line(
        f"Layer {alias} on {server.address}: {plural(echo.sent, 'message')} to this process, {lost} lost",
        "MIGRATE_HEADING",
    )
    if echo.outages:
        console.line(_outage(echo), "WARNING")
    rows = [(name, *map(milliseconds, times.values())) for name, times in found.items()]
    console.lines(Line(f"  {line}") for line in table(("", *QUANTILES), rows))


def _outage(echo: Echo) -> str:
    outages = echo.outages
    times = "" if len(outages) == 1 else f" in all, {len(outages)} times"
    end = ", and still so" if echo.is_deaf else ""
    total = sum(outages)
    span = f"{total:.1f} s" if total >= 1 else milliseconds(total)
    return f"Without a connection for {span}{times}{end}"
