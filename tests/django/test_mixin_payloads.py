"""What handlers get of a payload, and what becomes of one that means nothing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.testing import ApplicationCommunicator

from channels_mpx import ConfigurationError, MultiplexedChannelLayer
from channels_mpx.consumers import (
    ChannelSubscriptionMixin,
    PatternSubscriptionMixin,
    PromiseMixin,
)
from tests.django.client import Client, quiet
from tests.django.talk import Place, place
from tests.helpers import eventually

__all__ = ["place", "quiet"]


@pytest.mark.parametrize(
    ("payload", "good", "value", "bad"),
    [
        ("bytes", b"\xff\x00", b"\xff\x00", None),
        ("text", "gr\u00fc\u00df dich".encode(), "gr\u00fc\u00df dich", b"\xff"),
        ("json", b'{"a": [1, null]}', {"a": [1, None]}, b"{"),
        ("msgpack", b"\x81\xa1a\x92\x01\xc0", {"a": [1, None]}, b"\x92\x01"),
    ],
)
@pytest.mark.parametrize("where", ["channel", "pattern"])
async def test_payloads(
    layer: MultiplexedChannelLayer,
    place: Place,
    caplog: pytest.LogCaptureFixture,
    payload: str,
    good: bytes,
    value: Any,
    bad: bytes | None,
    where: str,
) -> None:
    """Handlers get what the payload means; what means nothing is counted, logged, handed over."""
    heard: asyncio.Queue[Any] = asyncio.Queue()

    class Reading(ChannelSubscriptionMixin, PatternSubscriptionMixin, AsyncWebsocketConsumer):
        async def on_channel_message(self, channel: bytes, message: Any) -> None:
            heard.put_nowait((channel, message))

        async def on_pattern_message(self, pattern: bytes, channel: bytes, message: Any) -> None:
            heard.put_nowait((channel, message))

        async def on_bad_payload(self, channel: bytes, payload: bytes, error: Exception) -> None:
            heard.put_nowait(("bad", channel, payload, type(error).__name__))

    Reading.payload = payload
    setattr(Reading, f"{where}s", ["one"])
    client = await Client(Reading).connect()
    place.publish("one", good)
    assert await asyncio.wait_for(heard.get(), 10) == (b"one", value)
    for number in range(1, 4):
        if bad is not None:
            place.publish("one", bad)
            got = await asyncio.wait_for(heard.get(), 10)
            assert got == ("bad", b"one", bad, "DecodingError")
            assert client.instance.bad_payloads == number
            assert layer.statistics().dropped["malformed"] == number
    place.publish("one", good)
    assert await asyncio.wait_for(heard.get(), 10) == (b"one", value)
    logged = [
        record
        for record in caplog.records
        if "dropped a malformed message for one" in record.message
    ]
    assert len(logged) == (bad is not None)
    assert all(f"the payload is not {payload!r}" in record.message for record in logged)
    await client.leave()


async def test_a_publisher_writes_no_records(
    layer: MultiplexedChannelLayer, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """The name of a channel that came through a pattern is somebody's text: it stays in one line."""

    class Reading(PatternSubscriptionMixin, AsyncWebsocketConsumer):
        patterns = ("news.*",)
        payload = "json"

        async def on_pattern_message(self, pattern: bytes, channel: bytes, message: Any) -> None:
            raise AssertionError

    client = await Client(Reading).connect()
    place.publish("news.x: bad\nCRITICAL admin logged in \x1b[31m\u202e", "{")
    await eventually(lambda: layer.statistics().dropped["malformed"] == 1)
    (line,) = (
        each.message for each in caplog.records if "dropped a malformed message" in each.message
    )
    assert line.isprintable()
    assert line.startswith(
        r"channels_mpx: dropped a malformed message for news.x: bad\nCRITICAL admin logged in \x1b[31m"
    )
    await client.leave()


async def test_a_consumer_may_do_without_hooks(layer: Any, place: Place) -> None:
    """One that overrides nothing but its handlers lives."""

    class Deaf(ChannelSubscriptionMixin, PatternSubscriptionMixin, PromiseMixin, AsyncConsumer):
        channels = ["one"]  # noqa: RUF012
        patterns = ["o*"]  # noqa: RUF012
        payload = "json"

        async def on_channel_message(self, channel: bytes, message: Any) -> None:
            """Do nothing."""

        async def on_pattern_message(self, pattern: bytes, channel: bytes, message: Any) -> None:
            """Do nothing."""

        async def ping(self, message: Any) -> None:
            await self.send({"type": "pong"})

    communicator = ApplicationCommunicator(Deaf.as_asgi(), {"type": "test"})
    assert await communicator.receive_nothing()
    await eventually(lambda: place.publish("one", "{}") == 2)
    place.publish("one", "bad")
    await communicator.send_input({"type": "ping"})
    assert await communicator.receive_output(10) == {"type": "pong"}
    communicator.stop(exceptions=False)
    with contextlib.suppress(asyncio.CancelledError):
        await communicator.wait(10)


async def test_payload_may_be_chosen_by_the_consumer(layer: Any, place: Place) -> None:
    """In its `__init__`, or by a property; a wrong one is told before the first event."""
    heard: asyncio.Queue[Any] = asyncio.Queue()

    class Choosing(ChannelSubscriptionMixin, AsyncWebsocketConsumer):
        channels = ["one"]  # noqa: RUF012

        @property
        def payload(self) -> str:  # type: ignore[override]
            return str(self.scope["payload"])

        async def on_channel_message(self, channel: bytes, message: Any) -> None:
            heard.put_nowait(message)

    client = await Client(Choosing, {"type": "websocket", "payload": "json"}).connect()
    place.publish("one", b"[1]")
    assert await asyncio.wait_for(heard.get(), 10) == [1]
    await client.leave()
    client = Client(Choosing, {"type": "websocket", "payload": "xml"})
    with pytest.raises(ConfigurationError, match="payload of Choosing must be one of 'bytes', "):
        await client.end()


async def test_a_handler_for_bad_payloads_may_fail(layer: Any, place: Place) -> None:
    """As any handler: the error ends the consumer."""

    class Strict(ChannelSubscriptionMixin, AsyncWebsocketConsumer):
        channels = ["one"]  # noqa: RUF012
        payload = "json"

        async def on_channel_message(self, channel: bytes, message: Any) -> None:
            """Do nothing."""

        async def on_bad_payload(self, channel: bytes, payload: bytes, error: Exception) -> None:
            raise error

    client = await Client(Strict).connect()
    place.publish("one", b"[" * 100_000)
    with pytest.raises(ValueError, match="the payload is not 'json': maximum recursion depth"):
        await client.end()
