"""What consumers with a mixin get, and what they do not, in the statistics."""

from __future__ import annotations

from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer

from channels_mpx.consumers import MultiplexedConsumerMixin
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
