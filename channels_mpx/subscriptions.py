"""Subscriptions to channels and patterns that anybody may publish on: RedisMPX's handles.

A subscription has a mailbox and a task of its own. The reader puts messages and events into the
mailbox and goes on; the task takes them out, in order, and calls the callbacks one at a time, on
the loop where the subscription was made. A slow callback delays its own subscription and nobody
else; what it raises is logged and dropped.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from . import exceptions
from .gap import Nobody
from .hub import Hub
from .mailbox import Mailbox
from .names import Kind, Topic
from .statistics import Tally

__all__ = [
    "ChannelSubscription",
    "OnActivation",
    "OnDisconnect",
    "OnMessage",
    "PatternSubscription",
    "Registry",
]

logger = logging.getLogger("channels_mpx.multiplexer")

OnMessage = Callable[[bytes, bytes], Awaitable[None] | None]
"""Called with the channel and the payload of each message; may return an awaitable."""

OnDisconnect = Callable[[Exception], Awaitable[None] | None]
"""Called with the reason when the link is lost; may return an awaitable."""

OnActivation = Callable[[bytes], Awaitable[None] | None]
"""Called with the channel or pattern when Redis has confirmed it; may return an awaitable."""

#: Messages and events that wait for a subscription's callbacks.
CAPACITY = 10_000

#: Messages that callbacks get before the loop's other work has its turn.
AT_ONCE = 64

#: Bytes that wait for a subscription's callbacks.
MAX_BYTES = 64 * 2**20


class _Call:
    """Something to tell a callback."""

    __slots__ = ("arguments", "arrived", "callback", "size")

    def __init__(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self.callback = callback
        self.arguments = arguments
        self.arrived = 0.0
        self.size = 0


class _Message:
    """A message to tell `OnMessage` of; the most frequent kind of `_Call`."""

    __slots__ = ("arguments", "arrived", "callback", "size")

    def __init__(self, callback: OnMessage, channel: bytes, payload: bytes) -> None:
        self.callback = callback
        self.arguments = (channel, payload)
        self.arrived = 0.0
        self.size = len(payload)


class _Subscription:
    """What channel and pattern subscriptions share."""

    def __init__(
        self,
        hub: Hub,
        on_message: OnMessage,
        on_disconnect: OnDisconnect | None,
        on_activation: OnActivation | None,
    ) -> None:
        self._hub = hub
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._on_activation = on_activation
        self._tally = Tally()
        self._mailbox = Mailbox(repr(self), CAPACITY, MAX_BYTES, math.inf, self._tally, self)
        self._is_closed = False
        #: Where the callbacks run; None is for wherever home is.
        self.loop = asyncio._get_running_loop()
        self._task: asyncio.Task[None] | None = None
        if self.loop is not None:
            self._task = self.loop.create_task(self._run())

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    @property
    def dropped(self) -> int:
        """Messages dropped because the callbacks were too slow."""
        return self._tally.full

    def close(self) -> None:
        """Unsubscribe from everything; no callback is called any more. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._hub.tell(self._hub.leave_all, self)
        task = self._task
        if task is None or task.get_loop().is_closed():
            return
        if asyncio._get_running_loop() is not task.get_loop() or asyncio.current_task() is not task:
            task.get_loop().call_soon_threadsafe(task.cancel)

    def outlives(self, ended: asyncio.AbstractEventLoop) -> bool:
        """Tell whether the subscription goes on although a loop has ended; called at home.

        One whose callbacks ran there is closed.
        """
        if self.loop is ended:
            self._is_closed = True
            self._hub.leave_all(self)
        return not self._is_closed and bool(self._hub.wishes_of(self))

    def _require_open(self) -> None:
        if self._is_closed:
            raise exceptions.SubscriptionIsClosed(what=repr(self))

    def _want(self, topic: Topic) -> None:
        """Note the wish, now if this is the home loop, and see that the callbacks run."""
        self._require_open()
        self._hub.names.require_foreign(topic.name)
        self._hub.post(self._begin, topic, receiving=True)

    def _begin(self, topic: Topic) -> None:
        if self._hub.want(topic, self):
            self._see_to_callbacks()

    def _see_to_callbacks(self) -> None:
        """Without a loop of its own the subscription lives at home, wherever that is now."""
        if self.loop is not None:
            return
        task, here = self._task, asyncio.get_running_loop()
        if task is None or task.done() or task.get_loop() is not here:
            self._task = here.create_task(self._run())

    async def _run(self) -> None:
        """Call the callbacks, one at a time, for as long as the subscription is open."""
        at_once = 0
        while not self._is_closed:
            call: Any = self._mailbox.take()
            at_once += 1
            if call is None:
                call = await self._mailbox.get()
                at_once = 0
            elif at_once == AT_ONCE:
                await asyncio.sleep(0)
                at_once = 0
            try:
                result = call.callback(*call.arguments)
                if result is not None and inspect.isawaitable(result):
                    await result
            except asyncio.CancelledError:
                if self._is_closed or _is_cancelled():
                    raise
                logger.warning("! a callback of %r awaited what was cancelled", self)
            except Exception:  # a user's callback may raise anything
                logger.warning("! a callback of %r failed", self, exc_info=True)

    # As a subscriber of the router

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`. What the layer sends is not for subscriptions."""
        if topic.kind is Kind.PATTERN and self._hub.names.covers(channel):
            return
        self._mailbox.put(_Message(self._on_message, channel, payload))

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""
        self._see_to_callbacks()
        if self._on_activation is not None:
            self._mailbox.put(_Call(self._on_activation, topic.name))

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`."""
        if self._on_disconnect is not None:
            error = exceptions.LinkLost(address=self._hub.address, reason=reason)
            self._mailbox.put(_Call(self._on_disconnect, error))

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`."""
        if self._on_disconnect is not None:
            self._mailbox.put(_Call(self._on_disconnect, error))

    # As an observer of its mailbox

    def overflowed(self, mailbox: Mailbox) -> None:
        """See `Observer.overflowed`."""
        logger.warning("! the callbacks of %r are too slow: dropping messages", self)

    def relieved(self, mailbox: Mailbox, dropped: int) -> None:
        """See `Observer.relieved`."""
        logger.warning("= the callbacks of %r have caught up; %d were dropped", self, dropped)


class ChannelSubscription(_Subscription):
    """Any number of channels under one set of callbacks.

    Make it with `Multiplexer.new_channel_subscription`. Messages on one channel come in the order
    in which Redis took them, each once; what is published while the link is lost is missed.
    """

    def __init__(
        self,
        hub: Hub,
        on_message: OnMessage,
        on_disconnect: OnDisconnect | None,
        on_activation: OnActivation | None,
    ) -> None:
        self._channels: dict[bytes, None] = {}
        super().__init__(hub, on_message, on_disconnect, on_activation)

    def __repr__(self) -> str:
        return f"<ChannelSubscription channels={len(self._channels)}>"

    @property
    def channels(self) -> tuple[bytes, ...]:
        """The channels that were added, in order."""
        return tuple(self._channels)

    def add(self, channel: str | bytes) -> None:
        """Add a channel; nothing happens if it is there already. ``on_activation`` tells when.

        Raises:
            ReservedName: It lies under the layer's prefix.
            SubscriptionIsClosed: The subscription was closed.
        """
        name = _encode(channel)
        self._want(Topic(Kind.CHANNEL, name))
        self._channels[name] = None

    def remove(self, channel: str | bytes) -> None:
        """Remove a channel; nothing happens if it is not there.

        Raises:
            SubscriptionIsClosed: The subscription was closed.
        """
        self._require_open()
        name = _encode(channel)
        self._channels.pop(name, None)
        self._hub.tell(self._hub.leave, Topic(Kind.CHANNEL, name), self)

    def clear(self) -> None:
        """Remove all channels.

        Raises:
            SubscriptionIsClosed: The subscription was closed.
        """
        for name in self.channels:
            self.remove(name)

    def close(self) -> None:
        """Remove all channels for good. Idempotent."""
        self._channels.clear()
        super().close()


class PatternSubscription(_Subscription):
    """One glob pattern under one set of callbacks.

    Make it with `Multiplexer.new_pattern_subscription`. All subscriptions of a process to one
    pattern are one in Redis, where each distinct pattern slows every PUBLISH.
    """

    def __init__(
        self,
        hub: Hub,
        pattern: str | bytes,
        on_message: OnMessage,
        on_disconnect: OnDisconnect | None,
        on_activation: OnActivation | None,
    ) -> None:
        self.pattern = _encode(pattern)
        hub.names.require_foreign(self.pattern)
        super().__init__(hub, on_message, on_disconnect, on_activation)
        self._want(Topic(Kind.PATTERN, self.pattern))

    def __repr__(self) -> str:
        return f"<PatternSubscription {self.pattern!r}>"


def _is_cancelled() -> bool:
    """Tell whether it is this task that is cancelled, and not something that it awaits."""
    cancelling = getattr(asyncio.current_task(), "cancelling", None)  # since Python 3.11
    return cancelling is None or cancelling() > 0


def _encode(name: str | bytes) -> bytes:
    return name.encode() if isinstance(name, str) else bytes(name)


class Registry(Nobody):
    """The subscriptions of one hub, and its listener for them."""

    def __init__(self) -> None:
        self._subscriptions: weakref.WeakSet[_Subscription] = weakref.WeakSet()

    def add(self, subscription: _Subscription) -> None:
        """Note a subscription for as long as somebody holds it."""
        self._subscriptions.add(subscription)

    def tick(self) -> None:
        """See `Listener.tick`: subscriptions of loops that have ended are over."""
        for subscription in tuple(self._subscriptions):
            if subscription.loop is not None and subscription.loop.is_closed():
                subscription.outlives(subscription.loop)

    def is_awaited(self) -> bool:
        """See `Listener.is_awaited`."""
        return any(not subscription.closed for subscription in self._subscriptions)

    def loop_ended(self, loop: asyncio.AbstractEventLoop) -> bool:
        """See `Listener.loop_ended`."""
        outliving = [sub for sub in tuple(self._subscriptions) if sub.outlives(loop)]
        return bool(outliving)
