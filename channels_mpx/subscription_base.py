"""What channel and pattern subscriptions share: a mailbox, a reader, and an end.

A subscription has a mailbox of its own. The connection's reader puts messages and notices into it
and goes on; a slow callback or reader delays its own subscription and nobody else. With
``on_message`` a task calls the callbacks, on the loop where the subscription was made or, made
without a loop, in the background. Without it the messages are there to be read: with ``async for``,
with ``get_message``, and through ``sync`` by code without a loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from . import exceptions
from .activation import Activation
from .arguments import require_timeout
from .callbacks import Callbacks, OnMessage
from .gap import Gap
from .handles import Handle, Tie
from .hub import Hub
from .ledgers import text_of
from .mailbox import Mailbox
from .names import Topic
from .policies import Overflow
from .reading import Bounds, Reader
from .reception import Notice, PubSubMessage, Reception
from .registry import Registry
from .statistics import Tally
from .sync_reading import SyncReading

__all__ = ["Subscription"]

logger = logging.getLogger("channels_mpx.multiplexer")

Self = TypeVar("Self", bound="Subscription")


class _Tie(Tie):
    """What the connection holds of one subscription, and what its mailbox tells of drops."""

    _handle: Subscription

    @property
    def name(self) -> str:
        """See `Metered.name`."""
        return self._handle._name()

    @property
    def waiting(self) -> int:
        """See `Metered.waiting`."""
        return self._handle.waiting

    def outlives(self, ended: asyncio.AbstractEventLoop) -> bool:
        """See `Registered.outlives`. Who wants nothing does not go on."""
        return super().outlives(ended) and self._handle._wants_something()

    def gap_opened(self, reason: str) -> None:
        """See `Registered.gap_opened`; whoever wants nothing misses nothing."""
        if self._handle._wants_something():
            self._handle._ear.gap_opened(reason)
        self._handle._ear.has_heard = False

    def gap_went_on(self, reason: str) -> None:
        """See `Registered.gap_went_on`; whoever was not active yet misses nothing."""
        if self._handle._ear.has_heard:
            self._handle._ear.gap_went_on(reason)

    def gap_closed(self, gap: Gap) -> None:
        """See `Registered.gap_closed`."""
        self._handle._ear.gap_closed(gap)

    def overflowed(self, mailbox: Mailbox) -> None:
        """See `Observer.overflowed`."""
        handle, waiting = self._handle, len(mailbox)
        handle._registry.announce(
            "overflow", channel=self.name, waiting=waiting, subscription=handle
        )
        if mailbox.policy is not Overflow.CLOSE:
            logger.warning("channels_mpx: %r is full; dropping messages", handle)
            return
        logger.warning("channels_mpx: %r is full; closing it", handle)
        handle._overflow(waiting)

    def relieved(self, mailbox: Mailbox, dropped: int) -> None:
        """See `Observer.relieved`."""
        if mailbox.policy is not Overflow.CLOSE:
            logger.warning(
                "channels_mpx: %r has caught up; %d messages were dropped", self._handle, dropped
            )


class _Ear(Reception):
    """What the multiplexer calls for one subscription."""

    def __init__(
        self, hub: Hub, mailbox: Mailbox, events: frozenset[str], owner: Subscription
    ) -> None:
        super().__init__(hub, mailbox, events)
        self._owner = owner
        #: Whether anything was active since the last gap began.
        self.has_heard = False

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""
        self._owner._follow_home()
        self.has_heard = True
        super().activated(topic)

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`."""
        self._owner._follow_home()
        self._owner._note_refusal(topic, error)
        super().refused(topic, error)

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`. The gap is told instead, once for all its losses."""

    def taken(self, notice: Notice) -> None:
        """See `Reception.taken`."""
        self._mailbox.capacity -= 1
        super().taken(notice)

    def _notify(self, event: str, value: Any) -> None:
        self._mailbox.capacity += event in self._events  # notices take no room from messages
        super()._notify(event, value)

    def gap_opened(self, reason: str) -> None:
        """A gap begins, in which messages may be missed."""
        self._is_interrupted = False  # no gap was told of yet, or the last one without its end
        self.gap_went_on(reason)

    def gap_went_on(self, reason: str) -> None:
        """Messages may be missed in a gap of which it may have been told already."""
        super().interrupted(reason)


class Subscription(Handle):
    """What channel and pattern subscriptions share.

    Args:
        hub: The connection.
        registry: Its subscriptions.
        callbacks: What to call.
        bounds: How much may wait.
        topics: Returns what is wanted.
        handlers: See `Reader`.
    """

    def __init__(
        self,
        hub: Hub,
        registry: Registry,
        callbacks: Callbacks,
        bounds: Bounds,
        topics: Callable[[], Iterable[Topic]],
        handlers: Mapping[bytes, OnMessage | None] | None = None,
    ) -> None:
        super().__init__(hub, registry)
        self._tie = tie = _Tie(self)
        self._tally = Tally()
        self._mailbox = bounds.mailbox(type(self).__name__, self._tally, tie)
        self._ear = _Ear(hub, self._mailbox, callbacks.events, self)
        self._reader = Reader(
            self, self._mailbox, callbacks, self._ear.taken, handlers, self._tally
        )
        #: The patterns or channels; of channels, of which there may be thousands, at no cost.
        self._names: Callable[[], Iterable[bytes]] = (
            (lambda: [topic.name for topic in topics()]) if handlers is None else handlers.keys
        )
        self._activation = Activation(hub, self._ear, topics, self.__repr__)
        #: The same reading for code without an event loop.
        self.sync = SyncReading(self, hub)
        if tie.loop is not None:
            self._reader.begin()
        registry.add(tie, is_held=self._reader.has_callback)
        registry.meter(tie, self._tally)

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
            CommandRefused: Redis does not allow a name. If it never did, it is not wanted any more.
            LinkRefused: Redis does not accept this process.
            SubscriptionIsClosed: The subscription was closed, before or meanwhile.
            InvalidTimeout: ``timeout`` is no number of seconds.
        """
        await self._activation.wait(require_timeout(timeout))

    # Life

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

        What waits is dropped, and a callback that waits for something is cancelled. Whoever reads
        gets `SubscriptionIsClosed`, ``async for`` ends. A subscription is closed by itself when
        the loop ends on which it was made.
        """
        error = exceptions.SubscriptionIsClosed(what=repr(self))
        self._end()
        self._reader.end(error)

    def _end(self) -> None:
        """Want nothing any more; what waits stays."""
        if not self._is_closed:
            self._is_closed = True
            self._activation.close()
            self._registry.discard(self._tie)
            self._hub.tell(self._hub.leave_all, self._ear)

    async def _wait(self, timeout: float) -> None:
        await self.activated(timeout)

    # For the multiplexer, at home

    def _name(self) -> str:
        """Return what it is called where it must be told from others."""
        names = tuple(self._names())
        more = [f"+{len(names) - 1}"] if len(names) > 1 else []
        return " ".join([type(self).__name__, *map(text_of, names[:1]), *more])

    def _wants_something(self) -> bool:
        return bool(self._hub.wishes_of(self._ear))

    def _follow_home(self) -> None:
        """Without a loop of its own the subscription lives at home, wherever that is now."""
        if self._tie.loop is None:
            self._reader.begin()

    def _note_refusal(self, topic: Topic, error: Exception) -> None:
        """Redis has refused a topic: it is not wanted any more."""
        self._activation.note_refusal(topic, error)

    def _want(self, topic: Topic) -> None:
        """Note a wish, now if this is the home loop."""
        self._activation.forget_refusal(topic)
        self._hub.post(self._begin, topic, receiving=True)

    def _begin(self, topic: Topic) -> None:
        if not self._is_closed:
            self._hub.want(topic, self._ear)

    def _overflow(self, waiting: int) -> None:
        """End it after all that waits, because that is too much."""
        self._ear.end(exceptions.SubscriptionOverflow(what=repr(self), waiting=waiting))
        # Not now: a message is just being given to all subscribers, of whom this is one.
        self._hub.wake(self._end)
