"""Consumers that subscribe to channels and patterns that anybody may publish on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any

from channels.exceptions import StopConsumer

from channels_mpx import exceptions
from channels_mpx.ledgers import text_of
from channels_mpx.names import Kind, Topic, encode_name
from channels_mpx.reception import PubSubMessage

from .mixin import MultiplexedConsumerMixin, is_computed
from .payloads import decoder
from .pump import Event, is_last
from .refusal import OPENED_BY_CLIENT, explain, turn_away

__all__ = ["ChannelSubscriptionMixin", "PatternSubscriptionMixin", "SubscriptionMixin"]

Name = str | bytes


class SubscriptionMixin(MultiplexedConsumerMixin):
    """What the mixins with subscriptions share.

    Attributes:
        payload: What handlers get of a payload: ``bytes``, ``text``, ``json`` or ``msgpack``.
        bad_payloads: How many payloads this consumer could not decode.
        unavailable_close_code: The WebSocket close code for clients that come while Redis cannot
            confirm the names of class attributes.

    Raises:
        ConfigurationError: There is no such ``payload``; or the consumer is a synchronous one, whose
            handlers run in threads.
    """

    payload: str = "bytes"
    bad_payloads: int = 0
    unavailable_close_code: int = 1013  # try again later: IANA's registry of close codes

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not is_computed(cls.payload):
            decoder(cls.payload, f"payload of {cls.__name__}")
        if getattr(cls, "_sync", False):
            raise exceptions.ConfigurationError(
                problem=f"{cls.__name__} is a synchronous consumer; subscriptions and promises need "
                "an asynchronous one, such as AsyncWebsocketConsumer"
            )

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
        decoder(self.payload, f"payload of {type(self).__name__}")
        topics = list(self._declared())
        if not topics:
            return
        for topic in topics:
            self._desk.hub.names.require_foreign(topic.name)
        if self.scope.get("type") not in OPENED_BY_CLIENT:
            await self._attachment.join(topics)
            return
        loop = self._mpx
        assert loop is not None
        await loop.opened()  # else what comes now would be handled before it
        try:
            await self._attachment.join(topics)
        except exceptions.LinkError as error:
            await self._turn_away(topics, error, loop.has_lost_client)
            raise StopConsumer from error

    async def _go_without_channel(
        self, error: exceptions.LinkError, receive: Callable[[], Awaitable[Event]]
    ) -> None:
        topics = list(self._declared())
        if not topics or self.scope.get("type") not in OPENED_BY_CLIENT:
            raise error
        await self._turn_away(topics, error, is_last(await receive()))

    async def _turn_away(
        self, topics: Sequence[Topic], error: exceptions.LinkError, has_left: bool
    ) -> None:
        """Say that the names of the class attributes cannot be had, to the log and to the client."""
        explain(type(self), topics, error)
        if not has_left:
            await turn_away(self.scope, self.base_send, error, self.unavailable_close_code)

    def _declared(self) -> Iterable[Topic]:
        """Return what the class attributes say; each mixin adds its own."""
        return ()

    async def _subscribe(self, kind: Kind, names: Iterable[Name]) -> None:
        topics = [Topic(kind, encode_name(name)) for name in names]
        for topic in topics:
            self._desk.hub.names.require_foreign(topic.name)
        for topic in topics:
            await self._authorize(kind.value, topic.name)
        await self._attachment.join(topics)

    async def _authorize(self, kind: str, name: bytes) -> None:
        if not await self.authorize_subscription(kind, name):
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
            payload = decoder(self.payload)(message.payload)
        except exceptions.DecodingError as error:
            self._count_bad_payload(channel, error)
            await self.on_bad_payload(channel, message.payload, error)
            return
        await self._on_message(message.pattern, channel, payload)

    def _count_bad_payload(self, channel: bytes, error: exceptions.DecodingError) -> None:
        self.bad_payloads += 1
        self._desk.reject_payload(channel, error)

    async def _on_message(self, pattern: bytes | None, channel: bytes, payload: Any) -> None:
        """Call the handler for a message; each mixin knows its own kind."""


def _require_names(consumer: type, attribute: str, names: object) -> list[bytes]:
    """Return the names of a class attribute as Redis gets them.

    Raises:
        ConfigurationError: They are no collection of names; text is one name, not many.
    """
    what = f"{attribute} of {consumer.__name__}"
    if isinstance(names, (str, bytes)) or not isinstance(names, Collection):
        raise exceptions.ConfigurationError(
            problem=f"{what} must be a list of names, not {names!r}"
        )
    try:
        return [encode_name(name) for name in names]
    except exceptions.InvalidName as error:
        raise exceptions.ConfigurationError(problem=f"{what}: {error}") from error


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
        if not is_computed(cls.channels):
            _require_names(cls, "channels", cls.channels)

    @property
    def subscribed_channels(self) -> tuple[bytes, ...]:
        """The channels that the consumer is subscribed to, in order."""
        return self._attachment.names(Kind.CHANNEL)

    async def subscribe(self, *names: Name) -> None:
        """Subscribe to channels; return when Redis has confirmed all of them.

        Nothing happens for those that are there already. If this raises, none is added.

        Raises:
            InvalidName: A name is empty, or neither text nor bytes.
            ReservedName: A name lies under the layer's prefix.
            NotAuthorized: `authorize_subscription` said no.
            ClosedError: The consumer has ended.
            LinkError: Redis does not allow it, or did not confirm it within ``timeout`` seconds.
        """
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
            await self.on_channel_message(channel, payload)
        else:
            await super()._on_message(pattern, channel, payload)

    def _declared(self) -> Iterable[Topic]:
        yield from super()._declared()
        for name in _require_names(type(self), "channels", self.channels):
            yield Topic(Kind.CHANNEL, name)


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
        if not is_computed(cls.patterns):
            _require_names(cls, "patterns", cls.patterns)

    @property
    def subscribed_patterns(self) -> tuple[bytes, ...]:
        """The patterns that the consumer is subscribed to, in order."""
        return self._attachment.names(Kind.PATTERN)

    async def psubscribe(self, *patterns: Name) -> None:
        """Subscribe to patterns; return when Redis has confirmed all of them.

        See `ChannelSubscriptionMixin.subscribe`, which raises the same.
        """
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
            await self.on_pattern_message(pattern, channel, payload)
        else:
            await super()._on_message(pattern, channel, payload)

    def _declared(self) -> Iterable[Topic]:
        yield from super()._declared()
        for name in _require_names(type(self), "patterns", self.patterns):
            yield Topic(Kind.PATTERN, name)
