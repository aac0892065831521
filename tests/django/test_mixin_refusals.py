"""Clients of a consumer that cannot have the names of its class attributes: Redis is away, or says no."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.testing import HttpCommunicator, WebsocketCommunicator

from channels_mpx import CommandRefused, LinkUnavailable, MultiplexedChannelLayer
from channels_mpx.consumers import ChannelSubscriptionMixin, PatternSubscriptionMixin, refusal
from channels_mpx.testing import Broker
from tests.django.client import Client, is_empty, quiet
from tests.django.talk import Declared, default, open_talker
from tests.helpers import eventually
from tests.layers import open_layer
from tests.servers import RedisServer

__all__ = ["default", "quiet"]

MakeRedis = Callable[..., RedisServer]

#: May read one of the names, and not the other, nor the pattern.
ADA = "ada on >ada ~mpx:* &mpx:* &news +@all"


#: The scope of what no client opens.
WORK = {"type": "channel", "channel": "work"}


class Heedless:
    """Does nothing with what it hears."""

    async def on_channel_message(self, channel: bytes, message: bytes) -> None:
        """Do nothing."""

    async def on_pattern_message(self, pattern: bytes, channel: bytes, message: bytes) -> None:
        """Do nothing."""


class Worker(Heedless, ChannelSubscriptionMixin, AsyncConsumer):
    """Has nobody to tell."""

    channels = ["weather"]  # noqa: RUF012


@pytest.fixture
def consumer() -> Any:
    """A class of its own for each test, of which nothing was logged yet."""

    class Board(Declared):
        """With class attributes."""

    return Board


@pytest.fixture
async def away(make_redis: MakeRedis, default: Any) -> AsyncIterator[RedisServer]:
    """A server that was killed when consumers of the layer had been there."""
    server = make_redis()
    async with open_layer(server, timeout=0.2, max_reconnect_delay=0.05) as layer:
        default(layer)
        await layer.new_channel()
        server.kill()
        yield server


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """Return level and text of what the consumers' logger has; nothing of it has a traceback."""
    records = [record for record in caplog.records if record.name == "channels_mpx.consumers"]
    assert not any(record.exc_info for record in records)
    return [(record.levelno, record.getMessage()) for record in records]


async def turned_away(consumer: Any, scope: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return what a consumer sends to a client that it does not want; nothing is raised."""
    client = Client(consumer, scope)
    kind = (scope or {"type": "websocket"})["type"]
    client.give("http.request" if kind == "http" else "websocket.connect")
    await client.end()
    return client.sent


# Redis is away


async def test_websocket_is_to_come_again(
    away: RedisServer, consumer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """With a close that says so, one line in the log, and success when Redis is back."""
    assert await turned_away(consumer) == [{"type": "websocket.close", "code": 1013}]
    ((level, text),) = said(caplog)
    assert level == logging.WARNING
    start, _, cause = text.removeprefix("channels_mpx: ").partition(": ")
    assert start == (
        f"{consumer.__qualname__} turns clients away, it cannot subscribe to "
        "'metrics.*', 'news', 'weather'"
    )
    assert cause.startswith(f"No link to Redis at 127.0.0.1:{away.port} within 0.2 s")
    away.start()
    talker = await open_talker(consumer)
    assert await talker.ask("both") == [["news", "weather"], ["metrics.*"]]
    await talker.leave()
    assert len(said(caplog)) == 1


async def test_redis_that_was_never_there(
    make_redis: MakeRedis, consumer: Any, default: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The site began without it: there is no channel either, and clients hear the same."""
    server = make_redis()
    server.kill()
    async with open_layer(server, timeout=0.2, max_reconnect_delay=0.05) as layer:
        default(layer)
        assert await turned_away(consumer) == [{"type": "websocket.close", "code": 1013}]
        ((_, text),) = said(caplog)
        assert "Board turns clients away, it cannot subscribe to 'metrics.*', " in text
        client = Client(consumer)
        client.give("websocket.disconnect")
        await client.end()
        assert client.sent == []
        client = Client(Worker, WORK)
        with pytest.raises(LinkUnavailable):
            await client.end()
        assert client.sent == []
        assert len(said(caplog)) == 1
        server.start()
        await (await open_talker(consumer)).leave()


async def test_redis_that_does_not_answer(
    make_redis: MakeRedis, consumer: Any, default: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is frozen: the connection is there, and the confirmation does not come."""
    server = make_redis()
    async with open_layer(server, timeout=0.2) as layer:
        default(layer)
        await layer.new_channel()
        server.freeze()
        try:
            assert await turned_away(consumer) == [{"type": "websocket.close", "code": 1013}]
        finally:
            server.thaw()
        ((_, text),) = said(caplog)
        assert "has not confirmed" in text


async def test_choose_the_code(away: RedisServer, consumer: Any) -> None:
    """With a class attribute; a communicator returns it."""
    consumer.unavailable_close_code = 4503
    communicator = WebsocketCommunicator(consumer.as_asgi(), "/")
    assert await communicator.connect(timeout=5) == (False, 4503)


async def test_http_gets_503(away: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """And the handler does not run."""

    class Page(Heedless, PatternSubscriptionMixin, AsyncHttpConsumer):
        patterns = ["metrics.*"]  # noqa: RUF012

        async def handle(self, body: bytes) -> None:
            await self.send_response(200, b"fine")

    answer = await HttpCommunicator(Page.as_asgi(), "GET", "/").get_response(timeout=5)
    assert (answer["status"], answer["body"]) == (503, b"")
    ((_, text),) = said(caplog)
    assert "cannot subscribe to 'metrics.*': No link" in text
    away.start()
    answer = await HttpCommunicator(Page.as_asgi(), "GET", "/").get_response(timeout=5)
    assert (answer["status"], answer["body"]) == (200, b"fine")


async def test_workers_get_the_error(away: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """There is no client who could be told; whoever runs them decides."""
    client = Client(Worker, WORK)
    with pytest.raises(LinkUnavailable):
        await client.end()
    assert (client.sent, said(caplog)) == ([], [])


async def test_one_line_for_many_clients(
    away: RedisServer,
    consumer: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one class, until a while has passed without any; another class has a line of its own."""

    class Other(consumer):  # type: ignore[misc]
        channels = [f"c{number}" for number in range(5)]  # noqa: RUF012
        patterns = ()

    await asyncio.gather(*(turned_away(consumer) for _ in range(20)))
    await turned_away(Other)
    first, second = said(caplog)
    assert "Board turns" in first[1]
    assert (
        "Other turns clients away, it cannot subscribe to 'c0', 'c1', 'c2' and 2 more:" in second[1]
    )
    monkeypatch.setattr(refusal, "PAUSE", 0.0)
    await turned_away(consumer)
    assert len(said(caplog)) == 3


async def test_client_that_did_not_wait(default: Any, consumer: Any) -> None:
    """Nothing is sent to whoever has gone, or cannot be heard any more."""
    broker = Broker()
    layer = default(broker.layer(timeout=0.2, max_reconnect_delay=0.05))
    await layer.new_channel()
    with broker.down():
        for farewell in ("websocket.disconnect", ZeroDivisionError("on purpose")):
            client = Client(consumer)
            client.give("websocket.connect")
            client.give(farewell)
            await client.end()
            assert client.sent == []


async def test_nothing_is_left_behind(default: Any, consumer: Any) -> None:
    """The names are wanted by nobody, although nothing of the consumer ran."""
    broker = Broker()
    layer = default(broker.layer(timeout=0.2, max_reconnect_delay=0.05))
    await layer.new_channel()
    with broker.down():
        await turned_away(consumer)
    await eventually(lambda: is_empty(layer))


# Redis says no


@pytest.fixture
async def forbidden(make_redis: MakeRedis, default: Any) -> AsyncIterator[MultiplexedChannelLayer]:
    """A layer whose user may not have all the names."""
    server = make_redis(users=[ADA])
    async with open_layer([server.url_for("ada", "ada")]) as layer:
        yield default(layer)


async def test_name_that_redis_forbids(
    forbidden: MultiplexedChannelLayer, consumer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An error once, for whoever runs the site; its clients hear that it is not their fault."""
    for _ in range(3):
        assert await turned_away(consumer) == [{"type": "websocket.close", "code": 1011}]
    ((level, text),) = said(caplog)
    assert level == logging.ERROR
    assert "Board turns clients away, Redis forbids it 'metrics.*', 'news', 'weather': " in text
    assert "NOPERM" in text
    await eventually(lambda: is_empty(forbidden))


async def test_name_that_redis_forbids_to_a_page(forbidden: MultiplexedChannelLayer) -> None:
    """Not to be tried again soon."""

    class Page(Heedless, ChannelSubscriptionMixin, AsyncHttpConsumer):
        channels = ["weather"]  # noqa: RUF012

    start, _ = await turned_away(Page, {"type": "http"})
    assert (start["type"], start["status"]) == ("http.response.start", 500)


async def test_name_that_redis_forbids_to_a_worker(forbidden: MultiplexedChannelLayer) -> None:
    """It raises."""
    with pytest.raises(CommandRefused):
        await Client(Worker, WORK).end()


async def test_handlers_get_their_errors_as_ever(forbidden: MultiplexedChannelLayer) -> None:
    """Only names of class attributes turn clients away."""

    class Eager(Heedless, ChannelSubscriptionMixin, AsyncWebsocketConsumer):
        channels = ["news"]  # noqa: RUF012

        async def connect(self) -> None:
            await self.subscribe("weather")

    client = Client(Eager)
    client.give("websocket.connect")
    with pytest.raises(CommandRefused):
        await client.end()
    assert client.sent == []
