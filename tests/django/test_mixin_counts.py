"""What consumers with a mixin get, and what they do not, in the statistics."""

from __future__ import annotations

from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer

from channels_mpx import Gap
from channels_mpx.consumers import ChannelSubscriptionMixin, MultiplexedConsumerMixin
from channels_mpx.testing import Broker
from tests.django.client import Client, quiet
from tests.django.talk import default
from tests.helpers import eventually
from tests.layers import open_layer

__all__ = ["default", "quiet"]

KEYS: Any = {"symmetric_encryption_keys": ["ours"]}


class Listener(MultiplexedConsumerMixin, AsyncWebsocketConsumer):
    """Tells the client what it gets."""

    async def said(self, event: dict[str, Any]) -> None:
        """Tell it."""
        await self.send(event["text"])


class Noting(ChannelSubscriptionMixin, Listener):
    """Hears of everything, and lives on when its client has gone."""

    channels = ["news"]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    async def on_activation(self, name: bytes) -> None:
        """Note it."""
        self.heard.append(name)

    async def on_disconnect(self, error: Exception) -> None:
        """Note it."""
        self.heard.append(error)

    async def on_gap(self, gap: Gap) -> None:
        """Note it."""
        self.heard.append(gap)

    async def on_channel_message(self, channel: bytes, message: Any) -> None:
        """Note it."""
        self.heard.append(message)

    async def websocket_disconnect(self, message: Any) -> None:
        """Stay."""
        self.heard.append("gone")


async def test_only_messages_are_delivered(default: Any) -> None:
    """Not the news for hooks, nor what the client sends, nor that it has gone."""
    broker = Broker()
    layer = default(broker.layer(max_reconnect_delay=0.01))
    client = await Client(Noting).connect()
    heard = client.instance.heard
    await eventually(lambda: heard == [b"news"])
    for count in (1, 2, 3):
        broker.kill_connections()
        await eventually(lambda: len(heard) == 1 + 3 * count)  # noqa: B023
    assert layer.statistics().delivered == 0
    broker.publish(b"news", b"hello")
    await eventually(lambda: heard[-1] == b"hello")
    await layer.send(client.instance.channel_name, {"type": "said", "text": "hello"})
    assert await client.hear() == ["hello"]
    client.give("websocket.disconnect", code=1000)
    client.give("websocket.disconnect", code=1000)  # read when the first one was handled
    await eventually(lambda: heard[-2:] == ["gone", "gone"])
    numbers = layer.statistics()
    assert (numbers.delivered, sum(numbers.dropped.values())) == (2, 0)
    await client.cancel()
    assert layer.statistics().delivered == 2


async def test_garbage_is_not_delivered(hosts: list[str], default: Any) -> None:
    """What was published is what was delivered and what was dropped, exactly."""
    async with (
        open_layer(hosts, **KEYS) as friend,
        open_layer(hosts, symmetric_encryption_keys=["theirs"]) as stranger,
        open_layer(hosts, capacity=6, **KEYS) as layer,
    ):
        default(layer)
        client = await Client(Listener).connect()
        channel = client.instance.channel_name
        await eventually(lambda: layer._mailboxes[channel].is_awaited)
        for number in range(5):
            await stranger.send(channel, {"type": "said", "text": "?"})
            await friend.send(channel, {"type": "said", "text": str(number)})
            assert await client.hear() == [str(number)]
        client.say("not counted")
        numbers = layer.statistics()
        assert (numbers.delivered, sum(numbers.dropped.values())) == (5, 5)
        assert numbers.dropped["malformed"] == 5
        await client.leave()
