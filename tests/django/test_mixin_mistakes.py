"""Mistakes in the use of mixins: each gets an error or a warning that says what was meant."""

from __future__ import annotations

import difflib
import functools
import logging
from typing import Any

import pytest
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer

from channels_mpx import ConfigurationError
from channels_mpx.consumers import (
    ChannelSubscriptionMixin,
    MultiplexedConsumerMixin,
    PatternSubscriptionMixin,
    loop,
)
from tests.django.client import Client, quiet

__all__ = ["quiet"]


async def handle(self: Any, *arguments: Any) -> None:
    """Do nothing."""


def handle_plainly(self: Any, *arguments: Any) -> None:
    """Do nothing."""


@functools.wraps(handle)
def decorated(*arguments: Any) -> Any:
    """Return a coroutine."""
    return handle(*arguments)


@pytest.mark.parametrize(
    ("mixin", "names", "handler", "subscribe"),
    [
        (ChannelSubscriptionMixin, "channels", "on_channel_message", "subscribe"),
        (PatternSubscriptionMixin, "patterns", "on_pattern_message", "psubscribe"),
    ],
)
async def test_no_handler(layer: Any, mixin: Any, names: str, handler: str, subscribe: str) -> None:
    """When the class is defined, if it declares names; when it subscribes otherwise."""
    problem = f"Deaf subscribes to {names} and has no {handler}"
    with pytest.raises(ConfigurationError, match=problem):
        type("Deaf", (mixin, AsyncWebsocketConsumer), {names: ["news"]})
    abstract = type("Abstract", (mixin,), {names: ["news"]})
    with pytest.raises(ConfigurationError, match=problem):
        type("Deaf", (abstract, AsyncWebsocketConsumer), {})
    type("Fine", (abstract, AsyncWebsocketConsumer), {handler: handle})

    async def join(self: Any, event: Any) -> None:
        await getattr(self, subscribe)("news")

    deaf = type("Deaf", (mixin, AsyncWebsocketConsumer), {"join": join})
    client = await Client(deaf).connect()
    client.give("join")
    with pytest.raises(ConfigurationError, match=problem):
        await client.end()
    computed = property(lambda self: ["news"])
    with pytest.raises(ConfigurationError, match=problem):
        type("Deaf", (mixin, AsyncWebsocketConsumer), {names: computed})
    late = type("Deaf", (mixin, AsyncWebsocketConsumer), {})
    setattr(late, names, ["news"])
    with pytest.raises(ConfigurationError, match=problem):
        await Client(late).end()


@pytest.mark.parametrize(
    "name",
    [
        "on_channel_message",
        "on_bad_payload",
        "authorize_subscription",
        "on_activation",
        "on_disconnect",
        "on_gap",
        "on_link_error",
    ],
)
def test_handler_that_cannot_be_awaited(name: str) -> None:
    """It is refused when the class is defined; decorators are not held against it."""
    bases = (ChannelSubscriptionMixin, AsyncWebsocketConsumer)
    with pytest.raises(ConfigurationError, match=f"{name} of Chat must be async def"):
        type("Chat", bases, {name: handle_plainly})
    for value in (handle, decorated, database_sync_to_async(handle_plainly)):
        type("Chat", bases, {name: value})
    behind = type("Theirs", (AsyncWebsocketConsumer,), {name: handle_plainly})
    type("Chat", (ChannelSubscriptionMixin, behind), {})
    type("Chat", (ChannelSubscriptionMixin, behind), {name: handle_plainly})


@pytest.mark.parametrize("name", ["on_activation", "on_disconnect", "on_gap", "on_link_error"])
def test_hook_of_a_sync_consumer(name: str) -> None:
    """It is called in a thread, so it is a plain method."""
    bases = (MultiplexedConsumerMixin, SyncConsumer)
    with pytest.raises(ConfigurationError, match=f"{name} of Job must be def: it is a synchronous"):
        type("Job", bases, {name: handle})
    type("Job", bases, {name: handle_plainly})


@pytest.mark.parametrize("source", ["declared", "subscribed"])
async def test_glob_that_is_taken_literally(
    layer: Any, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    """One warning for each class, and none for patterns."""

    class Rooms(ChannelSubscriptionMixin, PatternSubscriptionMixin, AsyncWebsocketConsumer):
        channels = ("room.*",) if source == "declared" else ()
        patterns = ("metrics.*",)
        on_channel_message = on_pattern_message = handle

        async def connect(self) -> None:
            if source == "subscribed":
                await self.subscribe("room.*", "hall.*")
            await self.psubscribe("price.*")
            await self.accept()

    for _ in range(2):
        await (await Client(Rooms).connect()).leave()
    (record,) = [record for record in caplog.records if record.name == "channels_mpx.consumers"]
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"channels_mpx: {Rooms.__qualname__} subscribes to the channel 'room.*', which has *: "
        "did you mean psubscribe?"
    )


@pytest.mark.parametrize("read_ahead", [0, -1, None, "16", 1.5])
def test_read_ahead(read_ahead: Any) -> None:
    """It is refused when the class is defined, unless it is computed."""
    with pytest.raises(ConfigurationError, match="read_ahead of Chat must be 1 or more, not "):
        type("Chat", (MultiplexedConsumerMixin, AsyncConsumer), {"read_ahead": read_ahead})
    computed = property(lambda self: read_ahead)
    type("Chat", (MultiplexedConsumerMixin, AsyncConsumer), {"read_ahead": computed})


def test_mixin_without_a_consumer() -> None:
    """It may be one of the user's mixins, until an application is made of it."""
    chat: Any = type("Chat", (MultiplexedConsumerMixin,), {})
    with pytest.raises(ConfigurationError, match="Chat has a mixin and no consumer class; put one"):
        chat.as_asgi()
    consumer: Any = type("Consumer", (chat, AsyncWebsocketConsumer), {})
    assert consumer.as_asgi(read_ahead=1).consumer_initkwargs == {"read_ahead": 1}


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (
            "chat.mesage",
            "No handler for message type chat.mesage in Chat; did you mean chat_message?",
        ),
        ("xyz", "No handler for message type xyz in Chat"),
        ("x" * 1000, f"No handler for message type {'x' * 100}… in Chat"),
    ],
)
async def test_no_handler_for_a_type(layer: Any, kind: str, problem: str) -> None:
    """The class is named, and the nearest method."""
    chat = type(
        "Chat", (MultiplexedConsumerMixin, AsyncWebsocketConsumer), {"chat_message": handle}
    )
    client = await Client(chat).connect()
    await layer.send(client.instance.channel_name, {"type": kind})
    with pytest.raises(ValueError, match="No handler") as caught:
        await client.end()
    assert str(caught.value) == problem


def test_names_of_handlers_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends chooses types: few, short ones, and only of handlers that are there."""
    monkeypatch.setattr(loop, "_handler_names", kept := {})
    monkeypatch.setattr(difflib, "get_close_matches", lambda name, *rest: [])
    consumer = type("Chat", (), {"said": handle})()
    for kind in ("said", "nobody", "y" * 4_000_000):
        for _ in range(2):
            if kind == "said":
                assert loop.find_handler(consumer, {"type": kind})
            else:
                with pytest.raises(ValueError, match="No handler"):
                    loop.find_handler(consumer, {"type": kind})
    assert kept == {"said": "said"}
    setattr(type(consumer), "z" * 1000, handle)
    assert loop.find_handler(consumer, {"type": "z" * 1000})
    for number in range(3000):
        setattr(type(consumer), f"a{number}", handle)
        assert loop.find_handler(consumer, {"type": f"a{number}"})
        assert len(kept) <= 1024
    assert not any(len(kind) > 100 for kind in kept)
