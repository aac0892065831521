"""The reading end of a subscription: takes items out of its mailbox, and calls callbacks.

A subscription with ``on_message`` has a task that calls it; without one, whoever wants a message
asks for it. Either way callbacks are called one at a time, in order, by whoever takes the items
out, and never by the reader of the connection. What they raise is logged and dropped.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

from . import exceptions
from .arguments import require_callable, require_timeout
from .couriers import require_no_loop
from .gap import Gap
from .hub import Hub
from .mailbox import Item, Mailbox, Observer
from .policies import Overflow, choose
from .reception import Notice, PubSubMessage
from .statistics import Tally

__all__ = [
    "Bounds",
    "Callbacks",
    "OnActivation",
    "OnDisconnect",
    "OnGap",
    "OnMessage",
    "Reader",
    "SyncReading",
]

logger = logging.getLogger("channels_mpx.multiplexer")

OnMessage = Callable[[bytes, bytes], Awaitable[None] | None]
"""Called with the channel and the payload of each message; may return an awaitable."""

OnDisconnect = Callable[[Exception], Awaitable[None] | None]
"""Called with the reason when the link is lost; may return an awaitable."""

OnActivation = Callable[[bytes], Awaitable[None] | None]
"""Called with the channel or pattern when Redis has confirmed it; may return an awaitable."""

OnGap = Callable[[Gap], Awaitable[None] | None]
"""Called with a gap when it is over; may return an awaitable."""

#: Seconds for which reading without a loop waits at a time.
SLICE = 1.0

#: Messages that callbacks get before the loop's other work has its turn.
AT_ONCE = 64


@dataclass(frozen=True)
class Bounds:
    """How much may wait for whoever reads a subscription, and what to do with more.

    Args:
        capacity: Messages.
        max_bytes: Bytes of channels and payloads.
        overflow: ``drop_newest``, ``drop_oldest`` or ``close``.

    Raises:
        InvalidArgument: A bound is not a positive whole number.
        ConfigurationError: There is no such way to overflow.
    """

    capacity: int = 10_000
    max_bytes: int = 64 * 2**20
    overflow: str | Overflow = Overflow.DROP_NEWEST

    def __post_init__(self) -> None:
        for name in ("capacity", "max_bytes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise exceptions.InvalidArgument(name=name, value=value)
        object.__setattr__(self, "overflow", choose(Overflow, "overflow", self.overflow))

    def mailbox(self, name: str, tally: Tally, observer: Observer) -> Mailbox:
        """Return a mailbox with these bounds."""
        assert isinstance(self.overflow, Overflow)
        return Mailbox(
            name, self.capacity, self.max_bytes, math.inf, tally, observer, self.overflow
        )


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
        return frozenset(f.name for f in fields(self) if getattr(self, f.name)) | {"on_end"}


class Reader:
    """Takes a subscription's items out of its mailbox.

    Args:
        owner: The subscription, for the log.
        mailbox: Where the items are.
        callbacks: What to call.
        taken: Told about each notice that was taken out.
    """

    def __init__(
        self,
        owner: object,
        mailbox: Mailbox,
        callbacks: Callbacks,
        taken: Callable[[Notice], object],
    ) -> None:
        self._owner = owner
        self._mailbox = mailbox
        self._callbacks = callbacks
        self._taken = taken
        #: Callbacks for single channels, instead of ``on_message``.
        self.handlers: dict[bytes, OnMessage] = {}
        self.is_ended = False
        #: Messages that callbacks or readers got.
        self.delivered = 0

    @property
    def has_callback(self) -> bool:
        """Whether all messages go to ``on_message``."""
        return self._callbacks.on_message is not None

    async def run(self) -> None:
        """Call the callbacks until the subscription ends."""
        at_once = 0
        while not self.is_ended:
            item: Any = self._mailbox.take()
            at_once += 1
            if item is None:
                item = await self._mailbox.get()
                at_once = 0
            elif at_once == AT_ONCE:
                await asyncio.sleep(0)
                at_once = 0
            if type(item) is PubSubMessage:
                callback = self._callbacks.on_message
                if self.handlers:
                    callback = self.handlers.get(item.channel, callback)
                assert callback is not None
                self.delivered += 1
                await self._call(callback, item.channel, item.payload)
            else:
                await self._tell(item)

    async def next(self, timeout: float | None) -> PubSubMessage | None:
        """Return the next message that no callback takes; None if there is none in time.

        Cancelling loses no message.

        Args:
            timeout: Seconds; None: as long as it takes.

        Raises:
            SubscriptionIsClosed: There will be none any more.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while True:
            item = self._mailbox.take() or await self._wait(deadline)
            if item is None:
                return None
            if not isinstance(item, PubSubMessage):
                await self._tell(item)
                continue
            handler = self.handlers.get(item.channel)
            self.delivered += 1
            if handler is None:
                return item
            await self._call(handler, item.channel, item.payload)

    async def _wait(self, deadline: float | None) -> Item | None:
        """Return what comes next, or None at the deadline, in seconds of the loop's clock."""
        mailbox, loop = self._mailbox, asyncio.get_running_loop()
        while True:
            waiter = mailbox.arrival()
            try:
                left = None if deadline is None else max(0.0, deadline - loop.time())
                await asyncio.wait([waiter], timeout=left)
            except BaseException:  # cancellation too: a message in hand goes back
                mailbox.abandon(waiter)
                raise
            if not waiter.done():
                mailbox.abandon(waiter)
                return None
            item = waiter.result()
            if item is not None:
                mailbox.taken += 1
                return item
            item = mailbox.take()
            if item is not None:
                return item

    async def _tell(self, notice: Any) -> None:
        """Call the callback for a notice; after the last one, end."""
        self._taken(notice)
        event = notice.event
        is_end = event == "on_end"
        callback = getattr(self._callbacks, "on_disconnect" if is_end else event)
        if callback is not None:
            await self._call(callback, notice.value)
        if is_end:
            self.is_ended = True
            self._mailbox.close(notice.value)

    async def _call(self, callback: Callable[..., Any], *args: Any) -> None:
        try:
            result = callback(*args)
            if result is not None and inspect.isawaitable(result):
                await result
        except asyncio.CancelledError:
            if self.is_ended or _is_cancelled():
                raise
            logger.warning("! a callback of %r awaited what was cancelled", self._owner)
        except Exception:  # a user's callback may raise anything
            logger.warning("! a callback of %r failed", self._owner, exc_info=True)


class Readable(Protocol):
    """A subscription, as whoever reads it sees it."""

    async def get_message(self, timeout: float | None = None) -> PubSubMessage | None:
        """Return the next message."""

    async def activated(self, timeout: float | None = None) -> None:
        """Return when everything is active."""


class SyncReading:
    """Reading a subscription without an event loop; blocks the thread that calls.

    Callbacks for notices run in the background, on the connection's own loop.

    Args:
        subscription: What to read.
        hub: The connection.
    """

    def __init__(self, subscription: Readable, hub: Hub) -> None:
        self._subscription = subscription
        self._hub = hub

    def get_message(self, timeout: float | None = None) -> PubSubMessage | None:
        """Return the next message; see `ChannelSubscription.get_message`.

        Raises:
            SyncCallFromAsync: On a thread that runs an event loop.
        """
        require_no_loop("get_message")
        seconds = require_timeout(timeout)
        until = math.inf if seconds is None else time.monotonic() + seconds
        while True:
            left = max(0.0, min(until - time.monotonic(), SLICE))
            message = self._hub.call_sync(self._subscription.get_message, left)
            if message is not None or time.monotonic() >= until:
                return message

    def activated(self, timeout: float | None = None) -> None:
        """Block until Redis has confirmed all; see `ChannelSubscription.activated`.

        Raises:
            SyncCallFromAsync: On a thread that runs an event loop.
        """
        require_no_loop("activated")
        seconds = require_timeout(timeout)
        until = math.inf if seconds is None else time.monotonic() + seconds
        while True:
            left = max(0.0, min(until - time.monotonic(), SLICE))
            try:
                return self._hub.call_sync(self._subscription.activated, left)
            except exceptions.NotConfirmed:
                if time.monotonic() >= until:
                    raise

    def __iter__(self) -> Iterator[PubSubMessage]:
        while True:
            try:
                message = self.get_message()
            except exceptions.SubscriptionOverflow:
                raise
            except exceptions.SubscriptionIsClosed:
                return
            assert message is not None
            yield message


def _is_cancelled() -> bool:
    """Tell whether it is this task that is cancelled, and not something that it awaits."""
    cancelling = getattr(asyncio.current_task(), "cancelling", None)  # since Python 3.11
    return cancelling is None or cancelling() > 0
