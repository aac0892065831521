"""Whether a process can send and receive, judged by its numbers alone."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .statistics import LayerStatistics

__all__ = ["PATIENCE", "Health", "judge"]

#: Seconds that a process may be without a connection before that is a problem: losing one and
#: having the next is a matter of less than one second, unless the server is gone.
PATIENCE = 5.0


@dataclass(frozen=True)
class Health:
    """How a layer is in this process. There is no password in it.

    Attributes:
        is_healthy: Whether there are no problems.
        problems: What is wrong, a short sentence each.
        state: ``idle`` (nobody has used the layer yet: no problem), ``connecting`` or
            ``connected``.
        since: When the state began, seconds since 1970.
        epoch: How many connections there have been.
        wanted: Topics that somebody here wants.
        active: Topics that Redis has confirmed; for a moment that may be fewer.
        ping_rtt: Seconds that the last PING took; None if there was none yet.
        probe_rtt: Seconds that Redis took to accept the last message to ourselves, likewise.
        lag: Seconds that the last message took to come here; None if none came in a minute.
        waiting: Messages in the mailboxes of direct channels.
        deepest: The channel with the most of them, and how many; None if all are empty.
    """

    is_healthy: bool
    problems: tuple[str, ...]
    state: str
    since: float
    epoch: int
    wanted: int
    active: int
    ping_rtt: float | None
    probe_rtt: float | None
    lag: float | None
    waiting: int
    deepest: tuple[str, int] | None


def judge(numbers: LayerStatistics, patience: float) -> Health:
    """Return what the numbers mean.

    Args:
        numbers: The layer's.
        patience: Seconds that it may be without a connection before that is a problem.
    """
    connection, problems = numbers.connection, []
    seconds = time.time() - connection.since
    if connection.state == "connecting" and seconds > patience:
        reason = connection.last_error or "no answer yet"
        end = "" if reason.endswith((".", "?", "!")) else "."
        problems.append(f"No connection to Redis for {seconds:.0f} s: {reason}{end}")
    # What is wanted and neither active nor refused is under way: Redis answers, or the link is lost.
    if connection.denied:
        problems.append(f"Redis refuses {connection.denied} of {connection.wanted} subscriptions.")
    return Health(
        is_healthy=not problems,
        problems=tuple(problems),
        state=connection.state,
        since=connection.since,
        epoch=connection.epoch,
        wanted=connection.wanted,
        active=connection.active,
        ping_rtt=connection.ping_rtt,
        probe_rtt=connection.probe_rtt,
        lag=numbers.lag.last if numbers.lag else None,
        waiting=numbers.waiting,
        deepest=numbers.deepest,
    )
