"""A consumer in groups that ends in whatever way it is told, and a layer for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer

from channels_mpx import MultiplexedChannelLayer
from channels_mpx.consumers import MultiplexedConsumerMixin


class Room(MultiplexedConsumerMixin, AsyncWebsocketConsumer):
    """A consumer that is in a group and does what it is told."""

    groups = ("room", "hall")

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def said(self, event: dict[str, Any]) -> None:
        """Tell the client."""
        await self.send(text_data=event["text"])

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        """Do what the client says."""
        await getattr(self, text_data)()

    async def wait(self) -> None:
        """Be busy."""
        await self.send(text_data="waiting")
        await self.gate.wait()

    async def fail(self) -> None:
        """Fail."""
        raise ZeroDivisionError("on purpose")

    async def stop(self) -> None:
        """End."""
        raise StopConsumer

    async def hang_up(self) -> None:
        """Close, and leave the rest to the client."""
        await self.close()

    async def disconnect(self, code: int) -> None:
        """Fail, if it was told so."""
        if code == 4000:
            raise ZeroDivisionError("on purpose")


@pytest.fixture
async def warm(layer: MultiplexedChannelLayer) -> MultiplexedChannelLayer:
    """A layer whose inbox is open: it stays so."""
    await layer.new_channel()
    return layer
