"""However a consumer with the mixin ends: at once nothing is left of it."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest
from channels.layers import channel_layers

from channels_mpx import (
    MultiplexedChannelLayer,
    UnknownChannel,
)
from channels_mpx.consumers.hop import find_hop
from tests.django.client import Client, is_empty, others, quiet
from tests.django.rooms import Room, warm
from tests.helpers import eventually
from tests.layers import group_subscriptions
from tests.servers import RedisServer

__all__ = ["quiet", "warm"]


async def end_by(way: str, client: Client) -> BaseException | None:
    """Have a consumer end in some way; return what it has raised."""
    if way == "leaves":
        client.give("websocket.disconnect", code=1000)
    elif way == "disconnect fails":
        client.give("websocket.disconnect", code=4000)
    elif way == "closes":
        client.say("hang_up")
        client.give("websocket.disconnect", code=1000)
    elif way == "receive fails":
        client.give(ConnectionError("on purpose"))
    elif way == "receive is cancelled":
        client.give(asyncio.CancelledError())
    elif way in ("fail", "stop"):
        client.say(way)
    elif way == "is unknown":
        client.give("un.known")
    elif way == "message is unknown":
        layer = client.instance.channel_layer
        await layer.send(client.instance.channel_name, {"type": "un.known"})
    elif way == "is cancelled":
        client.task.cancel()
    elif way == "is cancelled in a handler":
        client.say("wait")
        await client.hear()
        client.task.cancel()
    elif way == "is cancelled with a backlog":
        client.say("wait")
        await client.hear()
        for _ in range(50):
            client.say("fail")
            await client.instance.channel_layer.group_send("room", {"type": "fail"})
        client.task.cancel()
    else:
        raise AssertionError(way)
    await asyncio.wait([client.task], timeout=10)
    return None if client.task.cancelled() else client.task.exception()


WAYS = {
    "leaves": None,
    "disconnect fails": ZeroDivisionError,
    "closes": None,
    "receive fails": ConnectionError,
    "receive is cancelled": None,
    "fail": ZeroDivisionError,
    "stop": None,
    "is unknown": ValueError,
    "message is unknown": ValueError,
    "is cancelled": None,
    "is cancelled in a handler": None,
    "is cancelled with a backlog": None,
}


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_left(warm: MultiplexedChannelLayer, way: str) -> None:
    """At once: no channel, no membership, no wish, no message, no task."""
    before = others()
    client = await Client(Room).connect()
    assert (warm.statistics().channels, warm.statistics().groups) == (1, 2)
    name = client.instance.channel_name
    assert str(name) in repr(client.instance._desk)
    error = await end_by(way, client)
    assert is_empty(warm)
    assert isinstance(error, WAYS[way] or type(None))
    assert client.task.cancelled() is ("cancelled" in way)
    with pytest.raises(UnknownChannel):
        await warm.receive(str(name))
    await eventually(lambda: others() <= before | {client.task})


async def test_redis_has_nothing_left(redis_server: RedisServer) -> None:
    """When the last member goes the subscription goes, and not before."""
    layer = MultiplexedChannelLayer(hosts=[redis_server.url])
    channel_layers.set("default", layer)
    try:
        first, second = await Client(Room).connect(), await Client(Room).connect()
        await eventually(lambda: group_subscriptions(redis_server) == {"room", "hall"})
        first.say("fail")
        with pytest.raises(ZeroDivisionError):
            await first.end()
        await layer.group_send("room", {"type": "said", "text": "anybody?"})
        assert await second.hear() == ["anybody?"]
        await second.cancel()
        await eventually(lambda: group_subscriptions(redis_server) == set())
    finally:
        channel_layers.backends.clear()
        await layer.aclose()


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_ends_before_it_has_joined(
    warm: MultiplexedChannelLayer, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    """A consumer that ends while it connects is no member afterwards."""
    began = asyncio.Event()
    join = warm._hub.join

    async def slow(*args: Any) -> None:
        began.set()
        await asyncio.sleep(0)
        if not is_cancelled:
            raise ZeroDivisionError("on purpose")
        await join(*args)

    monkeypatch.setattr(warm._hub, "join", slow)
    monkeypatch.setattr(warm._hub, "want", lambda *args: False)
    client = Client(Room)
    client.give("websocket.connect")
    await asyncio.wait_for(began.wait(), 10)
    if is_cancelled:
        await client.cancel()
    else:
        with pytest.raises(ZeroDivisionError):
            await client.end()
    assert is_empty(warm)


async def test_cancelled_while_old_connections_are_closed(
    warm: MultiplexedChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others, who share the hop, handle the message."""
    clients = [await Client(Room).connect() for _ in range(3)]
    gate, begun = threading.Event(), threading.Event()

    def close() -> None:
        begun.set()
        assert gate.wait(10)

    monkeypatch.setattr("channels.db.close_old_connections", close)
    await warm.group_send("room", {"type": "said", "text": "hello"})
    await eventually(begun.is_set)
    await clients[1].cancel()
    gate.set()
    assert await clients[0].hear() == ["hello"]
    assert await clients[2].hear() == ["hello"]
    assert clients[1].sent == []
    for client in (clients[0], clients[2]):
        await client.leave()
    assert is_empty(warm)


async def test_error_of_closing_old_connections_ends_each(
    warm: MultiplexedChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in plain Channels, where each closes them for itself."""
    clients = [await Client(Room).connect() for _ in range(3)]

    def close() -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("channels.db.close_old_connections", close)
    await warm.group_send("room", {"type": "said", "text": "hello"})
    for client in clients:
        with pytest.raises(ZeroDivisionError):
            await client.end()
    assert is_empty(warm)


async def test_a_thousand_connections(warm: MultiplexedChannelLayer) -> None:
    """One after the other, and many at once, in all ways; nothing grows."""
    ways = list(WAYS)
    before = others()

    async def live(number: int) -> None:
        client = await Client(Room).connect()
        await end_by(ways[number % len(ways)], client)

    for first in range(0, 1000, 50):
        await asyncio.gather(*map(live, range(first, first + 50)))
        assert is_empty(warm)
    assert not warm._process.groups._groups_of
    assert not warm._process.inbox._by_local
    await eventually(lambda: others() <= before)
    gc.collect()
    assert not [found for found in gc.get_objects() if type(found) is Room]


async def test_memory_is_freed_without_the_garbage_collector(
    warm: MultiplexedChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that ends in peace is in no cycle."""
    # Some versions of asgiref leave cycles behind where it looks for the thread.
    hop = find_hop()
    monkeypatch.setattr("channels_mpx.consumers.loop.find_hop", lambda: hop)
    gc.collect()
    gc.disable()
    try:
        client = await Client(Room).connect()
        await client.leave()
        del client.instance  # that cycle is ours
        assert not [found for found in gc.get_objects() if type(found) is Room]
    finally:
        gc.enable()
