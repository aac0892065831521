"""The reading end of a subscription: takes items out of its mailbox, and calls callbacks.

A subscription with ``on_message`` has a task that calls it; without one, whoever wants a message
asks for it. Either way callbacks are called one at a time, in order, by whoever takes the items
out, and never by the reader of the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import exceptions
from .callbacks import Callbacks, OnMessage, call
from .mailbox import Item, Mailbox, Observer
from .policies import Overflow, choose
from .reception import Notice, PubSubMessage
from .statistics import Tally

__all__ = ["AT_ONCE", "Bounds", "Reader"]

#: Items that are taken before the loop's other work has its turn.
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
                raise exceptions.InvalidArgument(
                    name=name, required="a positive whole number", value=value
                )
        object.__setattr__(self, "overflow", choose(Overflow, "overflow", self.overflow))

    def mailbox(self, name: str, tally: Tally, observer: Observer) -> Mailbox:
        """Return a mailbox with these bounds."""
        policy = choose(Overflow, "overflow", self.overflow)
        return Mailbox(name, self.capacity, self.max_bytes, math.inf, tally, observer, policy)


def _removed(channel: bytes, payload: bytes) -> None:
    """What becomes of a message whose channel was removed while it waited: nothing."""


class Reader:
    """Takes a subscription's items out of its mailbox.

    Args:
        owner: The subscription, for the log.
        mailbox: Where the items are.
        callbacks: What to call.
        taken: Told about each notice that was taken out.
        handlers: The callback of each channel, None for what is said for all. Messages on other
            channels are dropped. Without handlers there are no such.
        tally: Where messages are counted that callbacks or readers got, and those that were dropped
            because their channel is gone; None: nowhere else.
    """

    def __init__(
        self,
        owner: object,
        mailbox: Mailbox,
        callbacks: Callbacks,
        taken: Callable[[Notice], object],
        handlers: Mapping[bytes, OnMessage | None] | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._owner = owner
        self._mailbox = mailbox
        self._callbacks = callbacks
        self._taken = taken
        self._handlers = {} if handlers is None else handlers
        self._otherwise = None if handlers is None else _removed
        self._at_once = 0
        self._is_ended = False
        self._task: asyncio.Task[None] | None = None
        self._tally = Tally() if tally is None else tally

    @property
    def delivered(self) -> int:
        """Messages that callbacks or readers got."""
        return self._tally.delivered

    @property
    def has_callback(self) -> bool:
        """Whether all messages go to callbacks."""
        return self._callbacks.on_message is not None

    # With callbacks

    def begin(self) -> None:
        """See that the callbacks, if there are any, are called on the running loop."""
        if not self.has_callback or self._is_ended:
            return
        task, here = self._task, asyncio.get_running_loop()
        if task is None or task.done() or task.get_loop() is not here:
            self._task = here.create_task(self._run())

    def end(self, error: Exception) -> None:
        """Call nobody any more, drop what waits, and have whoever reads raise ``error``."""
        self._is_ended = True
        self._mailbox.close(error)
        task = self._task
        if task is None:
            return
        if asyncio._get_running_loop() is not task.get_loop():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                task.get_loop().call_soon_threadsafe(task.cancel)
        elif asyncio.current_task() is not task:
            task.cancel()

    async def _run(self) -> None:
        """Call the callbacks until the subscription ends."""
        mailbox, on_message = self._mailbox, self._callbacks.on_message or _removed
        at_once = 0
        while not self._is_ended:
            at_once += 1
            if at_once > AT_ONCE:
                at_once = 0
                await asyncio.sleep(0)  # with nothing in hand that cancelling could lose
            item: Any = mailbox.take()
            if item is None:
                at_once = 0
                try:
                    item = await mailbox.get()
                except exceptions.SubscriptionIsClosed:
                    return
            if type(item) is PubSubMessage:
                callback = self._handlers.get(item.channel, self._otherwise) or on_message
                if callback is _removed:
                    self._tally.unknown += 1
                    continue
                self._tally.delivered += 1
                await call(self._owner, callback, item.channel, item.payload)
            else:
                await self._tell(item)

    # Without

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
            self._at_once += 1
            if self._at_once > AT_ONCE:
                self._at_once = 0
                await asyncio.sleep(0)  # with nothing in hand that cancelling could lose
            item = self._mailbox.take()
            if item is None:
                self._at_once = 0
                item = await self._wait(deadline)
                if item is None:
                    return None
            if not isinstance(item, PubSubMessage):
                await self._tell(item)
                continue
            handler = self._handlers.get(item.channel, self._otherwise)
            if handler is _removed:
                self._tally.unknown += 1
                continue
            self._tally.delivered += 1
            if handler is None:
                return item
            await call(self._owner, handler, item.channel, item.payload)

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

    # For both

    async def _tell(self, notice: Any) -> None:
        """Call the callback for a notice; the last one ends everything."""
        self._taken(notice)
        event = notice.event
        if event == "on_end":
            event = "on_disconnect"
            self._is_ended = True
            self._mailbox.close(notice.value)
        callback = getattr(self._callbacks, event)
        if callback is not None:
            await call(self._owner, callback, notice.value)
