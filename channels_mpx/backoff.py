"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random
from collections.abc import Iterator


def delays(first: float, most: float) -> Iterator[float]:
    """Yield delays without end: doubling from ``first`` to ``most`` seconds, with jitter.

    Each delay lies between half of its step and the step ("equal jitter"), so that a crowd of
    processes spreads out and yet none comes back at once.
    """
    step = first
    while True:
        yield step * random.uniform(0.5, 1.0)
        step = min(step * 2, most)
