"""The multiplexer as a library: RedisMPX's API, without Django and without settings."""

from __future__ import annotations

import weakref
from typing import Any

from .arguments import require_payload
from .callbacks import Callbacks, OnActivation, OnDisconnect, OnGap, OnMessage
from .couriers import require_no_loop
from .exceptions import ConfigurationError
from .hub import Hub
from .ledgers import PromiseBoard
from .names import encode_name
from .options import Options
from .policies import Overflow
from .promises import PromiseSubscription
from .reading import Bounds
from .registry import Registry
from .statistics import MultiplexerStatistics
from .subscriptions import ChannelSubscription, PatternSubscription
from .tracebacks import without_frames

__all__ = ["Multiplexer", "SyncMultiplexer", "multiplexer_over", "serve"]

#: The options that mean something without a channel layer.
OPTIONS = (
    "hosts",
    "prefix",
    "timeout",
    "ping_interval",
    "ping_timeout",
    "probe_interval",
    "reconnect_delay",
    "max_reconnect_delay",
    "client_name",
)

#: How much waits for a subscription's callbacks or reader, unless it says otherwise.
BOUNDS = Bounds()


class Multiplexer:
    """One connection to Redis for any number of subscriptions, and for publishing.

    It is built without an event loop, connects on first use, and reconnects for ever, with
    exponential backoff and jitter. It can be used as an asynchronous context manager.

    Args:
        host: Redis, in any of the forms of the setting ``hosts``.
        options: See `Options`; the names in ``OPTIONS`` are allowed here.

    Raises:
        ConfigurationError: An option is unknown or wrong.
    """

    _registry: Registry

    def __init__(self, host: Any = "redis://localhost:6379", **options: Any) -> None:
        try:
            hub = Hub(Options.parse({"hosts": host, **options}, only=OPTIONS))
        except ConfigurationError as error:
            raise without_frames(error)  # noqa: B904  (the very error)
        finally:
            del host, options  # there are passwords in it, and a traceback shows what a frame holds
        self._set_up(hub, owns_hub=True)
        begin = weakref.WeakMethod(self._begin)
        hub.after_fork = lambda: method() if (method := begin()) is not None else None
        self._begin()

    def _set_up(self, hub: Hub, owns_hub: bool) -> None:
        self._hub = hub
        self._hold = hub.hold()
        self._owns_hub = owns_hub
        self._registry = Registry()
        self._board = PromiseBoard(hub, self._registry)

    def _begin(self) -> None:
        """Set the state of a process in which nothing has happened yet."""
        self._hub.listener = registry = Registry()
        serve(self, registry, PromiseBoard(self._hub, registry))

    def __repr__(self) -> str:
        hub = self.__dict__.get("_hub")  # none while it is being made: a traceback may show it
        return f"<Multiplexer {hub.address} {hub.state}>" if hub else "<no multiplexer yet>"

    async def __aenter__(self) -> Multiplexer:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.aclose()

    @property
    def sync(self) -> SyncMultiplexer:
        """The same for code without an event loop, as in ``mpx.sync.publish(channel, payload)``."""
        return SyncMultiplexer(self, self._hub)

    # Subscriptions

    def new_channel_subscription(
        self,
        on_message: OnMessage | None = None,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
        *,
        on_gap: OnGap | None = None,
        capacity: int = BOUNDS.capacity,
        max_bytes: int = BOUNDS.max_bytes,
        overflow: str | Overflow = BOUNDS.overflow,
    ) -> ChannelSubscription:
        """Return a subscription without channels; add some.

        The callbacks may be anything that Python calls, and may return awaitables. They are called
        one at a time, in order, on the loop that runs now; what they raise is logged and dropped.

        Args:
            on_message: Gets the channel and the payload of each message. Without it the messages
                are there to be read: ``async for message in subscription``.
            on_disconnect: Gets the reason when the link is lost, when Redis refuses a name, and
                when the subscription ends by its overflow.
            on_activation: Gets each channel when Redis has confirmed it, again after each loss.
            on_gap: Gets the `Gap` when everything is active again after a loss.
            capacity: Messages that may wait for callbacks or readers.
            max_bytes: Bytes that may wait.
            overflow: What to do with more: ``drop_newest``, ``drop_oldest``, or ``close``.

        Raises:
            NotCallable: A callback cannot be called.
            InvalidArgument: ``capacity`` or ``max_bytes`` is not a positive whole number.
            ConfigurationError: There is no such ``overflow``.
        """
        callbacks = Callbacks(on_message, on_disconnect, on_activation, on_gap)
        bounds = Bounds(capacity, max_bytes, overflow)
        return ChannelSubscription(self._hub, self._registry, callbacks, bounds)

    def new_pattern_subscription(
        self,
        pattern: str | bytes,
        on_message: OnMessage | None = None,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
        *,
        on_gap: OnGap | None = None,
        capacity: int = BOUNDS.capacity,
        max_bytes: int = BOUNDS.max_bytes,
        overflow: str | Overflow = BOUNDS.overflow,
    ) -> PatternSubscription:
        """Return a subscription to a glob pattern; see `new_channel_subscription`.

        What the layer itself sends is never delivered, whatever the pattern.

        Raises:
            InvalidName: The pattern is empty, or neither text nor bytes.
            ReservedName: It lies under the prefix.
        """
        callbacks = Callbacks(on_message, on_disconnect, on_activation, on_gap)
        bounds = Bounds(capacity, max_bytes, overflow)
        return PatternSubscription(self._hub, self._registry, pattern, callbacks, bounds)

    def new_promise_subscription(self, prefix: str | bytes) -> PromiseSubscription:
        """Return a subscription under which promises can be made, each for a name with this prefix.

        All of a process with one prefix are one pattern in Redis.

        Args:
            prefix: Plain text: ``*?[]`` and the backslash have no special meaning.

        Raises:
            InvalidName: The prefix is empty, or neither text nor bytes.
            ReservedName: It lies under the layer's own prefix.
        """
        return PromiseSubscription(self._board, prefix)

    # Commands

    async def publish(self, channel: str | bytes, payload: str | bytes) -> int:
        """Publish a message; return how many subscriptions Redis gave it to.

        That counts connections: all subscriptions of one process to one name are one. Messages
        that one task publishes one after the other arrive in that order, each at most once.

        Args:
            channel: Where; text is sent as UTF-8.
            payload: What; text is sent as UTF-8.

        Raises:
            InvalidName: The channel is empty, or neither text nor bytes.
            ReservedName: The channel lies under the prefix: what is there is the layer's own.
            InvalidArgument: The payload is neither text nor bytes.
            LinkUnavailable: There was no link until the deadline; nothing was sent.
            LinkLost: The link was lost meanwhile; the message may or may not have been published.
            CommandRefused: Redis does not allow it.
        """
        return await self._hub.call(self._hub.publish, *self._prepare(channel, payload))

    def _prepare(self, channel: str | bytes, payload: str | bytes) -> tuple[bytes, bytes]:
        """Return what Redis gets of a message, or raise what is wrong with it."""
        name = encode_name(channel)
        self._hub.names.require_foreign(name)
        return name, require_payload(payload)

    async def pubsub_channels(self, pattern: str | bytes = "*") -> list[bytes]:
        """Return the channels on the server that somebody is subscribed to, without patterns.

        Args:
            pattern: Only those that it matches.

        Raises:
            LinkUnavailable: There was no link until the deadline; nothing was sent.
            LinkLost: The link was lost meanwhile.
            CommandRefused: Redis does not allow it.
        """
        names = await self._hub.call(
            self._hub.command, b"PUBSUB", b"CHANNELS", encode_name(pattern)
        )
        return list(names)

    async def pubsub_numsub(self, *channels: str | bytes) -> dict[bytes, int]:
        """Return how many connections are subscribed to each channel, without patterns.

        Raises:
            LinkUnavailable: There was no link until the deadline; nothing was sent.
            LinkLost: The link was lost meanwhile.
            CommandRefused: Redis does not allow it.
        """
        names = [encode_name(channel) for channel in channels]
        flat = await self._hub.call(self._hub.command, b"PUBSUB", b"NUMSUB", *names)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    async def pubsub_numpat(self) -> int:
        """Return how many distinct patterns are subscribed to; each slows every PUBLISH.

        Raises:
            LinkUnavailable: There was no link until the deadline; nothing was sent.
            LinkLost: The link was lost meanwhile.
            CommandRefused: Redis does not allow it.
        """
        count: int = await self._hub.call(self._hub.command, b"PUBSUB", b"NUMPAT")
        return count

    def statistics(self) -> MultiplexerStatistics:
        """Return what the connection and the subscriptions do; cheap enough for once a second."""
        connection = vars(self._hub.statistics())
        return MultiplexerStatistics(**connection, subscriptions=self._registry.statistics())

    # Life

    async def aclose(self) -> None:
        """Close the subscriptions and the connection. Idempotent; the next verb connects again.

        Whoever reads gets `SubscriptionIsClosed`, outstanding promises `PromiseCancelled`.
        """
        self._registry.close()
        if self._owns_hub:
            await self._hub.aclose()

    def close(self) -> None:
        """Do what `aclose` does, from a thread without an event loop.

        Raises:
            SyncCallFromAsync: On a thread that runs an event loop: await `aclose` there.
        """
        require_no_loop("close")
        self._registry.close()
        if self._owns_hub:
            self._hub.close()


# For the owner of a connection: users of a multiplexer have no business with these.


def multiplexer_over(hub: Hub) -> Multiplexer:
    """Return a multiplexer over somebody else's connection, which closing does not end.

    It can do nothing before `serve`.
    """
    multiplexer = Multiplexer.__new__(Multiplexer)
    multiplexer._set_up(hub, owns_hub=False)
    return multiplexer


def serve(multiplexer: Multiplexer, registry: Registry, board: PromiseBoard) -> None:
    """Have it belong to a process; after a fork to the child, for which all that was is over.

    Args:
        multiplexer: The multiplexer.
        registry: The subscriptions of that process.
        board: Its promises.
    """
    multiplexer._registry.forget_parent()
    multiplexer._registry = registry
    multiplexer._board = board


class SyncMultiplexer:
    """A multiplexer's commands for code without an event loop; they block until Redis answers.

    They raise what the awaitable ones raise, and `SyncCallFromAsync` on a thread that runs an
    event loop.
    """

    def __init__(self, multiplexer: Multiplexer, hub: Hub) -> None:
        """Make the commands.

        Args:
            multiplexer: Whose commands.
            hub: The connection.
        """
        self._multiplexer = multiplexer
        self._hub = hub

    def publish(self, channel: str | bytes, payload: str | bytes) -> int:
        """See `Multiplexer.publish`."""
        require_no_loop("publish")
        return self._hub.call_sync(self._hub.publish, *self._multiplexer._prepare(channel, payload))

    def pubsub_channels(self, pattern: str | bytes = "*") -> list[bytes]:
        """See `Multiplexer.pubsub_channels`."""
        require_no_loop("pubsub_channels")
        return self._hub.call_sync(self._multiplexer.pubsub_channels, pattern)

    def pubsub_numsub(self, *channels: str | bytes) -> dict[bytes, int]:
        """See `Multiplexer.pubsub_numsub`."""
        require_no_loop("pubsub_numsub")
        return self._hub.call_sync(self._multiplexer.pubsub_numsub, *channels)

    def pubsub_numpat(self) -> int:
        """See `Multiplexer.pubsub_numpat`."""
        require_no_loop("pubsub_numpat")
        return self._hub.call_sync(self._multiplexer.pubsub_numpat)
