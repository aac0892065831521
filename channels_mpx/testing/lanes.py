"""Deliveries and replies that are late, or frozen, on their way to a link.

Each link has a lane, first in, first out, while anything is late there. What comes joins its end,
so that nothing overtakes, however the delay changes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from channels_mpx.memory import MemoryLink

__all__ = ["Lanes"]


@dataclass
class Lane:
    """What is late for one link.

    Attributes:
        items: When each is due, by `time.monotonic`, and what the link is going to be told.
        is_awaited: Whether a call of `Lanes.advance` is on its way.
    """

    items: deque[tuple[float, tuple[Any, ...]]] = field(default_factory=deque)
    is_awaited: bool = False


class Lanes:
    """The lanes of a broker.

    Args:
        lock: The broker's, held whenever anything is pushed to a link.
    """

    def __init__(self, lock: threading.RLock) -> None:
        #: By how many seconds everything is late.
        self.seconds = 0.0
        self._lock = lock
        self._freezes = 0
        self._is_advancing = False
        self._lanes: dict[MemoryLink, Lane] = {}

    def hold(self, link: MemoryLink, what: tuple[Any, ...]) -> bool:
        """Take what is not to arrive now; return whether it was taken. Under the lock."""
        if self._is_advancing:
            return False
        lane = self._lanes.get(link)
        if lane is None:
            if not self.seconds and not self._freezes:
                return False
            lane = self._lanes[link] = Lane()
        due = time.monotonic() + self.seconds
        if lane.items:
            due = max(due, lane.items[-1][0])
        lane.items.append((due, what))
        self._await(link, lane)
        return True

    def freeze(self) -> None:
        """Let nothing pass until `thaw` was called as often as this."""
        with self._lock:
            self._freezes += 1

    def thaw(self) -> None:
        """Let pass what is due."""
        with self._lock:
            self._freezes -= 1
            for link, lane in self._lanes.items():
                self._await(link, lane)

    def _await(self, link: MemoryLink, lane: Lane) -> None:
        if not self._freezes and not lane.is_awaited:
            lane.is_awaited = True
            link.call_soon(self.advance, link, lane)

    def advance(self, link: MemoryLink, lane: Lane) -> None:
        """Hand over what is due; on the link's loop."""
        with self._lock:
            lane.is_awaited = False
            if self._freezes:
                return
            now = time.monotonic()
            self._is_advancing = True
            while lane.items and lane.items[0][0] <= now:
                link.push(*lane.items.popleft()[1])
            self._is_advancing = False
            if lane.items:
                lane.is_awaited = True
                pause = lane.items[0][0] - now
                asyncio.get_running_loop().call_later(pause, self.advance, link, lane)
            else:
                del self._lanes[link]
