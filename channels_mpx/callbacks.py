"""What users have called: functions, methods, partials, lambdas, objects; sync or async.

A callback may return anything. If it can be awaited it is awaited, so that it does not matter how
Python spells "async" this time. What it raises is logged, with the subscription, and dropped.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Any

from .arguments import require_callable
from .gap import Gap

__all__ = ["Callbacks", "OnActivation", "OnDisconnect", "OnGap", "OnMessage", "call"]

logger = logging.getLogger("channels_mpx.multiplexer")

OnMessage = Callable[[bytes, bytes], Awaitable[None] | None]
"""Called with the channel and the payload of each message; may return an awaitable."""

OnDisconnect = Callable[[Exception], Awaitable[None] | None]
"""Called with the reason when the link is lost; may return an awaitable."""

OnActivation = Callable[[bytes], Awaitable[None] | None]
"""Called with the channel or pattern when Redis has confirmed it; may return an awaitable."""

OnGap = Callable[[Gap], Awaitable[None] | None]
"""Called with a gap when it is over; may return an awaitable."""


@dataclass(frozen=True)
class Callbacks:
    """What a subscription calls.

    Raises:
        NotCallable: One of them cannot be called.
    """

    on_message: OnMessage | None = None
    on_disconnect: OnDisconnect | None = None
    on_activation: OnActivation | None = None
    on_gap: OnGap | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            require_callable(field.name, getattr(self, field.name))

    @property
    def events(self) -> frozenset[str]:
        """The notices that somebody cares for."""
        given = (field.name for field in fields(self) if getattr(self, field.name) is not None)
        return frozenset(given) | {"on_end"}


async def call(owner: object, callback: Callable[..., Any], *args: Any) -> None:
    """Call a user's callback, and await what it returns if that can be awaited.

    Args:
        owner: Whose callback it is, for the log.
        callback: What to call.
        args: For the callback.

    Raises:
        CancelledError: The task that calls was cancelled.
    """
    try:
        result = callback(*args)
        if result is not None and inspect.isawaitable(result):
            await _told_apart(result)
    except (asyncio.CancelledError, _AwaitedCancelled) as error:
        if isinstance(error, asyncio.CancelledError) and _is_cancelled():
            raise
        logger.warning("channels_mpx: a callback of %r awaited what was cancelled", owner)
    except Exception:  # a user's callback may raise anything
        logger.warning("channels_mpx: a callback of %r failed", owner, exc_info=True)


class _AwaitedCancelled(Exception):
    """Not the task that awaits was cancelled, but what it awaited."""


if sys.version_info < (3, 11):
    # A task does not know whether it was cancelled, or what it awaits: so that is awaited in a
    # task of its own.

    async def _told_apart(awaitable: Awaitable[object]) -> None:
        inner = asyncio.ensure_future(awaitable)
        try:
            await asyncio.wait([inner])
        except asyncio.CancelledError:
            inner.cancel()
            raise
        if inner.cancelled():
            raise _AwaitedCancelled
        inner.result()

    def _is_cancelled() -> bool:
        return True

else:

    def _told_apart(awaitable: Awaitable[object]) -> Awaitable[object]:
        return awaitable

    def _is_cancelled() -> bool:
        """Tell whether it is this task that is cancelled, and not something that it awaits."""
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
