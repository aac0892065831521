"""Subscriptions to channels and patterns that anybody may publish on: RedisMPX's handles."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .arguments import require_callable
from .callbacks import Callbacks, OnMessage
from .globs import find_glob
from .hub import Hub
from .ledgers import text_of
from .names import Kind, Topic, encode_name
from .reading import Bounds
from .registry import Registry
from .subscription_base import Subscription

__all__ = ["ChannelSubscription", "PatternSubscription"]

logger = logging.getLogger("channels_mpx.multiplexer")


class ChannelSubscription(Subscription):
    """Any number of channels under one set of callbacks, or one reader.

    Make it with `Multiplexer.new_channel_subscription`. Messages on one channel come in the order
    in which Redis took them, each once; what is published while the link is lost is missed, and
    ``on_gap`` tells when that is over. A subscription outlives any number of lost links. It can be
    used as an asynchronous context manager, which waits for its activation and closes it.
    """

    def __init__(self, hub: Hub, registry: Registry, callbacks: Callbacks, bounds: Bounds) -> None:
        self._channels: dict[bytes, OnMessage | None] = {}
        super().__init__(hub, registry, callbacks, bounds, self._topics, self._channels)

    def __repr__(self) -> str:
        return f"<ChannelSubscription channels={len(self._channels)}>"

    @property
    def channels(self) -> tuple[bytes, ...]:
        """The channels that were added, in order."""
        return tuple(self._channels)

    def add(self, channel: str | bytes, on_message: OnMessage | None = None) -> None:
        """Add a channel. ``on_activation`` tells when it is active, or await `activated`.

        Args:
            channel: Its name, which is taken literally; one that is there already stays.
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
        self._require_open()
        self._hub.names.require_foreign(name)
        if on_message is not None or name not in self._channels:
            self._channels[name] = on_message
        self._want(Topic(Kind.CHANNEL, name))
        if find_glob(type(self), (name,)) is not None:
            logger.warning(
                "channels_mpx: a subscription has the channel %r, which has *: "
                "did you mean new_pattern_subscription?",
                text_of(name),
            )

    def remove(self, channel: str | bytes) -> None:
        """Remove a channel; nothing happens if it is not there.

        Its messages that wait for callbacks or readers are dropped.

        Raises:
            InvalidName: The name is empty, or neither text nor bytes.
            SubscriptionIsClosed: The subscription was closed.
        """
        self._require_open()
        name = encode_name(channel)
        topic = Topic(Kind.CHANNEL, name)
        self._channels.pop(name, None)
        self._activation.forget_refusal(topic)
        self._hub.tell(self._hub.leave, topic, self._ear)

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
        super().close()
        self._channels.clear()

    def _topics(self) -> Iterable[Topic]:
        return [Topic(Kind.CHANNEL, name) for name in self.channels]

    def _note_refusal(self, topic: Topic, error: Exception) -> None:
        self._channels.pop(topic.name, None)
        super()._note_refusal(topic, error)


class PatternSubscription(Subscription):
    """One glob pattern under one set of callbacks, or one reader.

    Make it with `Multiplexer.new_pattern_subscription`. All subscriptions of a process to one
    pattern are one in Redis, where each distinct pattern slows every PUBLISH. For the rest see
    `ChannelSubscription`.
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
        super().__init__(hub, registry, callbacks, bounds, lambda: (self._topic,))
        self._want(self._topic)

    def __repr__(self) -> str:
        return f"<PatternSubscription {self.pattern!r}>"
