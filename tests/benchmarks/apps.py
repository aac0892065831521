"""The consumers of the rows with consumers, and how they get their layer."""

from __future__ import annotations

import importlib
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import channel_layers

from tests.benchmarks.context import make_layer, variant

GROUP = "bench"


class Listener(AsyncWebsocketConsumer):  # type: ignore[misc]
    """A consumer as in Channels' tutorial: it passes a group's messages on to its client."""

    groups = (GROUP,)

    async def chat_message(self, event: dict[str, Any]) -> None:
        """Send the text of a message to the client."""
        await self.send(text_data=event["text"])


class Answering(AsyncWebsocketConsumer):  # type: ignore[misc]
    """What the consumers that answer share."""

    async def connect(self) -> None:
        """Say what channel to ask."""
        await self.accept()
        print(self.channel_name, flush=True)


class Replier(Answering):
    """Answers what ``layer.request`` asks."""

    async def question(self, event: dict[str, Any]) -> None:
        """Reply through the layer."""
        await self.channel_layer.reply(event, answer(event))


class MixinReplier(Answering):
    """The same in a consumer with the mixin."""

    async def question(self, event: dict[str, Any]) -> None:
        """Reply through the mixin."""
        await self.reply(event, answer(event))


class HandReplier(Answering):
    """Answers as users of channels_redis do: to the channel and with the id that came along."""

    async def question(self, event: dict[str, Any]) -> None:
        """Send to the asker's channel."""
        await self.channel_layer.send(event["reply_to"], {**answer(event), "id": event["id"]})


def answer(event: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a question: as much text, and the number that tells it from others."""
    return {"type": "answer", "text": event["text"], "number": event["number"]}


def listener(peer: str) -> Any:
    """Return the peer's ASGI application whose consumers listen to the group."""
    return _application(peer, Listener)


def replier(peer: str) -> Any:
    """Return the peer's ASGI application whose consumers answer questions."""
    if not peer.startswith("channels_mpx"):
        return _application(peer, HandReplier)
    return _application(peer, MixinReplier if variant(peer) == "mixin" else Replier)


def _application(peer: str, consumer: type) -> Any:
    bases: tuple[type, ...] = (consumer,)
    if variant(peer) == "mixin":
        mixins = importlib.import_module("channels_mpx.consumers")
        bases = (mixins.MultiplexedConsumerMixin, consumer)
    return type(f"Bench{consumer.__name__}", bases, {}).as_asgi()  # type: ignore[attr-defined]


def install_layer(peer: str, url: str) -> Any:
    """Make the peer's layer the one that consumers get, and return it."""
    layer = make_layer(peer, url)
    channel_layers.set("default", layer)
    return layer
