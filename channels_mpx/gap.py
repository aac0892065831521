"""A gap: the time from losing a link to having everything back. Messages may be missing from it."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Gap", "Listener"]


class Listener(Protocol):
    """Whom a supervisor tells about the connection as a whole. Nothing here may wait or raise."""

    def gap_opened(self, reason: str) -> None:
        """The link is lost."""

    def gap_closed(self, seconds: float) -> None:
        """Everything wanted is active again, after so many seconds."""

    def tick(self) -> None:
        """Some time has passed: see to what needs it."""


class Gap:
    """Notices when gaps open and close.

    Args:
        listener: Told once for each gap that it has opened, and once that it is closed.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._began: float | None = None
        self._missing = 0

    def open(self, reason: str) -> None:
        """The link is lost; nothing new if the last gap has not been closed."""
        if self._began is None:
            self._began = time.monotonic()
            self._listener.gap_opened(reason)

    def linked(self, topics: int) -> None:
        """There is a link again, and so many topics have to be joined on it."""
        self._missing = topics
        self._close_if_whole()

    def joined(self) -> None:
        """One of the topics has been confirmed, or refused."""
        self._missing -= 1
        self._close_if_whole()

    def _close_if_whole(self) -> None:
        if self._missing <= 0 and self._began is not None:
            seconds = time.monotonic() - self._began
            self._began = None
            self._listener.gap_closed(seconds)
