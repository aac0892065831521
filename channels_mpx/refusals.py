"""What Redis refuses to subscribe us to on one link: logged, counted, and remembered."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from . import exceptions
from .names import Topic
from .statistics import Counters

__all__ = ["Refusals"]

logger = logging.getLogger("channels_mpx.multiplexer")

#: Refusals that are logged for one link: one wrong rule may concern all names.
MOST_LOGGED = 20


class Refusals:
    """The refused topics of one link after the other.

    Args:
        counters: Where they are counted.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._logged: set[str] = set()
        #: What is refused to those who had it before: why, and since when.
        self._denied: dict[Topic, tuple[str, float]] = {}

    def __repr__(self) -> str:
        return f"<Refusals denied={len(self._denied)}>"

    def begin(self, wanted: Collection[Topic]) -> None:
        """There is a new link, which has refused nothing yet.

        Args:
            wanted: What is still wanted. What was refused of it on earlier links was missed since.
        """
        self._logged.clear()
        self._denied = {it: self._denied[it] for it in self._denied.keys() & set(wanted)}

    def note(self, error: Exception) -> str:
        """Log and count a refusal; return Redis's code."""
        text = str(error)
        if text not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(text)
            logger.warning("channels_mpx: %s", error)
            if len(self._logged) == MOST_LOGGED:
                logger.warning(
                    "channels_mpx: what else Redis refuses on this connection is only counted"
                )
        code = error.code if isinstance(error, exceptions.CommandRefused) else ""
        self._counters.refusal(code)
        return code

    def deny(self, topic: Topic, error: Exception) -> None:
        """A topic is refused to those who had it before: they miss what is sent from now on."""
        self._denied.setdefault(topic, (str(error), time.monotonic()))

    def allow(self, topic: Topic) -> tuple[str, float] | None:
        """A topic is not refused any more. Return why it was, and since when, if it was denied."""
        return self._denied.pop(topic, None)
