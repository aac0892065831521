"""Dormancy: a channel that nobody reads leaves its groups until somebody does.

Nothing is delivered for a reader that may never come back. If it does, that was a gap like any
other: messages to its groups may be missing, and it is told so.
"""

from __future__ import annotations

import logging
import math
import time
from datetime import datetime, timezone

from .body import Body
from .gap import Gap
from .groups import Groups
from .hub import Hub
from .inbox import DirectMailbox
from .intake import Intake

__all__ = ["Dormancy"]

logger = logging.getLogger("channels_mpx.layer")


class Dormancy:
    """Suspends the memberships of channels that nobody reads. Everything is for the home loop.

    Args:
        hub: The connection.
        groups: The memberships.
        intake: Encodes notices and has the counters.
    """

    def __init__(self, hub: Hub, groups: Groups, intake: Intake) -> None:
        self._hub = hub
        self._groups = groups
        self._intake = intake

    def __repr__(self) -> str:
        return f"<Dormancy {self._groups!r}>"

    def begin(self, mailbox: DirectMailbox, seconds: float) -> None:
        """Nobody has read a channel for so long: it leaves its groups, if it is in any.

        It may be called again while the channel is dormant, and ends what it has joined since.
        """
        if not self._groups.suspend(mailbox) or mailbox.is_dormant:
            return
        mailbox.is_dormant = True
        mailbox.dormant_since = time.monotonic(), datetime.now(timezone.utc)
        self._intake.tally.dormant += 1
        logger.warning(
            "channels_mpx: channel %s has not been read for %.0f s; it leaves its groups until it is read again",
            mailbox.name,
            seconds,
        )

    def end(self, mailbox: DirectMailbox) -> None:
        """Somebody reads the channel again: it joins its groups, and its reader is told of a gap.

        The begin of the gap is told at once, its end when Redis has confirmed the groups.
        """
        if not mailbox.is_dormant:  # another reader was quicker
            return
        options, (began, since) = self._hub.options, mailbox.dormant_since
        reason = f"it was not read for {max(options.expiry, options.group_expiry):g} s"

        def back(gap: Gap) -> Body:
            return self._notice(
                options.on_reconnect,
                reason=reason,
                seconds=gap.seconds,
                since=gap.since.timestamp(),
                epoch=gap.epoch,
            )

        def returned() -> None:
            if options.on_reconnect is not None:
                epoch = self._hub.statistics().epoch
                gap = Gap(epoch, reason, time.monotonic() - began, since)
                mailbox.gap_closed(gap, back(gap), back)

        lost = options.on_disconnect
        mailbox.woke(None if lost is None else self._notice(lost, reason=reason))
        self._groups.resume(mailbox, returned)

    def _notice(self, kind: str | None, **details: str | float) -> Body:
        return Body.made(self._intake.codec, {"type": kind, **details}, math.inf)
