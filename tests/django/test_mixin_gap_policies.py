"""What a consumer does about a gap: it is closed, as its policy says, or lives on."""

from __future__ import annotations

from typing import Any

import pytest
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer

from channels_mpx import ConnectionInterrupted
from channels_mpx.consumers import MultiplexedConsumerMixin
from tests.django.client import Client, quiet
from tests.django.hooks import NAMES, Hooked, Subscribed, outages
from tests.django.talk import Place, default, place
from tests.helpers import eventually

__all__ = ["default", "place", "quiet"]


class Closing(Hooked, MultiplexedConsumerMixin, AsyncWebsocketConsumer):
    """Closes its socket after a gap."""

    gap_policy = "close"


async def test_close(layer: Any, place: Place) -> None:
    """With a code that says that coming again helps, instead of `on_gap`."""
    client = await Client(Closing).connect()
    place.kill()
    await eventually(lambda: client.sent == [{"type": "websocket.close", "code": 1012}])
    (error,) = client.instance.heard
    assert isinstance(error, ConnectionInterrupted)
    await client.leave()


@pytest.mark.parametrize("base", [AsyncWebsocketConsumer, WebsocketConsumer])
async def test_close_with_another_code(layer: Any, place: Place, base: type) -> None:
    """Also of a synchronous consumer, and of one that has no hooks."""
    bases = (MultiplexedConsumerMixin, base)
    kind: Any = type("Other", bases, {"gap_policy": "close", "gap_close_code": 4001})
    client = await Client(kind).connect()
    place.kill()
    await eventually(lambda: client.sent == [{"type": "websocket.close", "code": 4001}])
    await client.leave()


@pytest.mark.parametrize("base", [AsyncConsumer, SyncConsumer])
async def test_close_without_a_socket(layer: Any, place: Place, base: type) -> None:
    """The consumer ends."""
    kind: Any = type("Job", (MultiplexedConsumerMixin, base), {"gap_policy": "close"})
    client = Client(kind, {"type": "worker"})
    await eventually(lambda: layer.statistics().channels == 1)
    place.kill()
    await client.end()
    assert client.sent == []


async def test_ignore(layer: Any, place: Place) -> None:
    """Neither hook is called; activations are told all the same."""

    class Ignoring(Subscribed):
        gap_policy = "ignore"

    client = await Client(Ignoring).connect()
    place.kill()
    await eventually(lambda: len(client.instance.heard) == 2 * len(NAMES))
    assert set(client.instance.heard) == NAMES
    await client.leave()


async def test_policy_of_an_instance(layer: Any, place: Place) -> None:
    """It may be a property."""

    class Choosing(Closing):
        @property
        def gap_policy(self) -> str:  # type: ignore[override]
            return str(self.scope["policy"])

    clients = [
        await Client(Choosing, {"type": "websocket", "policy": policy}).connect()
        for policy in ("close", "notify")
    ]
    place.kill()
    await eventually(lambda: clients[0].sent == [{"type": "websocket.close", "code": 1012}])
    await outages(clients[1].instance, 1)
    for client in clients:
        await client.leave()
