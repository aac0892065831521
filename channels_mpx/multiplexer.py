"""The multiplexer as a library: RedisMPX's API, without Django and without settings."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from . import exceptions
from .hub import Hub
from .options import Options
from .statistics import HubStatistics
from .subscriptions import (
    ChannelSubscription,
    OnActivation,
    OnDisconnect,
    OnMessage,
    PatternSubscription,
    Registry,
)

__all__ = ["Multiplexer"]

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


class Multiplexer:
    """One connection to Redis for any number of subscriptions, and for publishing.

    It is built without an event loop, connects on first use, and reconnects for ever. It can be
    used as an asynchronous context manager.

    Args:
        host: Redis, in any of the forms of the setting ``hosts``.
        options: See `Options`; the names in ``OPTIONS`` are allowed here.

    Raises:
        ConfigurationError: An option is unknown or wrong.
    """

    def __init__(self, host: Any = "redis://localhost:6379", **options: Any) -> None:
        self._hub = Hub(Options.parse({"hosts": host, **options}, only=OPTIONS))
        self._hub.listener = self._subscriptions = Registry()

    def __repr__(self) -> str:
        return f"<Multiplexer {self._hub.address} {self._hub.state}>"

    async def __aenter__(self) -> Multiplexer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def new_channel_subscription(
        self,
        on_message: OnMessage,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
    ) -> ChannelSubscription:
        """Return a subscription without channels; add some.

        The callbacks may be anything that Python calls, and may return awaitables.

        Args:
            on_message: Gets the channel and the payload of each message.
            on_disconnect: Gets the reason when the link is lost.
            on_activation: Gets each channel when Redis has confirmed it, again after each loss.
        """
        subscription = ChannelSubscription(self._hub, on_message, on_disconnect, on_activation)
        self._subscriptions.add(subscription)
        return subscription

    def new_pattern_subscription(
        self,
        pattern: str | bytes,
        on_message: OnMessage,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
    ) -> PatternSubscription:
        """Return a subscription to a glob pattern; see `new_channel_subscription`.

        Raises:
            ReservedName: The pattern lies under the prefix.
        """
        subscription = PatternSubscription(
            self._hub, pattern, on_message, on_disconnect, on_activation
        )
        self._subscriptions.add(subscription)
        return subscription

    async def publish(self, channel: str | bytes, payload: str | bytes) -> int:
        """Publish a message; return how many subscriptions Redis gave it to.

        Raises:
            LinkError: See `Hub.command`.
        """
        name = channel.encode() if isinstance(channel, str) else channel
        data = payload.encode() if isinstance(payload, str) else payload
        return await self._hub.call(self._hub.publish, name, data)

    def statistics(self) -> HubStatistics:
        """Return what the connection is doing; cheap enough for once a second."""
        return self._hub.statistics()

    async def aclose(self) -> None:
        """Close the connection. Idempotent; the next verb connects again."""
        await self._hub.aclose()

    def close(self) -> None:
        """Do what `aclose` does, from a thread without an event loop.

        Raises:
            SyncCallFromAsync: On a thread that runs an event loop: await `aclose` there.
        """
        if asyncio._get_running_loop() is not None:
            raise exceptions.SyncCallFromAsync(verb="close")
        self._hub.close()
