"""Consumers that do nothing but receive and count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from tests.benchmarks.context import STALL, ChannelLayer


class Receivers:
    """Tasks that each ``await layer.receive(name)`` in a loop, as consumers do.

    Attributes:
        delivered: Messages received since the last :meth:`expect`.
        finished: When the last awaited one came, on ``time.perf_counter``'s clock.
        stalled: Whether the last wait ended because nothing came any more.
    """

    def __init__(self, layer: ChannelLayer, names: Iterable[str]) -> None:
        self.delivered = 0
        self.finished = 0.0
        self.stalled = False
        self._goal = 1 << 60
        self._reached = asyncio.Event()
        self._error: BaseException | None = None
        self._tasks = [asyncio.ensure_future(self._read(layer, name)) for name in names]

    def expect(self, count: int) -> None:
        """Start to count anew, up to ``count`` messages."""
        self._reached.clear()
        self.delivered = 0
        self._goal = count

    async def wait(self, window: float) -> bool:
        """Wait for the expected messages, for at most ``window`` seconds.

        Returns:
            Whether all of them came.

        Raises:
            Exception: What ``receive`` raised.
        """
        deadline = time.perf_counter() + window
        self.stalled = False
        while not self._reached.is_set():
            before = self.delivered
            left = min(STALL, deadline - time.perf_counter())
            if left <= 0:
                break
            try:
                await asyncio.wait_for(self._reached.wait(), left)
            except asyncio.TimeoutError:
                if self.delivered == before and left == STALL:
                    self.stalled = True
                    break
        if self._error is not None:
            raise self._error
        if not self._reached.is_set():
            self.finished = time.perf_counter()
        return self._reached.is_set()

    async def close(self) -> None:
        """Cancel the tasks and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, layer: ChannelLayer, name: str) -> None:
        receive = layer.receive
        try:
            while True:
                await receive(name)
                self.delivered += 1
                if self.delivered == self._goal:
                    self.finished = time.perf_counter()
                    self._reached.set()
        except Exception as error:
            self._error = error
            self._reached.set()


async def members(layer: ChannelLayer, group: str, count: int) -> list[str]:
    """Make ``count`` channels and add them to ``group``."""
    names = []
    for _ in range(count):
        name = await layer.new_channel()
        await layer.group_add(group, name)
        names.append(name)
    return names
