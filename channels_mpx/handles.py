"""What users hold of a subscription, and what the connection holds of it.

A handle has verbs for its user and nothing else. What the connection asks and tells goes to the
handle's `Tie`, which is what its registry knows.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from . import exceptions
from .gap import Gap
from .hub import Hub
from .registry import Registry

__all__ = ["Handle", "Tie"]

Self = TypeVar("Self", bound="Handle")


class Handle:
    """A subscription, as its user holds it.

    It can be used as an asynchronous context manager, which waits for its activation, ``timeout``
    seconds at most, and closes it.

    Args:
        hub: The connection.
        registry: Its subscriptions.
    """

    _tie: Tie

    def __init__(self, hub: Hub, registry: Registry) -> None:
        self._hub = hub
        self._hold = hub.hold()
        self._registry = registry
        self._is_closed = False

    async def __aenter__(self: Self) -> Self:
        try:
            await self._wait(self._hub.options.timeout)
        except BaseException:  # cancellation too: the context was not entered
            self.close()
            raise
        return self

    async def __aexit__(self, *raised: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it is over, by `close`, by its overflow, with its loop, or in a forked child."""
        return self._is_closed

    def close(self) -> None:
        """End it. Idempotent; each kind of subscription has more to say."""

    async def _wait(self, timeout: float) -> None:
        """Return when it is active; each kind of subscription knows when that is."""

    def _require_open(self) -> None:
        if self._is_closed:
            raise exceptions.SubscriptionIsClosed(what=repr(self))


class Tie:
    """A handle, as its connection sees it; see `Registered`.

    The registry holds it weakly, the handle does not: it lives as long as its handle.

    Args:
        handle: The handle, made on the loop that runs now.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        #: The loop on which the handle was made and with which it ends; None if there was none.
        self.loop = asyncio._get_running_loop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._handle!r}>"

    @property
    def closed(self) -> bool:
        """See `Registered.closed`."""
        return self._handle.closed

    def outlives(self, ended: asyncio.AbstractEventLoop) -> bool:
        """See `Registered.outlives`. One that was made on that loop is closed."""
        if self.loop is ended:
            self.close()
        return not self.closed

    def gap_opened(self, reason: str) -> None:
        """See `Registered.gap_opened`."""

    def gap_went_on(self, reason: str) -> None:
        """See `Registered.gap_went_on`: whoever wants something is told by the router."""

    def gap_closed(self, gap: Gap) -> None:
        """See `Registered.gap_closed`."""

    def close(self) -> None:
        """See `Registered.close`."""
        self._handle.close()
