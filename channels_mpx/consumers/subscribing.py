"""Consumers that subscribe to channels and patterns that anybody may publish on."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from channels.exceptions import StopConsumer

from channels_mpx import exceptions
from channels_mpx.globs import find_glob
from channels_mpx.ledgers import text_of
from channels_mpx.names import Kind, Topic, encode_name
from channels_mpx.reception import PubSubMessage

from .definitions import (
    Name,
    is_computed,
    require_declared,
    require_handler,
    require_kind,
    require_names,
)
from .mixin import MultiplexedConsumerMixin
from .offers import own, own_static, yielding
from .payloads import decoder
from .refusal import OPENED_BY_CLIENT

__all__ = ["ChannelSubscriptionMixin", "PatternSubscriptionMixin", "SubscriptionMixin"]

logger = logging.getLogger("channels_mpx.consumers")


@yielding()
class SubscriptionMixin(MultiplexedConsumerMixin):
    """What the mixins with subscriptions share.

    Attributes:
        payload: What handlers get of a payload: ``bytes``, ``text``, ``json`` or ``msgpack``.
        bad_payloads: How many payloads this consumer could not decode.

    Raises:
        ConfigurationError: There is no such ``payload``; or the consumer is a synchronous one, whose
            handlers run in threads.
    """

    payload: str = "bytes"
    bad_payloads: int = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        payload = own_static(cls, "payload")
        if not is_computed(payload):
            decoder(payload, f"payload of {cls.__name__}")
        if getattr(cls, "_sync", False):
            raise exceptions.ConfigurationError(
                problem=f"{cls.__name__} is a synchronous consumer; subscriptions and promises need "
                "an asynchronous one, such as AsyncWebsocketConsumer"
            )
        for name in ("authorize_subscription", "on_bad_payload"):
            require_kind(cls, name)

    def _accept_layer(self, layer: object) -> None:
        self._require_ours(layer, type(self).__name__)

    async def authorize_subscription(self, kind: str, name: bytes) -> bool:
        """Tell whether this consumer may have a name; override it wherever clients choose names.

        Asked before every subscription and promise but those of class attributes. Names under the
        layer's prefix are refused without asking.

        Args:
            kind: ``channel``, ``pattern`` or ``promise``.
            name: The channel, the pattern, or the whole name of the promise.

        Returns:
            Whether it may. By default, everything may but patterns that might match what the layer
            itself sends.
        """
        return kind != "pattern" or not self._desk.hub.names.is_exposed_by(name)

    async def on_bad_payload(self, channel: bytes, payload: bytes, error: Exception) -> None:
        """Called instead of the handler with what could not be decoded. Does nothing."""

    async def _begin(self) -> None:
        await super()._begin()
        decoder(own(self, "payload"), f"payload of {type(self).__name__}")
        topics = list(self._declared())
        if not topics:
            return
        for topic in topics:
            self._desk.hub.names.require_foreign(topic.name)
        _warn_of_globs(type(self), topics)
        if self.scope.get("type") not in OPENED_BY_CLIENT:
            await self._attachment.join(topics)
            return
        loop = self._mpx
        assert loop is not None
        await loop.opened()  # else what comes now would be handled before it
        try:
            await self._attachment.join(topics)
        except exceptions.LinkError as error:
            await self._turn_away(error, self.base_send, loop.has_lost_client)
            raise StopConsumer from error

    async def _subscribe(self, kind: Kind, names: Iterable[Name]) -> None:
        topics = [Topic(kind, encode_name(name)) for name in names]
        for topic in topics:
            self._desk.hub.names.require_foreign(topic.name)
        _warn_of_globs(type(self), topics)
        for topic in topics:
            await self._authorize(kind.value, topic.name)
        await self._attachment.join(topics)

    async def _authorize(self, kind: str, name: bytes) -> None:
        if not await own(self, "authorize_subscription")(kind, name):
            raise exceptions.NotAuthorized(
                consumer=type(self).__name__, kind=kind, name=text_of(name)
            )

    def _unsubscribe(self, kind: Kind, names: Sequence[Name]) -> None:
        """Unsubscribe from these names; from all of the kind if there are none."""
        self._attachment.leave(
            [Topic(kind, encode_name(name)) for name in names or self._attachment.names(kind)]
        )

    async def _hear_message(self, message: PubSubMessage) -> None:
        """See `Listening._hear_message`."""
        if not self._attachment.heeds(message):
            return  # it waited while a handler unsubscribed
        channel = message.channel
        try:
            payload = decoder(own(self, "payload"))(message.payload)
        except exceptions.DecodingError as error:
            self._count_bad_payload(channel, error)
            await own(self, "on_bad_payload")(channel, message.payload, error)
            return
        await self._on_message(message.pattern, channel, payload)

    def _count_bad_payload(self, channel: bytes, error: exceptions.DecodingError) -> None:
        if "bad_payloads" not in self._shadowed:
            self.bad_payloads += 1
        self._desk.reject_payload(channel, error)

    async def _on_message(self, pattern: bytes | None, channel: bytes, payload: Any) -> None:
        """Call the handler for a message; each mixin knows its own kind."""


def _warn_of_globs(consumer: type, topics: Iterable[Topic]) -> None:
    """Log, once for each class, that a channel's name looks like a pattern."""
    name = find_glob(consumer, (topic.name for topic in topics if topic.kind is Kind.CHANNEL))
    if name is not None:
        logger.warning(
            "channels_mpx: %s subscribes to the channel %r, which has *: did you mean psubscribe?",
            consumer.__qualname__,
            text_of(name),
        )


@yielding()
class ChannelSubscriptionMixin(SubscriptionMixin):
    """Channels that anybody may publish on, in a consumer.

    Messages on one channel come in the order in which Redis took them, each once, in order of
    arrival among all that the consumer handles. What is published while the link is lost is
    missed, and ``on_gap`` tells when that is over. All consumers of a process with one channel are
    one subscription in Redis.

    Attributes:
        channels: Names that every such consumer is subscribed to before it handles its first event.
    """

    channels: Collection[Name] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_kind(cls, "on_channel_message")
        require_declared(cls, "channels", "on_channel_message")

    @property
    def subscribed_channels(self) -> tuple[bytes, ...]:
        """The channels that the consumer is subscribed to, in order."""
        return self._attachment.names(Kind.CHANNEL)

    async def subscribe(self, *names: Name) -> None:
        """Subscribe to channels; return when Redis has confirmed all of them.

        Nothing happens for those that are there already. If this raises, none is added.

        Raises:
            ConfigurationError: The consumer has no ``on_channel_message``.
            InvalidName: A name is empty, or neither text nor bytes.
            ReservedName: A name lies under the layer's prefix.
            NotAuthorized: `authorize_subscription` said no.
            ClosedError: The consumer has ended.
            LinkError: Redis does not allow it, or did not confirm it within ``timeout`` seconds.
        """
        require_handler(type(self), "on_channel_message", "channels")
        await self._subscribe(Kind.CHANNEL, names)

    async def unsubscribe(self, *names: Name) -> None:
        """Unsubscribe from channels, from all without a name; nothing comes from them any more.

        Raises:
            InvalidName: A name is empty, or neither text nor bytes.
        """
        self._unsubscribe(Kind.CHANNEL, names)

    async def on_channel_message(self, channel: bytes, message: Any) -> None:
        """Called with each message; override it.

        Args:
            channel: Where it was published.
            message: What ``payload`` makes of it.
        """

    async def _on_message(self, pattern: bytes | None, channel: bytes, payload: Any) -> None:
        if pattern is None:
            await own(self, "on_channel_message")(channel, payload)
        else:
            await super()._on_message(pattern, channel, payload)

    def _declared(self) -> Iterable[Topic]:
        yield from super()._declared()
        names = require_names(type(self), "channels", own(self, "channels"))
        if names:
            require_handler(type(self), "on_channel_message", "channels")
        for name in names:
            yield Topic(Kind.CHANNEL, name)


@yielding()
class PatternSubscriptionMixin(SubscriptionMixin):
    """Glob patterns of channels that anybody may publish on, in a consumer.

    See `ChannelSubscriptionMixin`. A message that matches two of the patterns comes twice. Each
    distinct pattern slows every PUBLISH on the server, however many consumers share it.

    Attributes:
        patterns: Those that every such consumer is subscribed to before its first event.
    """

    patterns: Collection[Name] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_kind(cls, "on_pattern_message")
        require_declared(cls, "patterns", "on_pattern_message")

    @property
    def subscribed_patterns(self) -> tuple[bytes, ...]:
        """The patterns that the consumer is subscribed to, in order."""
        return self._attachment.names(Kind.PATTERN)

    async def psubscribe(self, *patterns: Name) -> None:
        """Subscribe to patterns; return when Redis has confirmed all of them.

        See `ChannelSubscriptionMixin.subscribe`, which raises the same.
        """
        require_handler(type(self), "on_pattern_message", "patterns")
        await self._subscribe(Kind.PATTERN, patterns)

    async def punsubscribe(self, *patterns: Name) -> None:
        """Unsubscribe from patterns, from all without one; nothing comes from them any more.

        Raises:
            InvalidName: A pattern is empty, or neither text nor bytes.
        """
        self._unsubscribe(Kind.PATTERN, patterns)

    async def on_pattern_message(self, pattern: bytes, channel: bytes, message: Any) -> None:
        """Called with each message; override it.

        Args:
            pattern: The pattern that it came through.
            channel: Where it was published.
            message: What ``payload`` makes of it.
        """

    async def _on_message(self, pattern: bytes | None, channel: bytes, payload: Any) -> None:
        if pattern is not None:
            await own(self, "on_pattern_message")(pattern, channel, payload)
        else:
            await super()._on_message(pattern, channel, payload)

    def _declared(self) -> Iterable[Topic]:
        yield from super()._declared()
        names = require_names(type(self), "patterns", own(self, "patterns"))
        if names:
            require_handler(type(self), "on_pattern_message", "patterns")
        for name in names:
            yield Topic(Kind.PATTERN, name)
