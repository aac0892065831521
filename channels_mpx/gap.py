"""A gap: the time from losing a link to having everything back. Messages may be missing from it."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop
from typing import Protocol

__all__ = ["Gap", "Listener", "Nobody"]


class Listener(Protocol):
    """Whom the connection tells about itself as a whole. Nothing here may wait or raise."""

    def gap_opened(self, reason: str) -> None:
        """The link is lost."""

    def gap_closed(self, seconds: float) -> None:
        """Everything wanted is active again, after so many seconds."""

    def tick(self) -> None:
        """Some time has passed: see to what needs it."""

    def is_awaited(self) -> bool:
        """Tell whether anybody waits for messages, on any loop."""

    def loop_ended(self, loop: AbstractEventLoop) -> bool:
        """The home loop has ended; tell whether anybody elsewhere waits for messages."""


class Nobody:
    """A listener that does not care."""

    def gap_opened(self, reason: str) -> None:
        """See `Listener`."""

    def gap_closed(self, seconds: float) -> None:
        """See `Listener`."""

    def tick(self) -> None:
        """See `Listener`."""

    def is_awaited(self) -> bool:
        """See `Listener`."""
        return False

    def loop_ended(self, loop: AbstractEventLoop) -> bool:
        """See `Listener`."""
        return False


class Gap:
    """Notices when gaps open and close, over all links."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._missing = 0

    def open(self) -> bool:
        """The link is lost. Returns whether that begins a gap: the last one may not be over."""
        if self._began is not None:
            return False
        self._began = time.monotonic()
        return True

    def forget(self) -> None:
        """Nobody is left who could miss anything."""
        self._began = None

    def linked(self, topics: int) -> float | None:
        """There is a link again, on which so many topics have to be joined. See `joined`."""
        self._missing = topics
        return self._seconds_if_over()

    def joined(self) -> float | None:
        """A topic was confirmed, or refused. Returns the length of a gap that this has ended."""
        self._missing -= 1
        return self._seconds_if_over()

    def _seconds_if_over(self) -> float | None:
        if self._missing > 0 or self._began is None:
            return None
        seconds = time.monotonic() - self._began
        self._began = None
        return seconds
