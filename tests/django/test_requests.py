"""Requests to Channels' own consumers, with and without the mixin, and from views."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.testing import ApplicationCommunicator, WebsocketCommunicator

from channels_mpx import MultiplexedChannelLayer, NoListener, NotARequest, RemoteError
from channels_mpx.consumers import MultiplexedConsumerMixin
from tests.helpers import eventually

Event = dict[str, Any]


class Plain(AsyncWebsocketConsumer):
    """A consumer as Channels has it."""

    async def connect(self) -> None:
        """Say where to find it."""
        await self.accept()
        await self.send(text_data=self.channel_name)

    async def double(self, event: Event) -> None:
        """Answer."""
        await self.channel_layer.reply(event, {"number": 2 * event["number"]})


class Mixed(MultiplexedConsumerMixin, Plain):
    """The same with the mixin."""

    async def double(self, event: Event) -> None:
        """Answer as consumers with the mixin do."""
        await self.reply(event, {"number": 2 * event["number"]})

    async def fail(self, event: Event) -> None:
        """Answer with an error."""
        raise LookupError(f"no {event['number']}")


class Worker(AsyncConsumer):
    """Reads a worker channel."""

    async def double(self, event: Event) -> None:
        """Answer."""
        await self.channel_layer.reply(event, {"number": 2 * event["number"]})


class SyncWorker(SyncConsumer):
    """The same in threads."""

    def double(self, event: Event) -> None:
        """Answer in either of the two ways."""
        answer = {"number": 2 * event["number"]}
        if event["number"] % 2:
            self.channel_layer.sync.reply(event, answer)
        else:
            async_to_sync(self.channel_layer.reply)(event, answer)


@asynccontextmanager
async def connected(consumer: Any) -> AsyncIterator[tuple[WebsocketCommunicator, str]]:
    """Yield a client and the channel of its consumer; a copy of the name, as a wire makes it."""
    client = WebsocketCommunicator(consumer.as_asgi(), "/")
    assert (await client.connect(timeout=10))[0]
    yield client, str.__str__(await client.receive_from(timeout=10))
    if not client.future.done():
        await client.disconnect()


@pytest.mark.parametrize("consumer", [Plain, Mixed])
async def test_consumer_of_a_client_answers(
    layer: MultiplexedChannelLayer, consumer: type[Plain]
) -> None:
    """Views in threads and other coroutines get the reply; when the client is gone, the news."""
    async with connected(consumer) as (client, channel):
        assert await layer.request(channel, {"type": "double", "number": 4}) == {"number": 8}

        def view() -> list[Event]:
            question = {"type": "double", "number": 5}
            ask = get_channel_layer().request
            return [
                get_channel_layer().sync.request(channel, question),
                async_to_sync(ask)(channel, question),
            ]

        assert await asyncio.to_thread(view) == [{"number": 10}] * 2

    del client

    async def is_gone() -> bool:
        gc.collect()
        with pytest.raises((NoListener, TimeoutError)) as caught:
            await layer.request(channel, {"type": "double", "number": 4}, timeout=1)
        return caught.type is NoListener

    await eventually(is_gone)


async def test_error_in_a_handler_reaches_the_asker(layer: MultiplexedChannelLayer) -> None:
    """With its class and its text; the consumer ends with it as ever."""
    async with connected(Mixed) as (client, channel):
        with pytest.raises(RemoteError, match="LookupError: no 7") as caught:
            await layer.request(channel, {"type": "fail", "number": 7}, timeout=10)
        assert (caught.value.type, caught.value.text) == ("LookupError", "no 7")
        assert caught.value.__cause__ is None
        with pytest.raises(LookupError):
            await client.wait(5)


async def test_error_of_a_message_concerns_nobody_else(layer: MultiplexedChannelLayer) -> None:
    """A handler that replies to what was no request fails by itself."""
    async with connected(Mixed) as (client, channel):
        await layer.send(channel, {"type": "double", "number": 7})
        with pytest.raises(NotARequest):
            await client.wait(5)


@pytest.mark.parametrize("consumer", [Worker, SyncWorker])
async def test_worker_answers(layer: MultiplexedChannelLayer, consumer: Any) -> None:
    """Whether its consumer is sync or async."""
    worker = ApplicationCommunicator(consumer.as_asgi(), {"type": "channel", "channel": "work"})

    async def serve() -> None:
        while True:
            await worker.send_input(await layer.receive("work"))

    serving = asyncio.ensure_future(serve())
    # One topic for the bell; workers of Channels have a channel of their own besides.
    await eventually(lambda: layer.statistics().connection.active)
    for number in range(6):
        reply = await layer.request("work", {"type": "double", "number": number}, timeout=10)
        assert reply == {"number": 2 * number}
    serving.cancel()
    worker.stop()
    await asyncio.gather(serving, return_exceptions=True)
