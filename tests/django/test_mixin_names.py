"""Names that a class behind a mixin has stay that class's, and the mixin works all the same."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer

from channels_mpx import MultiplexedChannelLayer
from channels_mpx.consumers import (
    ChannelSubscriptionMixin,
    MultiplexedConsumerMixin,
    PatternSubscriptionMixin,
    PromiseMixin,
)
from channels_mpx.consumers.offers import Offer
from channels_mpx.names import Kind
from tests.django.client import Client
from tests.helpers import eventually


class Mixins(ChannelSubscriptionMixin, PatternSubscriptionMixin, PromiseMixin):
    """All of them."""


#: Every public name of every mixin.
NAMES = sorted(
    name
    for base in Mixins.__mro__
    for name, value in vars(base).items()
    if isinstance(value, Offer)
)


class Api(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """A library's consumer, as that of djangochannelsrestframework."""

    async def reply(self, action: str, data: Any = None, status: int = 200) -> None:
        """Answer the client."""
        await self.send_json([action, data, status])

    async def receive_json(self, content: Any) -> None:
        """Do what the client wants."""
        await self.reply(action=content["action"], data=content["data"])


class Own:
    """What a library has under a name, for purposes of its own."""

    def __repr__(self) -> str:
        return "theirs"


def test_names_are_those_of_the_documentation() -> None:
    """Each is in the list of the page."""
    assert len(NAMES) == 25
    page = (Path(__file__).parents[2] / "docs/howto/consumers.md").read_text()
    section = page.partition("## Names\n")[2].partition("\n## ")[0]
    assert set(NAMES) <= {word.strip("`,.:;()") for word in section.split()}


@pytest.mark.parametrize("mixin", [MultiplexedConsumerMixin, Mixins])
async def test_reply_of_a_library(layer: MultiplexedChannelLayer, mixin: Any) -> None:
    """It is called with its own arguments; a request is answered through the layer."""

    class Mine(mixin, Api):  # type: ignore[misc]
        async def reply(self, *args: Any, **kwargs: Any) -> None:
            await super().reply(*args, status=201, **kwargs)

        async def ask(self, event: dict[str, Any]) -> None:
            await self.channel_layer.reply(event, {"answer": 42})

    theirs = type("Theirs", (mixin, Api), {})
    empty = type("Empty", (mixin, Api), {"__len__": lambda self: 0})
    further = type("Further", (Mine,), {})
    for consumer, status in ((theirs, 200), (empty, 200), (Mine, 201), (further, 201)):
        client = await Client(consumer).connect()
        client.say('{"action": "list", "data": [1]}')
        assert await client.hear() == [f'["list", [1], {status}]']
        if consumer not in (theirs, empty):
            name = client.instance.channel_name
            assert (await layer.request(name, {"type": "ask"}))["answer"] == 42
        await client.leave()
    assert inspect.signature(theirs.reply) == inspect.signature(Api.reply)


@pytest.mark.parametrize("name", NAMES)
async def test_every_name(layer: MultiplexedChannelLayer, name: str) -> None:
    """Whatever it is there, that is what the consumer has; messages and subscriptions work."""
    value = Own()
    theirs = type("Theirs", (AsyncWebsocketConsumer,), {name: value})
    heard = []

    class Chat(Mixins, theirs):  # type: ignore[misc, valid-type]
        groups = ("chat",)

        async def said(self, event: dict[str, Any]) -> None:
            heard.append(event["text"])

        async def join(self, event: dict[str, Any]) -> None:
            await super(Mixins, self)._subscribe(Kind.CHANNEL, ["late"])

    assert getattr(Chat, name) is value
    client = await Client(Chat).connect()
    assert getattr(client.instance, name) is value
    assert getattr(super(Chat, client.instance), name) is value
    await layer.group_send("chat", {"type": "said", "text": "hello"})
    await eventually(lambda: heard == ["hello"])
    client.give("join")
    await eventually(lambda: client.instance._attachment.names(Kind.CHANNEL) == (b"late",))
    assert await layer.multiplexer.publish("late", b"not heard") == 1
    await layer.group_send("chat", {"type": "said", "text": "still here"})
    await eventually(lambda: heard == ["hello", "still here"])
    assert getattr(client.instance, name) is value
    await client.leave()


async def test_own_class_comes_first(layer: MultiplexedChannelLayer) -> None:
    """Its hooks, handlers and attributes are for the mixin, also if a library has them too."""
    fields = {name: Own() for name in NAMES}
    theirs = type("Theirs", (AsyncWebsocketConsumer,), fields)

    class Chat(Mixins, theirs):  # type: ignore[misc, valid-type]
        channels = ("news",)
        payload = "text"

        async def on_channel_message(self, channel: bytes, message: str) -> None:
            await self.send(text_data=message)

    client = await Client(Chat).connect()
    await layer.multiplexer.publish("news", "hello")
    assert await client.hear() == ["hello"]
    await client.leave()


def test_names_of_mixins_where_nothing_is_behind_them() -> None:
    """They look as if they stood there, for users, editors and documentation."""
    chat = type("Chat", (Mixins, AsyncWebsocketConsumer), {})
    assert (chat.read_ahead, chat().payload, chat.channels) == (16, "bytes", ())
    assert inspect.iscoroutinefunction(chat.reply)
    assert isinstance(inspect.getattr_static(chat, "subscribe"), Offer)
    assert isinstance(chat.subscribed_channels, property)
    assert "Answer a request" in (inspect.getdoc(MultiplexedConsumerMixin.reply) or "")
