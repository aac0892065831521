"""How long messages take from their sender to this process.

Each message says when it was sent. That is looked at ten times a second at most, and then for the
first message that comes: after a pause, whatever caused it, the first one is the latest.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

__all__ = ["Lag", "LagMeter"]

#: Seconds between two samples.
INTERVAL = 0.1

#: Seconds for which a sample counts.
WINDOW = 60.0

#: Seconds that no message takes: long before, a link on which it could be under way is given up.
#: What says so was not written by a process of the layer, or on a machine whose clock is wrong.
ABSURD = 3600.0


@dataclass(frozen=True)
class Lag:
    """Seconds from sending to arrival, over the messages of the last minute that were looked at.

    The sender's wall clock is compared with that of this machine: what the two differ by is in each
    figure, and if the sender's is ahead a figure may be negative. Of a message that says that it
    was sent more than an hour ago, or an hour from now, nothing is in them.

    Attributes:
        last: Of the latest sample.
        average: Of all samples.
        most: The largest.
        samples: How many there were; at most ten for each second.
    """

    last: float
    average: float
    most: float
    samples: int


class LagMeter:
    """Takes samples on the reader; is asked by any thread.

    Attributes:
        due: When the next sample may be taken, in seconds of `time.monotonic`. Before that there is
            nothing to call, which is what keeps it cheap.
    """

    __slots__ = ("_samples", "due")

    def __init__(self) -> None:
        self.due = 0.0
        self._samples: deque[tuple[float, float]] = deque(maxlen=round(WINDOW / INTERVAL))

    def __repr__(self) -> str:
        return f"<LagMeter samples={len(self._samples)}>"

    def take(self, arrived: float, sent_at: float) -> None:
        """Note one message; if it was sent at an absurd time, the next one is looked at instead.

        Args:
            arrived: Now, in seconds of `time.monotonic`.
            sent_at: When it was sent, in seconds since 1970 on the sender's clock.
        """
        lag = time.time() - sent_at
        if -ABSURD <= lag <= ABSURD:
            self.due = arrived + INTERVAL
            self._samples.append((arrived, lag))

    def read(self, now: float) -> Lag | None:
        """Return the figures of the last minute; None if nothing came in it.

        Args:
            now: The time, in seconds of `time.monotonic`.
        """
        lags = [lag for arrived, lag in self._samples.copy() if now - arrived <= WINDOW]
        if not lags:
            return None
        return Lag(lags[-1], sum(lags) / len(lags), max(lags), len(lags))
