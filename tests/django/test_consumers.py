"""Channels' own consumers on our layer, through Channels' own communicators."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.consumer import SyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, JsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.testing import ApplicationCommunicator, WebsocketCommunicator

from channels_mpx import MultiplexedChannelLayer
from tests.helpers import eventually


class AsyncRoom(AsyncWebsocketConsumer):
    """Says to everybody what one says."""

    async def connect(self) -> None:
        """Join."""
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        """Tell everybody, or fail."""
        if text_data == "fail":
            raise ZeroDivisionError("on purpose")
        await self.channel_layer.group_send("room", {"type": "said", "text": text_data})

    async def said(self, message: dict[str, Any]) -> None:
        """Tell the client."""
        if message["text"] == "fail all":
            raise ZeroDivisionError("on purpose")
        await self.send(text_data=message["text"])

    async def disconnect(self, code: int) -> None:
        """Leave."""
        await self.channel_layer.group_discard("room", self.channel_name)


class SyncRoom(JsonWebsocketConsumer):
    """The same without async, as the Channels documentation has it."""

    def connect(self) -> None:
        """Join."""
        async_to_sync(self.channel_layer.group_add)("room", self.channel_name)
        self.accept()

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Tell everybody, in either of the two ways."""
        message = {"type": "said", "text": content["text"]}
        if content.get("by") == "sync":
            self.channel_layer.sync.group_send("room", message)
        else:
            async_to_sync(self.channel_layer.group_send)("room", message)

    def said(self, message: dict[str, Any]) -> None:
        """Tell the client."""
        self.send_json({"text": message["text"]})

    def disconnect(self, code: int) -> None:
        """Leave."""
        self.channel_layer.sync.group_discard("room", self.channel_name)


class Task(SyncConsumer):
    """Answers to whoever asks."""

    def double(self, message: dict[str, Any]) -> None:
        """Reply through the layer."""
        layer = get_channel_layer()
        layer.sync.send(message["reply"], {"type": "answer", "value": 2 * message["value"]})
        self.send({"type": "done"})


async def connect(consumer: Any) -> WebsocketCommunicator:
    """Return a communicator that is connected."""
    communicator = WebsocketCommunicator(consumer.as_asgi(), "/")
    connected, _ = await communicator.connect(timeout=10)
    assert connected
    return communicator


def is_empty(layer: MultiplexedChannelLayer) -> bool:
    """Whether no channel and no group is left."""
    gc.collect()
    return (layer.statistics().channels, layer.statistics().groups) == (0, 0)


async def test_async_websocket_consumers_talk(layer: MultiplexedChannelLayer) -> None:
    """Everybody in the room hears what one says; who leaves leaves nothing behind."""
    clients = [await connect(AsyncRoom) for _ in range(5)]
    for number, client in enumerate(clients):
        await client.send_to(text_data=f"hello {number}")
        for other in clients:
            assert await other.receive_from(timeout=5) == f"hello {number}"
    assert layer.statistics().channels == 5
    for client in clients:
        await client.disconnect()
    clients.clear()
    del client, other
    await eventually(lambda: is_empty(layer))


async def test_sync_websocket_consumers_talk(layer: MultiplexedChannelLayer) -> None:
    """A sync consumer may use `async_to_sync` and `layer.sync`, beside async consumers."""
    sync, other = await connect(SyncRoom), await connect(AsyncRoom)
    for by in ("sync", "async_to_sync"):
        await sync.send_json_to({"text": by, "by": by})
        assert await sync.receive_json_from(timeout=5) == {"text": by}
        assert await other.receive_from(timeout=5) == by
    await other.send_to(text_data="from async")
    assert await sync.receive_json_from(timeout=5) == {"text": "from async"}
    assert await other.receive_from(timeout=5) == "from async"
    await sync.disconnect(timeout=5)
    await other.send_to(text_data="alone")
    assert await other.receive_from(timeout=5) == "alone"
    await other.disconnect()
    del sync, other
    await eventually(lambda: is_empty(layer))


async def test_sync_consumer_replies(layer: MultiplexedChannelLayer) -> None:
    """A `SyncConsumer` answers to a channel through `layer.sync`."""
    channel = await layer.new_channel()
    consumer = ApplicationCommunicator(Task.as_asgi(), {"type": "channel", "channel": "task"})
    await consumer.send_input({"type": "double", "value": 21, "reply": channel})
    assert await consumer.receive_output(5) == {"type": "done"}
    answer = await asyncio.wait_for(layer.receive(channel), 5)
    assert answer == {"type": "answer", "value": 42}
    consumer.stop()
    await consumer.wait(5)


@pytest.mark.parametrize("text", ["fail", "fail all"])
async def test_handler_exception_ends_that_consumer_only(
    layer: MultiplexedChannelLayer, text: str
) -> None:
    """A consumer whose handler raises is gone with its membership; a new one works."""
    client = await connect(AsyncRoom)
    await client.send_to(text_data=text)
    with pytest.raises(ZeroDivisionError):
        await client.wait(5)
    del client
    await eventually(lambda: is_empty(layer))
    client = await connect(AsyncRoom)
    await client.send_to(text_data="hello")
    assert await client.receive_from(timeout=5) == "hello"
    await client.disconnect()


async def test_view_code_reaches_consumers(layer: MultiplexedChannelLayer) -> None:
    """What sync code in another thread sends reaches a WebSocket client."""
    client = await connect(AsyncRoom)

    def view() -> None:
        get_channel_layer().sync.group_send("room", {"type": "said", "text": "sync"})
        async_to_sync(get_channel_layer().group_send)("room", {"type": "said", "text": "async"})

    await asyncio.to_thread(view)
    assert [await client.receive_from(timeout=5) for _ in range(2)] == ["sync", "async"]
    await client.disconnect()
