"""Redis is away when a consumer begins, or when its client speaks."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer

from channels_mpx import LinkError, LinkRefused, LinkUnavailable, MultiplexedChannelLayer
from channels_mpx.consumers import ChannelSubscriptionMixin, MultiplexedConsumerMixin, PromiseMixin
from channels_mpx.testing import Broker
from tests.django.client import Client, quiet
from tests.django.talk import default
from tests.helpers import eventually
from tests.layers import is_active, open_layer
from tests.servers import RedisServer

__all__ = ["default", "quiet"]

MIXINS = [MultiplexedConsumerMixin, PromiseMixin, ChannelSubscriptionMixin]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of the consumers' logger; nothing of it has a traceback."""
    records = [record for record in caplog.records if record.name == "channels_mpx.consumers"]
    assert all(record.levelno == logging.WARNING and not record.exc_info for record in records)
    return [record.getMessage() for record in records]


# When a consumer begins


@pytest.fixture(params=["away", "password"])
async def refusing(
    request: pytest.FixtureRequest, make_redis: Any, default: Any
) -> AsyncIterator[MultiplexedChannelLayer]:
    """A layer that was never connected: Redis is away, or wants another password."""
    server: RedisServer = make_redis(users=["ada on >ada ~* &* +@all"])
    password = "ada" if request.param == "away" else "wrong"
    if request.param == "away":
        server.kill()
    where = [server.url_for("ada", password)]
    async with open_layer(where, timeout=0.2, max_reconnect_delay=0.05) as layer:
        yield default(layer)


@pytest.mark.parametrize("mixin", MIXINS)
async def test_clients_are_turned_away(
    refusing: Any, mixin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """By all mixins alike, and the log has one line for all clients of a class."""
    chat = type("Chat", (mixin, AsyncWebsocketConsumer), {})
    page = type("Page", (mixin, AsyncHttpConsumer), {})
    for _ in range(3):
        client = Client(chat)
        client.give("websocket.connect")
        await client.end()
        assert client.sent == [{"type": "websocket.close", "code": 1013}]
        client = Client(page, {"type": "http"})
        client.give("http.request")
        await client.end()
        assert [sent.get("status") for sent in client.sent] == [503, None]
    client = Client(chat)
    client.give("websocket.disconnect")
    await client.end()
    assert client.sent == []
    job = Client(type("Job", (mixin, AsyncConsumer), {}), {"type": "channel", "channel": "work"})
    with pytest.raises((LinkUnavailable, LinkRefused)):
        await job.end()
    first, second = said(caplog)
    assert first.startswith("channels_mpx: Chat turns clients away, it cannot have a channel: ")
    assert second.startswith("channels_mpx: Page turns clients away, it cannot have a channel: ")


async def test_clients_of_sync_consumers(refusing: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Are turned away too, with a code that the class chooses."""
    fields = {"unavailable_close_code": 4503}
    client = Client(type("Chat", (MultiplexedConsumerMixin, WebsocketConsumer), fields))
    client.give("websocket.connect")
    await client.end()
    assert client.sent == [{"type": "websocket.close", "code": 4503}]
    assert len(said(caplog)) == 1


# When a client speaks


class Chat(MultiplexedConsumerMixin, AsyncWebsocketConsumer):
    """Sends to its group what its client says."""

    groups = ("chat",)

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        """Tell all."""
        await self.channel_layer.group_send("chat", {"type": "said", "text": text_data})

    async def said(self, event: dict[str, Any]) -> None:
        """Tell the client."""
        await self.send(text_data=event["text"])


class Patient(Chat):
    """Lives on."""

    async def on_link_error(self, error: LinkError, event: Any) -> None:
        """Tell the client."""
        if event["type"] == "websocket.receive" and event["text"] == "last words":
            raise ZeroDivisionError("on purpose") from error
        await self.send(text_data=f"not sent: {event['text']}")


class Chatty(Patient):
    """With a ``dispatch`` of its own."""

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Find the handler as ever."""
        await super().dispatch(message)


class Sync(MultiplexedConsumerMixin, WebsocketConsumer):
    """The same in threads."""

    groups = ("chat",)

    def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        """Tell all."""
        self.channel_layer.sync.group_send("chat", {"type": "said", "text": text_data})

    def said(self, event: dict[str, Any]) -> None:
        """Tell the client."""
        self.send(text_data=event["text"])

    def on_link_error(self, error: LinkError, event: Any) -> None:
        """Tell the client, in the thread of the handlers."""
        assert threading.current_thread() is not threading.main_thread()
        if event["text"] == "last words":
            raise ZeroDivisionError("on purpose") from error
        self.send(text_data=f"not sent: {event['text']}")


@pytest.fixture
async def outage(default: Any) -> AsyncIterator[Broker]:
    """A broker that can be taken away from the default layer."""
    broker = Broker()
    layer = default(broker.layer(timeout=0.2, max_reconnect_delay=0.05))
    await layer.new_channel()
    yield broker
    await layer.aclose()


async def test_by_default_the_consumer_ends(outage: Broker) -> None:
    """With the error of its handler, as ever."""
    client = await Client(Chat).connect()
    with outage.down():
        client.say("hello")
        with pytest.raises(LinkError) as caught:
            await client.end()
    assert "on_link_error" not in [entry.name for entry in caught.traceback]


@pytest.mark.parametrize("consumer", [Patient, Chatty, Sync])
async def test_a_consumer_may_live_on(outage: Broker, consumer: Any) -> None:
    """It handles what comes next; what the hook raises ends it."""
    client = await Client(consumer).connect()
    client.say("one")
    assert await client.hear() == ["one"]
    with outage.down():
        for text in ("two", "three"):
            client.say(text)
            assert await client.hear() == [f"not sent: {text}"]
    await eventually(functools.partial(is_active, client.instance.channel_layer))
    client.say("four")
    assert await client.hear() == ["four"]
    with outage.down():
        client.say("last words")
        with pytest.raises(ZeroDivisionError):
            await client.end()


async def test_after_the_disconnect_the_consumer_ends(outage: Broker) -> None:
    """Whatever the hook does: nobody is there any more."""
    seen = []

    class Leaving(Chat):
        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_send("chat", {"type": "said", "text": "bye"})

        async def on_link_error(self, error: LinkError, event: Any) -> None:
            seen.append(event["type"])

    client = await Client(Leaving).connect()
    with outage.down():
        await client.leave()
    assert seen == ["websocket.disconnect"]


async def test_hooks_and_messages(outage: Broker) -> None:
    """The event is what was handled, and None where it was neither an event nor a message."""
    seen: list[Any] = []

    class Watching(Chat):
        async def on_disconnect(self, error: Exception) -> None:
            await self.channel_layer.group_send("chat", {"type": "said", "text": "alone"})

        async def forward(self, event: dict[str, Any]) -> None:
            await self.channel_layer.group_send("chat", {"type": "said", "text": "never"})

        async def broken(self, event: dict[str, Any]) -> None:
            raise ValueError("on purpose")

        async def on_link_error(self, error: LinkError, event: Any) -> None:
            seen.append(event and event["type"])

    client = await Client(Watching).connect()
    with outage.down():
        await eventually(lambda: seen == [None])
        client.give("forward")
        await eventually(lambda: seen == [None, "forward"])
    client.give("broken")
    with pytest.raises(ValueError, match="on purpose"):
        await client.end()
    assert seen == [None, "forward"]
