"""Values that pass between the rules and the wire: what to tell Redis, and what came of it.

The router makes them, the multiplexer carries them out. All are immutable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .names import Kind, Topic

__all__ = [
    "Activated",
    "Command",
    "Event",
    "Interrupted",
    "Refused",
    "Subscribe",
    "Subscriber",
    "Unsubscribe",
]


class Subscriber(Protocol):
    """Whoever wants topics. Nothing here may wait or raise: the reader calls it."""

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """A message came for ``topic``; ``channel`` is where it was published."""

    def activated(self, topic: Topic) -> None:
        """Redis has confirmed ``topic``, for the first time or again after a gap."""

    def interrupted(self, reason: str) -> None:
        """The link is lost: from now until activation messages may be missing."""

    def refused(self, topic: Topic, error: Exception) -> None:
        """Redis has refused ``topic``, and the wish for it is gone."""


@dataclass(frozen=True)
class Subscribe:
    """Tell Redis that we want these names. At most `BATCH` of them."""

    kind: Kind
    names: tuple[bytes, ...]


@dataclass(frozen=True)
class Unsubscribe:
    """Tell Redis that we do not want these names any more. At most `BATCH` of them."""

    kind: Kind
    names: tuple[bytes, ...]


@dataclass(frozen=True)
class Activated:
    """Redis has confirmed a topic; it is news to these subscribers."""

    topic: Topic
    subscribers: tuple[Subscriber, ...]


@dataclass(frozen=True)
class Interrupted:
    """The link is lost; each of these subscribers had or wanted a topic on it."""

    subscribers: tuple[Subscriber, ...]
    reason: str


@dataclass(frozen=True)
class Refused:
    """Redis has refused a topic to these subscribers, whose wish for it is gone."""

    topic: Topic
    subscribers: tuple[Subscriber, ...]
    error: Exception


Command = Subscribe | Unsubscribe
Event = Activated | Interrupted | Refused
