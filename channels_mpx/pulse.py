"""Takes a link's pulse: carries out what `liveness` decides, with timers and commands.

It also knows how far it is proved that nothing is missing, for the gap that a loss begins. A byte
that was read proves nothing: after a blocked loop, or through a slow network, old ones are read late.
What proves is a round trip. A command that was sent at some time and has been answered says that
everything which the server wrote before that time has been read.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from . import envelope
from .exceptions import CommandRefused
from .liveness import Liveness, Verdict
from .names import Topic
from .statistics import Counters
from .traffic import Traffic
from .wire import Link, Loss

__all__ = ["Pulse"]


#: Turns that the loop gets to read a socket before a silent link is given up: one to run what is ready,
#: one to see that there are bytes, one to read them, and one for a reader that had paused itself.
TURNS = 4

#: Seconds by which a check is late if the loop was blocked, or the whole process stopped.
LATE = 0.05

#: The most seconds that a silent server gets after that, once: what has stopped us, a paused container or
#: a busy machine, may have stopped it too.
MOMENT = 0.5


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
        self._timer: asyncio.Handle | None = None
        self._due = 0.0
        self._link: Link | None = None
        # All of these are seconds of `time.monotonic`.
        #: When the newest PING was sent that was answered.
        self._proven = time.monotonic()
        #: The same at the last check, and at the one before the last message came.
        self._proven_before = self._proven_hearing = self._proven
        #: When the newest question was sent that was answered with *master*.
        self._proven_master = self._proven
        self._heard = 0

    def start(self, link: Link, since: float) -> None:
        """Begin to watch a link.

        Args:
            link: The new link.
            since: When it began to be made, which shook hands with a master, in seconds of
                `time.monotonic`.
        """
        self._link = link
        self._proven = self._proven_before = self._proven_hearing = self._proven_master = since
        self._heard = self._counters.received
        self._role_asked_at = self._loop.time()
        self._liveness.started(self._loop.time(), self._counters.received)
        self._later(link)

    def proven_since(self, loss: Loss) -> float:
        """Return until when it is proved that nothing is missing; the gap of a loss begins there.

        A deaf link answers, and gives no messages: what proves is the last one that came. A server
        that is not the master any more gives messages, but not those that others send to the master.

        Args:
            loss: Why the link is lost.

        Returns:
            Seconds of `time.monotonic`.
        """
        if loss is Loss.DEAF:
            return self._proven_hearing
        return self._proven_master if loss is Loss.NO_MASTER else self._proven

    def stop(self) -> None:
        """Stop watching; what is answered from now on says nothing about the next link."""
        self._link = None
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
        pause = self._liveness.next_check(self._loop.time(), link.last_read)
        self._due = self._loop.time() + pause
        self._timer = self._loop.call_later(pause, self._check, link)

    def _check(self, link: Link) -> None:
        now = self._loop.time()
        if now - self._role_asked_at >= self._role_interval:
            self._role_asked_at = now
            self._ask_role(link)
        self._note_hearing()
        self._note_written(link)
        verdict = self._judge(link)
        if verdict not in (Verdict.DEAD, Verdict.STUCK):
            self._carry_out(verdict, link)
        elif now - self._due > LATE:
            moment = min(MOMENT, self._ping_timeout)
            self._timer = self._loop.call_later(moment, self._look, link, TURNS)
        else:
            self._look(link, TURNS)

    def _look(self, link: Link, turns: int) -> None:
        """Judge again when the loop has read what the socket holds: it may have been blocked."""
        if turns:
            self._timer = self._loop.call_soon(self._look, link, turns - 1)
        else:
            self._carry_out(self._judge(link), link)

    def _judge(self, link: Link) -> Verdict:
        return self._liveness.judge(
            self._loop.time(), link.last_read, link.last_parsed, self._counters.received
        )

    def _note_hearing(self) -> None:
        """If a message has come since the last check, it was sent after what was proved then."""
        if self._counters.received != self._heard:
            self._heard = self._counters.received
            self._proven_hearing = self._proven_before
        self._proven_before = self._proven

    def _note_written(self, link: Link) -> None:
        if link.is_written:
            self._liveness.ping_left(self._loop.time())

    def _carry_out(self, verdict: Verdict, link: Link) -> None:
        if verdict is Verdict.DEAD:
            reason = f"no sign of life for {self._ping_timeout} s after a PING"
            link.lose(reason, Loss.SILENT)
        elif verdict is Verdict.STUCK:
            link.lose("bytes come, but no reply to a PING", Loss.DESYNC)
        elif verdict is Verdict.DEAF:
            link.lose("a message to ourselves did not come back", Loss.DEAF)
        else:
            self._act(verdict, link)
            self._later(link)

    def _act(self, verdict: Verdict, link: Link) -> None:
        if verdict is Verdict.PING:
            self._ping(link)
        elif verdict is Verdict.PROBE and self._traffic.hears(self._inbox, self):
            self._probe(link)
        elif verdict is Verdict.PROBE:
            self._liveness.probe_failed(self._loop.time())

    def _ping(self, link: Link) -> None:
        sent = time.monotonic()

        def answered(reply: asyncio.Future[Any]) -> None:
            is_answered = _answered(reply)
            if link is not self._link:
                return
            if not is_answered:
                self._liveness.ping_refused()
                return
            if _succeeded(reply):
                self._counters.ping_rtt = time.monotonic() - sent
            self._proven = sent
            self._liveness.ping_answered()

        self._ask(link, b"PING").add_done_callback(answered)
        self._loop.call_soon(self._note_written, link)  # the link writes before that

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
        sent = time.monotonic()

        def answered(reply: asyncio.Future[Any]) -> None:
            if not _succeeded(reply) or link is not self._link:
                return
            if reply.result()[0] == b"master":
                self._proven_master = sent
            else:
                link.lose("the server is not a master any more", Loss.NO_MASTER)

        self._ask(link, b"ROLE").add_done_callback(answered)

    def _ask(self, link: Link, *command: bytes) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        link.send(command, future)
        return future


def _succeeded(reply: asyncio.Future[Any]) -> bool:
    return not reply.cancelled() and reply.exception() is None


def _answered(reply: asyncio.Future[Any]) -> bool:
    """Tell whether the server has said anything, and be it that it refuses."""
    refused = not reply.cancelled() and isinstance(reply.exception(), CommandRefused)
    return _succeeded(reply) or refused
