"""The channel of a consumer with the mixin: what else ends it, other loops, other layers."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.layers import channel_layers, get_channel_layer
from django.test import override_settings

from channels_mpx import (
    ClosedError,
    ConfigurationError,
    MultiplexedChannelLayer,
    OwnedChannel,
    UnknownChannel,
)
from channels_mpx.consumers import MultiplexedConsumerMixin
from tests.django.client import KINDS, Client, bases, is_empty, quiet
from tests.django.rooms import Room, warm
from tests.helpers import eventually
from tests.layers import receive

__all__ = ["quiet", "warm"]


# What else ends a channel


async def test_layer_is_closed_while_a_consumer_waits(layer: MultiplexedChannelLayer) -> None:
    """It ends with `ClosedError`, and nothing is connected again."""
    client = await Client(Room).connect()
    await layer.aclose()
    with pytest.raises(ClosedError, match="channel layer"):
        await client.end()
    assert layer.statistics().connection.state == "idle"


async def test_layer_is_flushed_while_a_consumer_is_busy(layer: MultiplexedChannelLayer) -> None:
    """Messages and memberships go; client events, and the consumer, stay."""
    client = await Client(Room).connect()
    client.say("wait")
    assert await client.hear() == ["waiting"]
    await layer.group_send("room", {"type": "said", "text": "lost"})
    await eventually(lambda: layer.statistics().waiting == 1)
    client.say("wait")
    await eventually(lambda: layer.statistics().waiting == 2)
    await layer.flush()
    assert (layer.statistics().waiting, layer.statistics().groups) == (1, 0)
    client.instance.gate.set()
    assert await client.hear() == ["waiting"]
    await layer.send(client.instance.channel_name, {"type": "said", "text": "hello"})
    assert await client.hear() == ["hello"]
    await client.leave()


async def test_connection_is_closed_while_a_consumer_is_busy(
    layer: MultiplexedChannelLayer,
) -> None:
    """There is a connection again at once: it is going to wait for messages again."""
    client = await Client(Room).connect()
    client.say("wait")
    assert await client.hear() == ["waiting"]
    await layer._hub.aclose()
    await eventually(lambda: layer.statistics().connection.active == 3)
    client.instance.gate.set()
    client.say("stop")
    await client.end()


async def test_clean_channel_ends_a_consumer(warm: MultiplexedChannelLayer) -> None:
    """Whoever cleans the channel of a consumer that lives ends it."""
    client = await Client(Room).connect()
    await warm.clean_channel(client.instance.channel_name)
    with pytest.raises(ClosedError, match=r"The channel specific\.\w+!\d+ is closed"):
        await client.end()
    assert is_empty(warm)


async def test_clean_channel(warm: MultiplexedChannelLayer) -> None:
    """It ends channels of this process, and nothing else; who waits is told."""
    channel, other = await warm.new_channel(), await warm.new_channel()
    await warm.group_add("room", channel)
    waiting = asyncio.create_task(warm.receive(channel))
    await eventually(lambda: warm._mailboxes[channel].is_awaited)
    for name in (str(channel), channel, "specific.unknown!1", "specific.nonsense", "worker", ""):
        await warm.clean_channel(name)
    with pytest.raises(ClosedError):
        await waiting
    with pytest.raises(UnknownChannel):
        await warm.receive(channel)
    with pytest.raises(UnknownChannel):
        await warm.group_add("room", channel)
    assert (warm.statistics().channels, warm.statistics().groups) == (1, 0)
    await warm.send(other, {"type": "a"})
    assert await receive(warm, other) == {"type": "a"}


async def test_clean_channel_from_another_loop(warm: MultiplexedChannelLayer) -> None:
    """It is done when it returns, wherever it was called."""
    channel = await warm.new_channel()
    await asyncio.to_thread(lambda: asyncio.run(warm.clean_channel(channel)))
    assert warm.statistics().channels == 0


async def test_clean_channel_connects_nothing(layer: MultiplexedChannelLayer) -> None:
    """Where nothing is connected there is nobody to ask."""
    await layer.clean_channel("specific.unknown!1")
    assert layer.statistics().connection.epoch == 0
    channel = await asyncio.to_thread(asyncio.run, layer.new_channel())
    assert layer.statistics().connection.state == "idle"
    await layer.clean_channel(channel)
    assert layer.statistics().channels == 0
    assert layer.statistics().connection.state == "idle"


async def test_nobody_else_receives_from_a_consumers_channel(warm: MultiplexedChannelLayer) -> None:
    """He would take client events too."""
    client = await Client(Room).connect()
    with pytest.raises(OwnedChannel, match="takes its messages itself"):
        await client.instance.channel_receive()
    with pytest.raises(OwnedChannel):
        await warm.receive(str(client.instance.channel_name))
    await client.leave()


@pytest.mark.parametrize("kind", KINDS)
async def test_busy_consumer_stays_in_its_groups(hosts: list[str], kind: str) -> None:
    """Also if its handler takes longer than ``expiry``; without the mixin it is a dead one's."""

    class Busy(*bases(kind, AsyncWebsocketConsumer)):  # type: ignore[misc]
        groups = ("room",)

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            self.gate = asyncio.Event()
            await self.gate.wait()

        async def said(self, event: dict[str, Any]) -> None:
            await self.send(text_data=event["text"])

    layer = MultiplexedChannelLayer(hosts=hosts, expiry=0.3, group_expiry=0.3)
    channel_layers.set("default", layer)
    try:
        client = await Client(Busy).connect()
        client.say("be busy")
        await eventually(lambda: hasattr(client.instance, "gate"))
        mailbox = layer._mailboxes[client.instance.channel_name]
        for _ in range(2):
            await layer.send(client.instance.channel_name, {"type": "said", "text": "too old"})
        # They expire when the reaper sees that nobody reads; plain Channels has one in hand.
        expired = 1 if kind == "plain" else 2
        await eventually(lambda: layer.statistics().dropped["expired"] == expired)
        assert mailbox.is_dormant is (kind == "plain")
        assert layer.statistics().groups == (kind == "mixin")
        client.instance.gate.set()
        if kind == "mixin":
            await layer.group_send("room", {"type": "said", "text": "hello"})
            assert await client.hear() == ["hello"]
        await client.cancel()
    finally:
        channel_layers.backends.clear()
        await layer.aclose()


# Other loops


def test_consumer_on_a_foreign_loop(layer: MultiplexedChannelLayer) -> None:
    """Its messages come from another thread; its end is carried there."""

    async def live(at_home: threading.Event) -> list[Any]:
        client = await Client(Room).connect()
        assert layer._hub.life is not None
        assert layer._hub.life.loop is not asyncio.get_running_loop()
        heard: list[Any] = []
        for number in range(50):
            await layer.group_send("room", {"type": "said", "text": f"{number}"})
            if number % 7 == 0:
                client.say("fail" if number == 49 else "wait")
                client.instance.gate.set()
        with pytest.raises(ZeroDivisionError):
            await client.end()
        while client.sent:
            heard += await client.hear()
        await eventually(lambda: layer.statistics().channels == 1)
        at_home.set()
        return heard

    async def home() -> None:
        channel = await layer.new_channel()
        assert channel
        done = threading.Event()
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(asyncio.run(live(done))))
        thread.start()
        await eventually(done.is_set, 30)
        await asyncio.to_thread(thread.join)
        said = [text for text in results[0] if text != "waiting"]
        assert said == [f"{number}" for number in range(len(said))]
        assert results[0].count("waiting") == 7
        assert layer.statistics().groups == 0

    asyncio.run(home())


async def test_consumer_whose_loop_is_closed_over_it(hosts: list[str]) -> None:
    """A server that just closes its loop: nothing is raised, and the layer sees to the channel."""
    layer = MultiplexedChannelLayer(hosts=hosts, expiry=0.3, group_expiry=0.3)
    channel_layers.set("default", layer)

    async def connect() -> Client:
        return await Client(Room).connect()

    def live() -> None:
        loop = asyncio.new_event_loop()
        client = loop.run_until_complete(connect())
        tasks = asyncio.all_tasks(loop)
        loop.close()
        assert client.instance.channel_name in layer._mailboxes
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            task.get_coro().close()  # as its destructor would

    try:
        mine = await layer.new_channel()
        await asyncio.to_thread(live)
        await eventually(lambda: list(layer._mailboxes) == [mine])
        assert layer.statistics().groups == 0
    finally:
        channel_layers.backends.clear()
        await layer.aclose()


# Layers that are not ours


@pytest.fixture(params=["in-memory", "none"])
def other(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Channels' own layer for one process, or no layer at all."""
    backend = "channels.layers.InMemoryChannelLayer"
    config = {"default": {"BACKEND": backend}} if request.param == "in-memory" else {}
    with override_settings(CHANNEL_LAYERS=config):
        yield get_channel_layer()
    channel_layers.backends.clear()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", [AsyncWebsocketConsumer, WebsocketConsumer])
async def test_other_layers(other: Any, kind: str, base: type) -> None:
    """There the mixin changes nothing."""
    dispatched = []

    class Echo(*bases(kind, base)):  # type: ignore[misc]
        async def fail_as_well(self, event: dict[str, Any]) -> None:
            raise ZeroDivisionError("on purpose")

    class AsyncEcho(Echo):
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data=text_data)

        async def said(self, event: dict[str, Any]) -> None:
            await self.send(text_data=event["text"])

        async def dispatch(self, message: dict[str, Any]) -> None:
            dispatched.append(message["type"])
            await super().dispatch(message)

    class SyncEcho(Echo):
        def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            self.send(text_data=text_data)

        def said(self, event: dict[str, Any]) -> None:
            self.send(text_data=event["text"])

    client = Client(AsyncEcho if base is AsyncWebsocketConsumer else SyncEcho)
    client.give("websocket.connect")
    assert await client.hear() == ["websocket.accept"]
    client.say("hello")
    assert await client.hear() == ["hello"]
    assert client.instance.channel_layer is other
    if other is not None:
        await other.send(client.instance.channel_name, {"type": "said", "text": "layer"})
        assert await client.hear() == ["layer"]
    client.give("un.known")
    with pytest.raises(ValueError, match=r"No handler for message type un\.known"):
        await client.end()
    if base is AsyncWebsocketConsumer:
        said = ["said"] if other is not None else []
        assert dispatched == ["websocket.connect", "websocket.receive", *said, "un.known"]


@pytest.mark.parametrize("kind", KINDS)
async def test_other_layers_end_in_peace(other: Any, kind: str) -> None:
    """`StopConsumer` ends the consumer quietly there too."""

    class Quiet(*bases(kind, AsyncWebsocketConsumer)):  # type: ignore[misc]
        pass

    client = await Client(Quiet).connect()
    await client.leave()


async def test_reply_needs_our_layer(other: Any) -> None:
    """It says so."""

    class Answering(MultiplexedConsumerMixin, AsyncConsumer):
        async def ask(self, event: dict[str, Any]) -> None:
            await self.reply(event, {})

    client = Client(Answering, context=contextvars.copy_context())
    client.give("ask")
    name = "not configured" if other is None else "a InMemoryChannelLayer"
    with pytest.raises(ConfigurationError, match=f"the channel layer 'default' is {name}"):
        await client.end()
