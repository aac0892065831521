"""Takes a link's pulse: carries out what `liveness` decides, with timers and commands."""

from __future__ import annotations

import asyncio
from typing import Any

from . import envelope
from .liveness import Liveness, Verdict
from .names import Topic
from .statistics import Counters
from .traffic import Traffic
from .wire import Link, Loss

__all__ = ["Pulse"]


class Pulse:
    """Watches one link after the other on a loop, and loses those that are dead or deaf.

    Args:
        loop: The home loop.
        liveness: The rules.
        counters: Round trips are noted there; the number of messages is read there.
        traffic: Tells whether there is anything that could be missed.
        inbox: The channel that probes go to.
        ping_timeout: For the reason, when a link is dead.
        role_interval: Seconds between two questions whether the server is a master still.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        liveness: Liveness,
        counters: Counters,
        traffic: Traffic,
        inbox: Topic,
        ping_timeout: float,
        role_interval: float,
    ) -> None:
        self._loop = loop
        self._liveness = liveness
        self._counters = counters
        self._traffic = traffic
        self._inbox = inbox
        self._ping_timeout = ping_timeout
        self._role_interval = role_interval
        self._role_asked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, link: Link) -> None:
        """Begin to watch a link."""
        self._role_asked_at = self._loop.time()
        self._liveness.started(self._loop.time(), self._counters.received)
        self._later(link)

    def stop(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()

    # As the subscriber to the inbox, so that probes come back: their count is all that matters.

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`."""

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`."""

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`: who cannot hear must not be judged by hearing."""

    def _later(self, link: Link) -> None:
        pause = self._liveness.next_check(self._loop.time(), link.last_read, link.last_parsed)
        self._timer = self._loop.call_later(pause, self._check, link)

    def _check(self, link: Link) -> None:
        now = self._loop.time()
        if now - self._role_asked_at >= self._role_interval:
            self._role_asked_at = now
            self._ask_role(link)
        verdict = self._liveness.judge(
            now, link.last_read, link.last_parsed, self._counters.received
        )
        if verdict is Verdict.DEAD:
            reason = f"no sign of life for {self._ping_timeout} s after a PING"
            link.lose(reason, Loss.SILENT)
        elif verdict is Verdict.STUCK:
            link.lose("bytes come, but no reply", Loss.DESYNC)
        elif verdict is Verdict.DEAF:
            link.lose("a message to ourselves did not come back", Loss.DEAF)
        else:
            self._act(verdict, link, now)
            self._later(link)

    def _act(self, verdict: Verdict, link: Link, now: float) -> None:
        if verdict is Verdict.PING:
            self._ping(link)
        elif verdict is Verdict.PROBE and self._traffic.hears(self._inbox, self):
            self._probe(link)
        elif verdict is Verdict.PROBE:
            self._liveness.probe_failed(now)

    def _ping(self, link: Link) -> None:
        sent = self._loop.time()

        def answered(reply: asyncio.Future[Any]) -> None:
            if _succeeded(reply):
                self._counters.ping_rtt = self._loop.time() - sent

        self._ask(link, b"PING").add_done_callback(answered)

    def _probe(self, link: Link) -> None:
        """Send ourselves a message."""
        sent = self._loop.time()

        def published(reply: asyncio.Future[Any]) -> None:
            if _succeeded(reply):
                self._liveness.probe_taken(self._loop.time())
                self._counters.probe_rtt = self._loop.time() - sent
            else:
                self._liveness.probe_failed(self._loop.time())

        payload = envelope.wrap(envelope.Form.PROBE, b"")
        self._ask(link, b"PUBLISH", self._inbox.name, payload).add_done_callback(published)

    def _ask_role(self, link: Link) -> None:
        """Give up a server that is no master: what is published there reaches only its clients."""

        def answered(reply: asyncio.Future[Any]) -> None:
            if _succeeded(reply) and reply.result()[0] != b"master":
                link.lose("the server is not a master any more", Loss.NO_MASTER)

        self._ask(link, b"ROLE").add_done_callback(answered)

    def _ask(self, link: Link, *command: bytes) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        link.send(command, future)
        return future


def _succeeded(reply: asyncio.Future[Any]) -> bool:
    return not reply.cancelled() and reply.exception() is None
