"""Those who wait for a message, on any event loops: told of it one by one, in order."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import _get_running_loop
from typing import Protocol

__all__ = ["Item", "Waiter", "WaitingRoom"]


class Item(Protocol):
    """What is waited for: its size in bytes and its arrival in seconds of `time.monotonic`."""

    size: int
    arrived: float


class Waiter(Protocol):
    """Whoever waits for the next message: a future, or something that acts like one."""

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop on which it waits."""

    def done(self) -> bool:
        """Tell whether it waits no more."""

    def set_result(self, item: Item | None, /) -> None:
        """Take a message; None when there may be one to take. On its own loop."""


class WaitingRoom:
    """Those who wait. Any thread may come, go and release."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[Waiter] = []

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiters)

    def living_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return a loop on which somebody waits; forget those whose loops are closed."""
        for waiter in tuple(self._waiters):
            loop = waiter.get_loop()
            if not loop.is_closed():
                return loop
            self.forget(waiter)
        return None

    def forget(self, waiter: Waiter) -> None:
        """Have nobody told of the next message who is told no more."""
        with contextlib.suppress(ValueError):  # another thread may have taken it out
            self._waiters.remove(waiter)

    def _first_waiter_here(self) -> Waiter | None:
        """Take out the first waiter, if it can be released from here and now."""
        try:
            waiter = self._waiters[0]
            if waiter.get_loop() is not _get_running_loop():
                return None
            self._waiters.remove(waiter)  # itself: at its place may be another one by now
        except (IndexError, ValueError):  # another thread has just taken it out
            return None
        return None if waiter.done() else waiter

    def _wake(self) -> None:
        """Release the first waiter that can still be released."""
        while self._waiters:
            try:
                waiter = self._waiters.pop(0)
            except IndexError:  # another thread has just taken it out
                return
            loop = waiter.get_loop()
            if loop is not _get_running_loop():
                with contextlib.suppress(RuntimeError):  # its loop is closed: try the next one
                    loop.call_soon_threadsafe(self._release, waiter)
                    return
            elif not waiter.done():
                waiter.set_result(None)
                return

    def _release(self, waiter: Waiter) -> None:
        """On the waiter's loop: let it look, or, if it has gone meanwhile, the next one."""
        if waiter.done():
            self._wake()
        else:
            waiter.set_result(None)
