"""A handler waits for a promise, and its client goes away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.generic.http import AsyncHttpConsumer
from channels.testing import WebsocketCommunicator

from channels_mpx import (
    PromiseCancelled,
    SubscriptionIsClosed,
)
from channels_mpx.consumers import PromiseMixin
from channels_mpx.testing import Broker
from tests.django.client import Client, quiet
from tests.django.payers import Letting, Payer, is_left_clean, outstanding
from tests.django.talk import Place, default, open_talker, place
from tests.helpers import eventually

__all__ = ["default", "place", "quiet"]


async def test_the_client_goes_away(layer: Any, place: Place) -> None:
    """The handler is released at once, the farewell is said, and nothing is left."""
    for consumer in (Payer, Letting):
        talker = await open_talker(consumer)
        talker.tell("pay", "1")
        assert await talker.next() == "waiting"
        assert outstanding(layer) == 1
        await talker.leave()
        assert talker.instance.notes[-1] == "farewell"
        await eventually(lambda: is_left_clean(layer, place))


async def test_the_client_goes_away_from_a_communicator(layer: Any, place: Place) -> None:
    """As users test it."""
    communicator = WebsocketCommunicator(Letting.as_asgi(), "/")
    assert (await communicator.connect())[0]
    await communicator.send_json_to(["promise", "pay.", "1", 60])
    await eventually(lambda: outstanding(layer) == 1)
    await communicator.disconnect(timeout=10)
    await eventually(lambda: is_left_clean(layer, place))


async def test_other_events_wait_before_the_farewell(layer: Any, place: Place) -> None:
    """They are handled, each is released in its turn, and so are messages of the layer."""
    talker = await open_talker(Letting)
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    await layer.send(talker.instance.channel_name, {"type": "said", "text": "layer"})
    for number in range(2, 10):
        talker.tell("pay", str(number))
    talker.tell("both")
    await talker.leave()
    assert talker.instance.notes == ["pay", "layer", *["pay"] * 8, "both", "farewell"]
    await eventually(lambda: is_left_clean(layer, place))


async def test_too_many_events_wait_before_the_farewell(layer: Any, place: Place) -> None:
    """With more than `read_ahead` of them it is not read, and the handler waits on."""
    talker = await open_talker(type("Near", (Letting,), {"read_ahead": 2}))
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    for _ in range(3):
        talker.tell("both")
    talker.give("websocket.disconnect", code=1000)
    await eventually(lambda: talker.calls == 4)
    assert outstanding(layer) == 1
    place.publish("pay.1", "yes")
    await talker.end()
    assert talker.instance.notes == ["pay", *["both"] * 3, "farewell"]


async def test_a_handler_that_does_not_let_it_pass(layer: Any, place: Place) -> None:
    """Goes on; its next promise is released at once too."""
    talker = await open_talker(Payer)
    talker.tell("insist")
    assert await talker.next() == "waiting"
    await talker.leave()
    assert talker.instance.notes == [
        *("insist", "the client has gone away", "insisted", "handled", "farewell")
    ]


async def test_the_client_goes_away_before_the_promise_exists(default: Any) -> None:
    """While the link is down, and while it is being authorised."""
    broker = Broker()
    layer = default(broker.layer(max_reconnect_delay=0.05))
    gate = asyncio.Event()
    gate.set()

    class Thinking(Letting):
        async def authorize_subscription(self, kind: str, name: bytes) -> bool:
            self.notes.append("asked")
            await gate.wait()
            return True

    talker = await open_talker(Thinking)
    with broker.down():
        talker.tell("promise", "pay.", "1", 60)
        await eventually(lambda: layer.statistics().connection.wanted == 2)
        await talker.leave()
    assert talker.instance.notes == ["promise", "asked", "farewell"]

    talker = await open_talker(Thinking)
    gate.clear()
    talker.tell("promise", "pay.", "1", 60)
    await eventually(lambda: talker.instance.notes == ["promise", "asked"])
    talker.give("websocket.disconnect", code=1000)
    await eventually(lambda: bool(talker.instance._promises_ended))
    gate.set()
    await talker.end()
    assert talker.instance.notes == ["promise", "asked", "farewell"]
    await eventually(lambda: is_left_clean(layer, Place(broker)))


async def test_the_multiplexer_is_closed_before_the_promise_exists(default: Any) -> None:
    """That is an error: the client is there."""
    broker = Broker()
    layer = default(broker.layer(max_reconnect_delay=0.05))
    talker = await open_talker(Letting)
    with broker.down():
        talker.tell("promise", "pay.", "1", 60)
        await eventually(lambda: layer.statistics().connection.wanted == 2)
        await layer.multiplexer.aclose()
        with pytest.raises(SubscriptionIsClosed):
            await talker.end()


async def test_a_promise_in_the_farewell(layer: Any, place: Place) -> None:
    """Nobody is there to wait for it: the error is as any other, and the consumer ends."""

    class Late(Letting):
        async def disconnect(self, code: int) -> None:
            await self.promise("pay.", "late", 60)

    talker = await open_talker(Late)
    talker.give("websocket.disconnect", code=1000)
    with pytest.raises(PromiseCancelled, match="the client has gone away"):
        await talker.end()
    await eventually(lambda: is_left_clean(layer, place))


async def test_another_error_is_not_let_pass(layer: Any, place: Place) -> None:
    """What a handler makes of the release is its own error."""

    class Converting(Letting):
        async def pay(self, order: str, timeout: float = 60) -> Any:
            try:
                return await super().pay(order, timeout)
            except PromiseCancelled as error:
                raise ZeroDivisionError("on purpose") from error

    talker = await open_talker(Converting)
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    talker.give("websocket.disconnect", code=1000)
    with pytest.raises(ZeroDivisionError):
        await talker.end()
    assert talker.instance.notes == ["pay"]


class Page(PromiseMixin, AsyncHttpConsumer):
    """A long poll."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Any] = []

    async def handle(self, body: bytes) -> None:
        """Answer with what is published."""
        await self.send_headers()
        await self.send_body(b"", more_body=True)
        await self.send_body(await self.promise("poll.", body, 60))

    async def said(self, event: dict[str, Any]) -> None:
        """Wait for something."""
        await self.promise("poll.", event["text"], 60)

    async def disconnect(self) -> None:
        """Note it."""
        self.notes.append("farewell")


async def test_http_long_poll(layer: Any, place: Place) -> None:
    """It is answered by a publish; `disconnect` is called once."""
    client = Client(Page, {"type": "http"})
    client.give("http.request", body=b"1")
    assert await client.hear(2) == ["http.response.start", "http.response.body"]
    await eventually(lambda: outstanding(layer) == 1)
    place.publish("poll.1", "now")
    await client.end()
    assert client.sent == [{"type": "http.response.body", "body": b"now", "more_body": False}]
    assert client.instance.notes == ["farewell"]
    await eventually(lambda: is_left_clean(layer, place))


async def test_http_client_goes_away(layer: Any, place: Place) -> None:
    """The handler is released, and `disconnect` is called once, as if it had returned."""
    client = Client(Page, {"type": "http"})
    client.give("http.request", body=b"1")
    await eventually(lambda: outstanding(layer) == 1)
    client.give("http.disconnect")
    await client.end()
    assert client.instance.notes == ["farewell"]
    await eventually(lambda: is_left_clean(layer, place))


async def test_http_client_goes_away_while_a_message_is_handled(layer: Any, place: Place) -> None:
    """Then its farewell is to come."""
    client = Client(Page, {"type": "http"})
    client.give("http.request", body=b"1", more_body=True)
    await eventually(lambda: layer.statistics().channels == 1)
    await layer.send(client.instance.channel_name, {"type": "said", "text": "x"})
    await eventually(lambda: outstanding(layer) == 1)
    client.give("http.disconnect")
    await client.end()
    assert client.instance.notes == ["farewell"]


async def test_http_consumer_that_stays(layer: Any, place: Place) -> None:
    """With an `http_request` of its own, the farewell is another event."""

    class Stream(Page):
        async def http_request(self, message: Any) -> None:
            await self.handle(message["body"])

        async def http_disconnect(self, message: Any) -> None:
            self.notes.append("gone")
            await super().http_disconnect(message)

    client = Client(Stream, {"type": "http"})
    client.give("http.request", body=b"1")
    await eventually(lambda: outstanding(layer) == 1)
    client.give("http.disconnect")
    await client.end()
    assert client.instance.notes == ["gone", "farewell"]
