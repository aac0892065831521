"""Consumers for tests that hold plain Channels and the mixin against each other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer

from tests.django.client import KINDS, Client, bases


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Plain Channels, which is right by definition, and the mixin."""
    kind: str = request.param
    return kind


def make_chat(kind: str, *others: type) -> Any:
    """Return a consumer that says what it handles, and can be made to wait and to fail."""

    class Chat(*bases(kind, *others, AsyncWebsocketConsumer)):  # type: ignore[misc]
        busy = 0

        def __init__(self) -> None:
            super().__init__()
            self.gate = asyncio.Event()
            self.gate.set()

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self._handle(f"client {text_data}")

        async def said(self, event: dict[str, Any]) -> None:
            await self._handle(f"layer {event['text']}")

        async def _handle(self, text: str) -> None:
            assert not self.busy, "two handlers at one time"
            self.busy += 1
            await asyncio.sleep(0)
            await self.send(text_data=text)
            await self.gate.wait()
            self.busy -= 1

        async def stop(self, event: dict[str, Any]) -> None:
            raise StopConsumer

        async def fail(self, event: dict[str, Any]) -> None:
            raise ZeroDivisionError("on purpose")

        async def drop(self, event: dict[str, Any]) -> None:
            raise asyncio.CancelledError

        def sync(self, event: dict[str, Any]) -> None:
            self.scope["called"] = True

        _hidden = said

    return Chat


def make_chatty(chat: Any) -> Any:
    """Return a consumer with a ``dispatch`` of its own."""

    class Chatty(chat):  # type: ignore[misc]
        async def dispatch(self, message: Any) -> None:
            self.scope.setdefault("dispatched", []).append(message)
            await super().dispatch(message)

    return Chatty


async def tell(layer: Any, client: Client, kind: str = "said", **fields: Any) -> None:
    """Send a message to a client's consumer."""
    await layer.send(client.instance.channel_name, {"type": kind, **fields})
