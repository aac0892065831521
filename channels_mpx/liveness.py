"""Is the link alive, and is it the right one? The rules, without a clock and without I/O.

Silence is measured: after ``ping_interval`` without anything complete, a reply or a message, a PING
goes out. If then no byte comes for ``ping_timeout``, the link is dead. If bytes come, and yet nothing
is complete for ten times as long, it is stuck: something has announced more than it will ever send,
and swallows the replies. (A message of 100 MB is complete in time on a link of 4 MB/s.)

A server that answers is not yet a server through which messages come. So after ``probe_interval``
without a message, one is sent through the publish path to ourselves. If the server took it and it
has not come after one more interval, the link is deaf. A probe that could not be published proves
nothing and changes nothing. The intervals double, up to tenfold, for links that are lost to
deafness again and again. (A master that was demoted gives our messages to its own clients, us
among them, and to nobody else: a probe comes back from it. `Pulse` asks for the role besides.)

A loop that was blocked must not take its own silence for the server's: a check that comes late
only starts the wait anew, so that the socket is read before anybody is judged.
"""

from __future__ import annotations

import enum

#: Seconds that a check may come late before we call the loop blocked.
LATE = 0.5

#: How many times ``ping_timeout`` bytes may come without becoming anything.
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
        self._pinged_at: float | None = None
        self._probed_at: float | None = None
        self._probe_taken_at: float | None = None
        self._heard_at = now
        self._heard = heard
        self._due = now

    def probe_taken(self, now: float) -> None:
        """The server has accepted the probe."""
        if self._probed_at is not None:
            self._probe_taken_at = now

    def probe_failed(self, now: float) -> None:
        """The probe could not be published: that says nothing about what we can hear."""
        self._probed_at = self._probe_taken_at = None
        self._heard_at = now

    def judge(self, now: float, last_read: float, last_parsed: float, heard: int) -> Verdict:
        """Say what to do; the caller does it at once.

        Args:
            now: The time.
            last_read: When the last byte was read.
            last_parsed: When something complete was last read.
            heard: How many messages have come so far, from whomever.
        """
        late = now - self._due > LATE
        if heard != self._heard:
            self._heard = heard
            self._heard_at = now
            if self._probed_at is not None:
                self._probed_at = self._probe_taken_at = None
                self._stretch = 1
        if self._pinged_at is not None:
            if last_parsed >= self._pinged_at:
                self._pinged_at = None
            elif late:
                self._pinged_at = now
            elif now - max(self._pinged_at, last_read) >= self._ping_timeout:
                return Verdict.DEAD
            elif now - self._pinged_at >= self._ping_timeout * PATIENCE:
                return Verdict.STUCK
            return Verdict.NOTHING
        if now - last_parsed >= self._ping_interval:
            self._pinged_at = now
            return Verdict.PING
        interval = self._probe_interval * self._stretch
        if self._probed_at is None:
            if now - self._heard_at >= interval:
                self._probed_at = now
                return Verdict.PROBE
        elif self._probe_taken_at is not None and now - self._probe_taken_at >= interval:
            if late:
                self._probe_taken_at = now
            else:
                self._stretch = min(self._stretch * 2, MOST_STRETCH)
                return Verdict.DEAF
        return Verdict.NOTHING

    def next_check(self, now: float, last_read: float, last_parsed: float) -> float:
        """Return how many seconds later to judge again, and expect to be asked then."""
        if self._pinged_at is not None:
            silent = max(self._pinged_at, last_read) + self._ping_timeout
            due = min(silent, self._pinged_at + self._ping_timeout * PATIENCE)
        else:
            due = last_parsed + self._ping_interval
        interval = self._probe_interval * self._stretch
        if self._probed_at is None:
            due = min(due, self._heard_at + interval)
        elif self._probe_taken_at is not None:
            due = min(due, self._probe_taken_at + interval)
        # Never sooner than a tenth of a second from now, and twice in each interval at least.
        self._due = now + min(max(due - now, 0.1 * self._ping_interval), self._ping_interval / 2)
        return self._due - now
