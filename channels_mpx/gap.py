"""A gap: the time in which messages may be missing, from before a loss to having everything back.

A gap begins where it is proved that nothing was missing yet, and not where the loss was noticed: see
`Pulse.proven_since`. So everything that was lost lies inside of it.
"""

from __future__ import annotations

import dataclasses
import time
from asyncio import AbstractEventLoop
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Protocol

from .names import Topic

__all__ = ["Gap", "GapWatch", "Listener", "Nobody", "joined"]


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Gap:
    """A gap that is over. What was published in it may be missing; what comes now is complete.

    Everything that was published before ``since``, by the clock of this machine, had been read. A
    gap is somewhat longer than the outage, for nobody can know which of the last bytes were still on
    their way: by about ``ping_interval`` if the connection was closed or silent, by up to
    ``probe_interval`` if the server is no master any more; if it was deaf, it begins before the last
    message.

    Attributes:
        epoch: The number of the link that ended it; the first link of a process has number 1.
        reason: Why the link before it was lost.
        seconds: How long it lasted, from ``since`` until everything wanted was active again.
        since: When it began: an aware datetime, in UTC.
    """

    epoch: int
    reason: str
    seconds: float
    since: datetime = field(default_factory=_now)


def joined(first: Gap, last: Gap, seconds: float) -> Gap:
    """Return what tells of two gaps that are one to the subscriber, since nothing came in between.

    Args:
        first: The gap that it began with, whose reason and beginning stay.
        last: The gap that ended it.
        seconds: How long both lasted.
    """
    return dataclasses.replace(first, epoch=last.epoch, seconds=seconds)


class Listener(Protocol):
    """Whom the connection tells about itself as a whole. Nothing here may wait or raise."""

    def linked(self, epoch: int) -> None:
        """There is a link; nothing is active on it yet."""

    def unlinked(self, reason: str) -> None:
        """A link has ended, however. Any thread may call this."""

    def gap_opened(self, reason: str) -> None:
        """The link is lost."""

    def gap_went_on(self, reason: str) -> None:
        """The link is lost again, before everything was back: some have come in between."""

    def gap_closed(self, gap: Gap) -> None:
        """Everything that was wanted is active again."""

    def tick(self) -> None:
        """Some time has passed: see to what needs it."""

    def is_awaited(self) -> bool:
        """Tell whether anybody would miss the connection, waiting for messages or at work."""

    def expects(self) -> bool:
        """Tell whether anything may come through the process's inbox. Any thread may ask."""

    def lasting(self) -> int:
        """Return to how many topics nothing is lost without a link. Any thread may ask."""

    def loop_ended(self, loop: AbstractEventLoop) -> bool:
        """The home loop has ended; tell whether anybody on another loop misses the connection."""

    def home_begins(self) -> bool:
        """There is a home again, on whose loop this is; tell whether an open gap concerns anybody."""


class Nobody:
    """A listener that does not care."""

    def linked(self, epoch: int) -> None:
        """See `Listener`."""

    def unlinked(self, reason: str) -> None:
        """See `Listener`."""

    def gap_opened(self, reason: str) -> None:
        """See `Listener`."""

    def gap_went_on(self, reason: str) -> None:
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

    def home_begins(self) -> bool:
        """See `Listener`."""
        return self.is_awaited()


class GapWatch:
    """Notices when gaps open and close, over all links."""

    def __init__(self) -> None:
        #: When the gap that is open began, in seconds of `time.monotonic`.
        self._began: float | None = None
        self._reason = ""
        self._epoch = 0
        #: What was wanted when the present link began and has not been answered on it yet; None
        #: without a link.
        self._missing: set[Topic] | None = set()

    @property
    def is_open(self) -> bool:
        """Whether messages may be missing now."""
        return self._began is not None

    def open(self, reason: str, since: float) -> bool:
        """Note that the link is lost.

        Args:
            reason: Why.
            since: From when on messages may be missing, in seconds of `time.monotonic`.

        Returns:
            Whether that begins a gap: the last one may not be over.
        """
        self._missing = None
        return self.open_for_topic(reason, since)

    def open_for_topic(self, reason: str, since: float) -> bool:
        """Note that one topic could not be heard, while the link was there; see `open`."""
        if self._began is not None:
            self._began = min(self._began, since)
            return False
        self._began, self._reason = since, reason
        return True

    def forget(self) -> None:
        """Nobody is left who could miss anything."""
        self._began = None

    def linked(self, epoch: int, topics: Iterable[Topic]) -> Gap | None:
        """There is a link again, on which these topics have to be joined. See `settled`."""
        self._epoch = epoch
        self._missing = set() if self._began is None else set(topics)
        return self._end_if_over()

    def settled(self, topic: Topic) -> Gap | None:
        """A topic was confirmed, or refused, or is not wanted. Returns the gap that this has ended."""
        if self._missing:
            self._missing.discard(topic)
        return self._end_if_over()

    def _end_if_over(self) -> Gap | None:
        if self._missing is None or self._missing or self._began is None:
            return None
        seconds = time.monotonic() - self._began
        gap = Gap(self._epoch, self._reason, seconds, _now() - timedelta(seconds=seconds))
        self._began = None
        return gap
