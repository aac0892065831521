"""A place where anybody may publish, and a client that has its consumer do things."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from channels import DEFAULT_CHANNEL_LAYER
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import channel_layers

from channels_mpx import MPXError, MultiplexedChannelLayer
from channels_mpx.consumers import ChannelSubscriptionMixin, PatternSubscriptionMixin
from channels_mpx.memory import MemoryBroker, broker
from tests.django.client import Client
from tests.layers import kill_clients
from tests.servers import RedisServer


class Place:
    """Where messages go, as somebody sees it who has nothing to do with the layer.

    Args:
        where: A server, or a broker in this process.
    """

    def __init__(self, where: RedisServer | MemoryBroker) -> None:
        self._where = where

    def publish(self, channel: str, payload: bytes | str = b"") -> int:
        """Publish, and return how many heard it."""
        data = payload.encode() if isinstance(payload, str) else payload
        if isinstance(self._where, RedisServer):
            return int(self._where.command("PUBLISH", channel, data))
        return self._where.publish(channel.encode(), data)

    def numsub(self, channel: str) -> int:
        """Return how many connections are subscribed to a channel."""
        if isinstance(self._where, RedisServer):
            return int(self._where.command("PUBSUB", "NUMSUB", channel)[1])
        return int(self._where.execute((b"PUBSUB", b"NUMSUB", channel.encode()))[1])

    def numpat(self) -> int:
        """Return how many patterns there are."""
        if isinstance(self._where, RedisServer):
            return int(self._where.command("PUBSUB", "NUMPAT"))
        return int(self._where.execute((b"PUBSUB", b"NUMPAT")))

    def kill(self) -> None:
        """Close all connections."""
        if isinstance(self._where, RedisServer):
            kill_clients(self._where)
            return
        for link in tuple(self._where.links):
            link.call_soon(link.lose, "killed by the test")


@pytest.fixture
def place(hosts: list[str], request: pytest.FixtureRequest) -> Place:
    """Where the messages of `layer` go."""
    if hosts[0].startswith("memory://"):
        return Place(broker(hosts[0].removeprefix("memory://")))
    return Place(request.getfixturevalue("redis_server"))


@pytest.fixture
def default() -> Iterator[Any]:
    """A function that makes a layer Django's default one."""

    def use(layer: MultiplexedChannelLayer) -> MultiplexedChannelLayer:
        channel_layers.set(DEFAULT_CHANNEL_LAYER, layer)
        return layer

    yield use
    layer = channel_layers.backends.pop(DEFAULT_CHANNEL_LAYER)
    layer.sync.close()


class Obedient:
    """What a consumer does that calls its own verbs, and tells the client everything.

    The client says ``[verb, *arguments]`` and hears ``["done", result]`` or the error.
    """

    async def receive_json(self, content: Any) -> None:
        """Do what the client says."""
        verb, *arguments = content
        try:
            result = await getattr(self, verb)(*arguments)
        except MPXError as error:
            result = type(error).__name__
        await self.send_json(["done", result])  # type: ignore[attr-defined]

    async def both(self) -> list[Any]:
        """Return what it is subscribed to."""
        names = [getattr(self, f"subscribed_{kind}", ()) for kind in ("channels", "patterns")]
        return [[name.decode() for name in kind] for kind in names]

    async def on_channel_message(self, channel: bytes, message: Any) -> None:
        """Tell the client."""
        await self.send_json(["channel", channel.decode(), text(message)])  # type: ignore[attr-defined]

    async def on_pattern_message(self, pattern: bytes, channel: bytes, message: Any) -> None:
        """Tell the client."""
        await self.send_json(  # type: ignore[attr-defined]
            ["pattern", pattern.decode(), channel.decode(), text(message)]
        )

    async def said(self, event: dict[str, Any]) -> None:
        """Tell the client."""
        await self.send_json(["layer", event["text"]])  # type: ignore[attr-defined]


def text(value: Any) -> Any:
    """Return what JSON can carry."""
    return value.decode() if isinstance(value, bytes) else value


class Listener(
    Obedient, ChannelSubscriptionMixin, PatternSubscriptionMixin, AsyncJsonWebsocketConsumer
):
    """Both mixins; the client says what to do."""


class Declared(Listener):
    """With class attributes."""

    channels = ["news", b"weather"]  # noqa: RUF012
    patterns = ("metrics.*",)


class Talker(Client):
    """A client that speaks JSON."""

    def tell(self, *content: Any) -> None:
        """Have the consumer do something."""
        self.say(json.dumps(content))

    async def next(self) -> Any:
        """Return what it says next."""
        (said,) = await self.hear()
        return json.loads(said)

    async def ask(self, *content: Any) -> Any:
        """Have the consumer do something, and return what came of it; nothing else may come."""
        self.tell(*content)
        word, result = await self.next()
        assert word == "done"
        return result


async def open_talker(consumer: Any) -> Talker:
    """Return a client that is connected."""
    talker = Talker(consumer)
    await talker.connect()
    return talker


async def fence(talker: Talker, place: Place) -> None:
    """Return when everything that was published before has been handled; nothing may come of it."""
    assert await talker.ask("subscribe", "fence") is None
    assert place.publish("fence", "up") == 1
    assert await talker.next() == ["channel", "fence", "up"]
    assert await talker.ask("unsubscribe", "fence") is None
