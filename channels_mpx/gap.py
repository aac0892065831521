"""A gap: the time from losing a link to having everything back. Messages may be missing from it."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Gap", "GapWatch", "Listener", "Nobody"]


@dataclass(frozen=True)
class Gap:
    """A gap that is over. What was published in it may be missing; what comes now is complete.

    Attributes:
        epoch: The number of the link that ended it; the first link of a process has number 1.
        reason: Why the link before it was lost.
        seconds: How long it lasted, from the loss until everything wanted was active again.
    """

    epoch: int
    reason: str
    seconds: float


class Listener(Protocol):
    """Whom the connection tells about itself as a whole. Nothing here may wait or raise."""

    def linked(self, epoch: int) -> None:
        """There is a link; nothing is active on it yet."""

    def unlinked(self, reason: str) -> None:
        """A link has ended, however. Any thread may call this."""

    def gap_opened(self, reason: str) -> None:
        """The link is lost."""

    def gap_closed(self, gap: Gap) -> None:
        """Everything wanted is active again."""

    def tick(self) -> None:
        """Some time has passed: see to what needs it."""

    def is_awaited(self) -> bool:
        """Tell whether anybody waits for messages, on any loop."""

    def expects(self) -> bool:
        """Tell whether anything may come through the process's inbox. Any thread may ask."""

    def lasting(self) -> int:
        """Return to how many topics nothing is lost without a link. Any thread may ask."""

    def loop_ended(self, loop: AbstractEventLoop) -> bool:
        """The home loop has ended; tell whether anybody elsewhere waits for messages."""


class Nobody:
    """A listener that does not care."""

    def linked(self, epoch: int) -> None:
        """See `Listener`."""

    def unlinked(self, reason: str) -> None:
        """See `Listener`."""

    def gap_opened(self, reason: str) -> None:
        """See `Listener`."""

    def gap_closed(self, gap: Gap) -> None:
        """See `Listener`."""

    def tick(self) -> None:
        """See `Listener`."""

    def is_awaited(self) -> bool:
        """See `Listener`."""
        return False

    def expects(self) -> bool:
        """See `Listener`."""
        return False

    def lasting(self) -> int:
        """See `Listener`."""
        return 0

    def loop_ended(self, loop: AbstractEventLoop) -> bool:
        """See `Listener`."""
        return False


class GapWatch:
    """Notices when gaps open and close, over all links."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._reason = ""
        self._epoch = 0
        self._missing = 0

    def open(self, reason: str, since: float | None = None) -> bool:
        """Note that something cannot be heard, now or since some time.

        Returns:
            Whether that begins a gap: the last one may not be over.
        """
        if self._began is not None:
            return False
        self._began = time.monotonic() if since is None else since
        self._reason = reason
        return True

    def forget(self) -> None:
        """Nobody is left who could miss anything."""
        self._began = None

    def linked(self, epoch: int, topics: int) -> Gap | None:
        """There is a link again, on which so many topics have to be joined. See `joined`."""
        self._epoch = epoch
        self._missing = topics
        return self._end_if_over()

    def joined(self) -> Gap | None:
        """A topic was confirmed, or refused. Returns the gap that this has ended."""
        self._missing -= 1
        return self._end_if_over()

    def _end_if_over(self) -> Gap | None:
        if self._missing > 0 or self._began is None:
            return None
        gap = Gap(self._epoch, self._reason, time.monotonic() - self._began)
        self._began = None
        return gap
