"""Is the link alive, and is it the right one? The rules, without a clock and without I/O.

A PING goes out ``ping_interval`` after the last one, whatever else comes meanwhile. Its answer proves
that everything which the server wrote before has been read: from there a gap begins, if the link is
lost (see `Pulse.proven_since`). If no byte comes for ``ping_timeout`` while a PING is out, the link is
dead. If bytes come, and yet the PING is not answered for ten times as long, it is stuck: something has
announced more than it will ever send and swallows the replies, or only one way of the connection
works, and whoever sends waits for ever. (Behind a message of 100 MB the answer comes in time on a link
of 4 MB/s.)

A server that answers is not yet a server through which messages come. So after ``probe_interval``
without a message, one is sent through the publish path to ourselves. If the server took it and it
has not come after one more interval, the link is deaf. A probe that could not be published proves
nothing and changes nothing. The intervals double, up to tenfold, for links that are lost to
deafness again and again. (A master that was demoted gives our messages to its own clients, us
among them, and to nobody else: a probe comes back from it. `Pulse` asks for the role besides.)

A loop that was blocked must not take its own silence for the server's, and must notice a dead server
all the same. So the rules do not ask whether a check comes late, but what it can know:

* The caller of a DEAD or STUCK looks at the socket, judges again, and acts if that says the same. If it was
  late itself, it gives the server a moment before, once.
* A PING is waited for from the moment when it left. Until then, and for a link that is stuck, the seconds
  by which checks came late do not count: the loop could neither write nor read in them.
* Only a PING that was sent when the server had taken the probe, and was answered, makes a link deaf:
  the probe would have come before that answer.
"""

from __future__ import annotations

import enum

#: How many times ``ping_timeout`` bytes may come without the answer to a PING.
PATIENCE = 10

#: How far repeated deafness stretches the probe interval.
MOST_STRETCH = 10


class Verdict(enum.Enum):
    """What to do now."""

    NOTHING = "nothing"
    PING = "ping"
    PROBE = "probe"
    DEAD = "dead"
    STUCK = "stuck"
    DEAF = "deaf"


class Liveness:
    """Watches one link after the other. Times are seconds of any one monotonic clock."""

    def __init__(self, ping_interval: float, ping_timeout: float, probe_interval: float) -> None:
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._probe_interval = probe_interval
        self._stretch = 1
        self.started(0.0, 0)

    def started(self, now: float, heard: int) -> None:
        """A new link begins, after so many messages on earlier ones."""
        #: When the last PING was asked for, when it left, and whether it is waited for.
        self._pinged_at = now
        self._left_at: float | None = None
        self._is_pinging = self._is_refused = False
        #: When the newest PING was asked for that was answered.
        self._proven_at = now
        #: Seconds since the last PING by which checks came late.
        self._late = 0.0
        self._probed_at: float | None = None
        self._probe_taken_at: float | None = None
        self._heard_at = now
        self._heard = heard
        self._due = now

    def ping_left(self, now: float) -> None:
        """All that was sent is on its way to the server, the PING with it."""
        if self._left_at is None:
            self._left_at = now

    def ping_answered(self) -> None:
        """The server has answered the PING: everything that it said before it has been read."""
        self._is_pinging = False
        self._proven_at = self._pinged_at

    def ping_refused(self) -> None:
        """The link had no room for the PING; as soon as it lives, another one is due."""
        self._is_refused = True

    def probe_taken(self, now: float) -> None:
        """The server has accepted the probe."""
        if self._probed_at is not None:
            self._probe_taken_at = now

    def probe_failed(self, now: float) -> None:
        """The probe could not be published: that says nothing about what we can hear."""
        self._probed_at = self._probe_taken_at = None
        self._heard_at = now

    def judge(self, now: float, last_read: float, last_parsed: float, heard: int) -> Verdict:
        """Say what to do; the caller does it at once, but looks at the socket before it ends a link.

        Args:
            now: The time.
            last_read: When the last byte was read.
            last_parsed: When something complete was last read.
            heard: How many messages have come so far, from whomever.
        """
        self._late += max(0.0, now - self._due)
        self._due = now
        if heard != self._heard:
            self._heard = heard
            self._heard_at = now
            if self._probed_at is not None:
                self._probed_at = self._probe_taken_at = None
                self._stretch = 1
        if self._is_pinging and self._is_refused and last_parsed >= self._pinged_at:
            self._is_pinging = False
        if self._is_pinging:
            return self._judge_silence(now, last_read)
        verdict = self._judge_hearing(now)
        is_due = now - self._pinged_at >= self._ping_interval or self._is_refused
        if verdict is Verdict.NOTHING and is_due:
            self._pinged_at, self._left_at, self._late = now, None, 0.0
            self._is_pinging, self._is_refused = True, False
            return Verdict.PING
        return verdict

    def _judge_silence(self, now: float, last_read: float) -> Verdict:
        if self._left_at is None:
            silent = now - max(self._pinged_at, last_read) - self._late
        else:
            silent = now - max(self._left_at, last_read)
        if silent >= self._ping_timeout:
            return Verdict.DEAD
        unanswered = now - (self._left_at or self._pinged_at) - self._late
        if unanswered >= self._ping_timeout * PATIENCE:
            return Verdict.STUCK
        return Verdict.NOTHING

    def _judge_hearing(self, now: float) -> Verdict:
        interval = self._probe_interval * self._stretch
        if self._probed_at is None:
            if now - self._heard_at >= interval:
                self._probed_at = now
                return Verdict.PROBE
        elif (
            self._probe_taken_at is not None
            and now - self._probe_taken_at >= interval
            and self._proven_at >= self._probe_taken_at
        ):
            self._stretch = min(self._stretch * 2, MOST_STRETCH)
            return Verdict.DEAF
        return Verdict.NOTHING

    def next_check(self, now: float, last_read: float) -> float:
        """Return how many seconds later to judge again, and expect to be asked then."""
        if self._is_pinging:
            left_at = self._left_at or self._pinged_at
            due = max(left_at, last_read) + self._ping_timeout
            due = min(due, left_at + self._ping_timeout * PATIENCE)
        else:
            due = self._pinged_at + self._ping_interval
        interval = self._probe_interval * self._stretch
        if self._probed_at is None:
            due = min(due, self._heard_at + interval)
        elif self._probe_taken_at is not None:
            due = min(due, self._probe_taken_at + interval)
        # Never sooner than a tenth of a second from now, and twice in each interval at least.
        self._due = now + min(max(due - now, 0.1 * self._ping_interval), self._ping_interval / 2)
        return self._due - now
