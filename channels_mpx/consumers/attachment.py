"""How a consumer hangs on the multiplexer: what it wants, and what it hears, in its own mailbox."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from typing import Protocol

from channels_mpx import exceptions
from channels_mpx.hub import Hub
from channels_mpx.mailbox import Mailbox
from channels_mpx.names import Kind, Topic
from channels_mpx.reception import Notice, PubSubMessage, Reception
from channels_mpx.registry import Registry

__all__ = ["Attachment", "Listening"]


class Listening(Protocol):
    """A consumer, as what it hears sees it."""

    async def _hear_message(self, message: PubSubMessage) -> None:
        """Handle a message of one of its subscriptions."""

    async def _hear_notice(self, notice: Notice) -> None:
        """Handle news about its subscriptions or the connection."""


class _Message(PubSubMessage):
    """A message for a consumer."""

    __slots__ = ()

    async def deliver_to(self, consumer: Listening) -> None:
        """Have it handled."""
        await consumer._hear_message(self)


class _Notice(Notice):
    """A notice for a consumer."""

    __slots__ = ()

    async def deliver_to(self, consumer: Listening) -> None:
        """Have it handled."""
        await consumer._hear_notice(self)


class _Wish:
    """A topic that a consumer is subscribed to, or about to be.

    Attributes:
        since: When that began, in seconds of `time.monotonic`; what is older is of an earlier wish.
        joining: How many wait for its confirmation.
        is_confirmed: Whether one of them has had it.
    """

    __slots__ = ("is_confirmed", "joining", "since")

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.joining = 0
        self.is_confirmed = False


class Attachment(Reception):
    """One consumer's subscriptions; every consumer hears of gaps, also one without any.

    Args:
        hub: The connection.
        registry: Its subscriptions.
        mailbox: The consumer's.
        events: The notices that the consumer cares for.
    """

    notice_type = _Notice

    def __init__(
        self, hub: Hub, registry: Registry, mailbox: Mailbox, events: Collection[str]
    ) -> None:
        super().__init__(hub, mailbox, events)
        self._registry = registry
        # Changes on the consumer's loop only, but when the connection ends all of it.
        self._wishes: dict[Topic, _Wish] = {}
        self.closed = False
        #: Where the consumer runs.
        self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        registry.add(self)

    def __repr__(self) -> str:
        return f"<Attachment {self._mailbox.name} topics={len(self._wishes)}>"

    # For the consumer, on its loop

    def names(self, kind: Kind) -> tuple[bytes, ...]:
        """Return what it is subscribed to, in order."""
        return tuple(topic.name for topic in tuple(self._wishes) if topic.kind is kind)

    def heeds(self, message: PubSubMessage) -> bool:
        """Tell whether a message is of a subscription that is there, and not of an earlier one."""
        pattern = message.pattern
        if pattern is None:
            wish = self._wishes.get(Topic(Kind.CHANNEL, message.channel))
        else:
            wish = self._wishes.get(Topic(Kind.PATTERN, pattern))
        return wish is not None and message.arrived >= wish.since

    def is_news(self, notice: Notice) -> bool:
        """Note that a notice was taken out of the mailbox; tell whether the consumer is to hear it.

        An activation is none if the consumer has unsubscribed since.
        """
        self.taken(notice)
        if notice.event != "on_activation":
            return True
        return any(Topic(kind, notice.value) in self._wishes for kind in Kind)

    async def join(self, topics: Iterable[Topic]) -> None:
        """Subscribe, and return when Redis has confirmed it. If this raises, nothing has changed.

        Raises:
            ClosedError: The consumer has ended, or all subscriptions of the connection have.
            LinkError: See `Hub.join`.
        """
        self._require_open()
        wishes = {topic: self._wishes.setdefault(topic, _Wish()) for topic in topics}
        for wish in wishes.values():
            wish.joining += 1
        try:
            await self._hub.call(self._join, tuple(wishes), receiving=True)
            self._require_open()
        except BaseException:  # cancellation too: who gives up must not stay subscribed
            self.leave(
                topic
                for topic, wish in wishes.items()
                # Others of the consumer's may wait for the same name, or have it.
                if not wish.is_confirmed and wish.joining == 1 and self._wishes.get(topic) is wish
            )
            raise
        else:
            for wish in wishes.values():
                wish.is_confirmed = True
        finally:
            for wish in wishes.values():
                wish.joining -= 1

    def leave(self, topics: Iterable[Topic]) -> None:
        """Unsubscribe; nothing is delivered any more, nor is what waits in the mailbox heeded."""
        left = [topic for topic in topics if self._wishes.pop(topic, None) is not None]
        self._hub.tell(self._leave, left)

    def close(self) -> None:
        """End all subscriptions. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._registry.discard(self)
        if self._wishes:
            self.leave(tuple(self._wishes))

    def _require_open(self) -> None:
        if self.closed:
            raise exceptions.ClosedError(what=f"The consumer of {self._mailbox.name}")

    async def _join(self, topics: tuple[Topic, ...]) -> None:
        # The consumer may have changed its mind while this was on its way.
        for topic in topics:  # all in one command
            if topic in self._wishes:
                self._hub.want(topic, self)
        for topic in topics:
            if topic in self._wishes:
                await self._hub.join(topic, self)

    def _leave(self, topics: Iterable[Topic]) -> None:
        for topic in topics:
            self._hub.leave(topic, self)

    # For the multiplexer, at home

    def outlives(self, ended: asyncio.AbstractEventLoop) -> bool:
        """See `Registered.outlives`."""
        if self.loop is ended:
            self.close()
        return not self.closed

    def gap_opened(self, reason: str) -> None:
        """See `Registered.gap_opened`."""
        self.interrupted(reason)

    def gap_went_on(self, reason: str) -> None:
        """See `Registered.gap_went_on`; one who knows of the gap already hears nothing."""
        self.interrupted(reason)

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`. What the layer itself sends is not for consumers."""
        pattern = topic.name if topic.kind is Kind.PATTERN else None
        if pattern is None or not self._hub.names.covers(channel):
            self._mailbox.put(_Message(pattern, channel, payload, time.monotonic()))

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`: whoever subscribes gets the error, and withdraws the wish."""
