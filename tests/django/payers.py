"""Consumers that wait for promises, and what is left of them."""

from __future__ import annotations

import contextlib
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from channels_mpx import MultiplexedChannelLayer, PromiseCancelled
from channels_mpx.consumers import PromiseMixin
from tests.django.client import is_empty, others
from tests.django.talk import Obedient, Place


class Payer(Obedient, PromiseMixin, AsyncJsonWebsocketConsumer):
    """Says when a promise exists, and notes what becomes of its handlers."""

    payload = "text"

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    async def pay(self, order: str, timeout: float = 60) -> Any:
        """Wait for what is said about an order."""
        promise = await self.promise_created("pay.", order, timeout)
        await self.send_json("waiting")
        return await promise

    async def insist(self) -> None:
        """Wait, and do not let the release pass."""
        try:
            await self.pay("insist")
        except PromiseCancelled as error:
            self.notes.append(error.reason)  # type: ignore[attr-defined]
            with contextlib.suppress(PromiseCancelled):
                await self.promise("pay.", "again", 60)
            self.notes.append("insisted")

    async def receive_json(self, content: Any) -> None:
        """Let what is no news to the client pass."""
        self.notes.append(content[0])
        try:
            await super().receive_json(content)
        finally:
            self.notes.append("handled")

    async def said(self, event: dict[str, Any]) -> None:
        """Note it."""
        self.notes.append(event["text"])

    async def disconnect(self, code: int) -> None:
        """Note it."""
        self.notes.append("farewell")


class Letting(Payer):
    """Lets the release pass."""

    async def receive_json(self, content: Any) -> None:
        """Let the release pass."""
        self.notes.append(content[0])
        await self.send_json(await getattr(self, content[0])(*content[1:]))


def outstanding(layer: MultiplexedChannelLayer) -> int:
    """Return how many promises there are in the process."""
    ledgers = [ledger for ledger, _ in layer._process.board._ledgers.values()]
    return sum(len(ledger._outstanding) for ledger in ledgers)


async def is_left_clean(layer: MultiplexedChannelLayer, place: Place) -> bool:
    """Whether nothing of any consumer is left, here and in Redis."""
    is_clean = is_empty(layer) and not outstanding(layer) and not place.numpat()
    return is_clean and not others()
