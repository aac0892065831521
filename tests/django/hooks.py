"""Consumers that write down what they are told of gaps."""

from __future__ import annotations

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from channels_mpx import ConnectionInterrupted, Gap
from channels_mpx.consumers import (
    ChannelSubscriptionMixin,
    MultiplexedConsumerMixin,
    PatternSubscriptionMixin,
    PromiseMixin,
)
from tests.django.talk import Obedient
from tests.helpers import eventually


class Hooked:
    """Notes what it hears of the connection."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    async def on_activation(self, name: bytes) -> None:
        """Note it."""
        self.heard.append(name.decode())

    async def on_disconnect(self, error: Exception) -> None:
        """Note it."""
        self.heard.append(error)

    async def on_gap(self, gap: Gap) -> None:
        """Note it."""
        self.heard.append(gap)


class Plain(Hooked, Obedient, MultiplexedConsumerMixin, AsyncJsonWebsocketConsumer):
    """In no group, subscribed to nothing."""


class Grouped(Plain):
    """In a group only."""

    groups = ["room"]  # noqa: RUF012


class Subscribed(
    Hooked,
    Obedient,
    ChannelSubscriptionMixin,
    PatternSubscriptionMixin,
    PromiseMixin,
    AsyncJsonWebsocketConsumer,
):
    """With everything."""

    groups = ["room"]  # noqa: RUF012
    channels = ["news", "weather"]  # noqa: RUF012
    patterns = ["metrics.*"]  # noqa: RUF012


NAMES = {"news", "weather", "metrics.*"}


async def outages(consumer: Any, count: int) -> list[tuple[ConnectionInterrupted, Gap]]:
    """Wait until a consumer has heard of so many gaps, and return each with its beginning."""
    await eventually(lambda: sum(isinstance(item, Gap) for item in consumer.heard) >= count)
    told = [item for item in consumer.heard if not isinstance(item, str)]
    assert [type(item) for item in told] == [ConnectionInterrupted, Gap] * count
    return list(zip(told[::2], told[1::2], strict=True))
