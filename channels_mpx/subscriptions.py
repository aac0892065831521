"""Subscriptions to channels and patterns that anybody may publish on: RedisMPX's handles.

A subscription has a mailbox of its own. The connection's reader puts messages and notices into it
and goes on; a slow callback or reader delays its own subscription and nobody else. With
``on_message`` a task calls the callbacks, on the loop where the subscription was made or, made
without a loop, in the background. Without it the messages are there to be read: with ``async for``,
with ``get_message``, and through ``sync`` by code without a loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from types import TracebackType
from typing import TypeVar

from . import exceptions
from .activation import Activation
from .arguments import require_callable, require_timeout
from .gap import Gap
from .hub import Hub
from .mailbox import Mailbox
from .names import Kind, Topic, encode_name
from .policies import Overflow
from .reading import Bounds, Callbacks, OnMessage, Reader, SyncReading
from .reception import PubSubMessage, Reception
from .registry import Registry
from .statistics import Tally

__all__ = ["ChannelSubscription", "PatternSubscription"]

logger = logging.getLogger("channels_mpx.multiplexer")

Self = TypeVar("Self", bound="_Subscription")


class _Ear(Reception):
    """What the multiplexer calls for one subscription."""

    def __init__(self, hub: Hub, mailbox: Mailbox, owner: _Subscription, events: frozenset[str]):
        super().__init__(hub, mailbox, events)
        self._owner = owner

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""
        self._owner._see_to_callbacks()
        super().activated(topic)

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`."""
        self._owner._forget(topic, error)
        super().refused(topic, error)


class _Subscription:
    """What channel and pattern subscriptions share."""

    def __init__(self, hub: Hub, registry: Registry, callbacks: Callbacks, bounds: Bounds) -> None:
        self._hub = hub
        self._registry = registry
        self._tally = Tally()
        self._mailbox = bounds.mailbox(type(self).__name__, self._tally, self)
        self._ear = _Ear(hub, self._mailbox, self, callbacks.events)
        self._reader = Reader(self, self._mailbox, callbacks, self._ear.taken)
        self._activation = Activation(hub, self._ear, self._topics, self.__repr__)
        self._refusal: Exception | None = None
        self._is_closed = False
        #: Where the callbacks run; None is for wherever home is.
        self.loop = asyncio._get_running_loop()
        #: The same reading for code without an event loop.
        self.sync = SyncReading(self, hub)
        self._task: asyncio.Task[None] | None = None
        if self.loop is not None and self._reader.has_callback:
            self._task = self.loop.create_task(self._reader.run())
        registry.add(self)

    # Reading

    async def get_message(self, timeout: float | None = None) -> PubSubMessage | None:
        """Return the next message, waiting for it.

        Several may wait, on any loops; each message goes to one of them. Cancelling loses nothing.

        Args:
            timeout: Seconds; 0 does not wait; None waits as long as it takes.

        Returns:
            The message; None if none came in time.

        Raises:
            SubscriptionIsClosed: It was closed, and there will be none any more.
            SubscriptionHasCallback: It was made with ``on_message``.
            InvalidTimeout: ``timeout`` is no number of seconds.
        """
        if self._reader.has_callback:
            raise exceptions.SubscriptionHasCallback(what=repr(self))
        return await self._reader.next(require_timeout(timeout))

    def __aiter__(self: Self) -> Self:
        return self

    async def __anext__(self) -> PubSubMessage:
        try:
            message = await self.get_message()
        except exceptions.SubscriptionOverflow:
            raise
        except exceptions.SubscriptionIsClosed as error:
            raise StopAsyncIteration from error
        assert message is not None
        return message

    async def activated(self, timeout: float | None = None) -> None:
        """Return when Redis has confirmed all that is wanted now: what is published then, comes.

        Args:
            timeout: Seconds; None: as long as it takes, through any number of lost links.

        Raises:
            NotConfirmed: It is not confirmed in time, and still wanted.
            CommandRefused: Redis does not allow it, and it is not wanted any more.
            LinkRefused: Redis does not accept this process.
            SubscriptionIsClosed: The subscription was closed, before or meanwhile.
            InvalidTimeout: ``timeout`` is no number of seconds.
        """
        seconds = require_timeout(timeout)
        if self._refusal is not None:
            error, self._refusal = self._refusal, None
            raise error
        await self._activation.wait(seconds)

    async def __aenter__(self: Self) -> Self:
        try:
            await self.activated(self._hub.options.timeout)
        except BaseException:  # cancellation too: the context was not entered
            self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Life

    @property
    def closed(self) -> bool:
        """Whether it is over: by `close`, by its overflow, or with its loop."""
        return self._is_closed

    @property
    def dropped(self) -> int:
        """Messages dropped because nobody took those that waited."""
        return self._tally.full

    @property
    def delivered(self) -> int:
        """Messages that callbacks or readers got."""
        return self._reader.delivered

    @property
    def waiting(self) -> int:
        """Messages and notices that wait for callbacks or readers."""
        return len(self._mailbox)

    def close(self) -> None:
        """Unsubscribe from everything; no callback is called any more. Idempotent.

        What waits is dropped; whoever reads gets `SubscriptionIsClosed`, ``async for`` ends.
        """
        if self._is_closed:
            return
        self._end()
        self._reader.is_ended = True
        self._mailbox.close(exceptions.SubscriptionIsClosed(what=repr(self)))
        task = self._task
        if task is None or task.get_loop().is_closed():
            return
        if asyncio._get_running_loop() is not task.get_loop() or asyncio.current_task() is not task:
            task.get_loop().call_soon_threadsafe(task.cancel)

    def outlives(self, ended: asyncio.AbstractEventLoop) -> bool:
        """Tell whether the subscription goes on although a loop has ended; called at home.

        One that was made there is closed.
        """
        if self.loop is ended:
            self._end()
        return not self._is_closed and bool(self._hub.wishes_of(self._ear))

    def _end(self) -> None:
        """Want nothing any more."""
        self._is_closed = True
        self._activation.close()
        self._registry.discard(self)
        self._hub.tell(self._hub.leave_all, self._ear)

    def _require_open(self) -> None:
        if self._is_closed:
            raise exceptions.SubscriptionIsClosed(what=repr(self))

    def _want(self, topic: Topic) -> None:
        """Note the wish, now if this is the home loop, and see that the callbacks run."""
        self._require_open()
        self._hub.names.require_foreign(topic.name)
        self._hub.post(self._begin, topic, receiving=True)

    def _begin(self, topic: Topic) -> None:
        if not self._is_closed and self._hub.want(topic, self._ear):
            self._see_to_callbacks()

    def _topics(self) -> Iterable[Topic]:
        """Return what is wanted."""
        raise NotImplementedError

    def _forget(self, topic: Topic, error: Exception) -> None:
        """Redis has refused a topic: it is not wanted any more."""
        self._refusal = error

    def gap_opened(self, reason: str) -> None:
        """See `Registered.gap_opened`; the multiplexer tells those who want something."""

    def gap_closed(self, gap: Gap) -> None:
        """See `Registered.gap_closed`."""
        self._ear.gap_closed(gap)

    # Callbacks

    def _see_to_callbacks(self) -> None:
        """Without a loop of its own the subscription lives at home, wherever that is now."""
        if self.loop is not None or not self._reader.has_callback:
            return
        task, here = self._task, asyncio.get_running_loop()
        if task is None or task.done() or task.get_loop() is not here:
            self._task = here.create_task(self._reader.run())

    # As an observer of its mailbox

    def overflowed(self, mailbox: Mailbox) -> None:
        """See `Observer.overflowed`."""
        if mailbox.policy is not Overflow.CLOSE:
            logger.warning("! the callbacks of %r are too slow: dropping messages", self)
            return
        logger.warning("! nobody takes the messages of %r: closing it", self)
        error = exceptions.SubscriptionOverflow(what=repr(self), waiting=len(mailbox))
        self._end()
        self._ear.end(error)

    def relieved(self, mailbox: Mailbox, dropped: int) -> None:
        """See `Observer.relieved`."""
        if mailbox.policy is not Overflow.CLOSE:
            logger.warning("= the callbacks of %r have caught up; %d were dropped", self, dropped)


class ChannelSubscription(_Subscription):
    """Any number of channels under one set of callbacks, or one reader.

    Make it with `Multiplexer.new_channel_subscription`. Messages on one channel come in the order
    in which Redis took them, each once; what is published while the link is lost is missed, and
    ``on_gap`` tells when that is over. A subscription outlives any number of lost links.
    """

    def __init__(self, hub: Hub, registry: Registry, callbacks: Callbacks, bounds: Bounds) -> None:
        self._channels: dict[bytes, None] = {}
        super().__init__(hub, registry, callbacks, bounds)

    def __repr__(self) -> str:
        return f"<ChannelSubscription channels={len(self._channels)}>"

    @property
    def channels(self) -> tuple[bytes, ...]:
        """The channels that were added, in order."""
        return tuple(self._channels)

    def add(self, channel: str | bytes, on_message: OnMessage | None = None) -> None:
        """Add a channel. ``on_activation`` tells when it is active, or await `activated`.

        Args:
            channel: Its name; one that is there already stays.
            on_message: Gets the messages of this channel, instead of the subscription's callback
                or reader. In a subscription without ``on_message`` it is called while somebody
                reads.

        Raises:
            InvalidName: The name is empty, or neither text nor bytes.
            ReservedName: It lies under the layer's prefix.
            NotCallable: ``on_message`` cannot be called.
            SubscriptionIsClosed: The subscription was closed.
        """
        require_callable("on_message", on_message)
        name = encode_name(channel)
        self._want(Topic(Kind.CHANNEL, name))
        self._channels[name] = None
        if on_message is not None:
            self._reader.handlers[name] = on_message

    def remove(self, channel: str | bytes) -> None:
        """Remove a channel; nothing happens if it is not there.

        Raises:
            InvalidName: The name is empty, or neither text nor bytes.
            SubscriptionIsClosed: The subscription was closed.
        """
        self._require_open()
        name = encode_name(channel)
        self._channels.pop(name, None)
        self._reader.handlers.pop(name, None)
        self._hub.tell(self._hub.leave, Topic(Kind.CHANNEL, name), self._ear)

    def clear(self) -> None:
        """Remove all channels.

        Raises:
            SubscriptionIsClosed: The subscription was closed.
        """
        self._require_open()
        for name in self.channels:
            self.remove(name)

    def close(self) -> None:
        """Remove all channels for good; see `PatternSubscription.close`."""
        self._channels.clear()
        super().close()

    def _topics(self) -> Iterable[Topic]:
        return [Topic(Kind.CHANNEL, name) for name in self._channels]

    def _forget(self, topic: Topic, error: Exception) -> None:
        self._channels.pop(topic.name, None)
        super()._forget(topic, error)


class PatternSubscription(_Subscription):
    """One glob pattern under one set of callbacks, or one reader.

    Make it with `Multiplexer.new_pattern_subscription`. All subscriptions of a process to one
    pattern are one in Redis, where each distinct pattern slows every PUBLISH.
    """

    def __init__(
        self,
        hub: Hub,
        registry: Registry,
        pattern: str | bytes,
        callbacks: Callbacks,
        bounds: Bounds,
    ) -> None:
        self.pattern = encode_name(pattern)
        hub.names.require_foreign(self.pattern)
        self._topic = Topic(Kind.PATTERN, self.pattern)
        super().__init__(hub, registry, callbacks, bounds)
        self._want(self._topic)

    def __repr__(self) -> str:
        return f"<PatternSubscription {self.pattern!r}>"

    def _topics(self) -> Iterable[Topic]:
        return (self._topic,)
