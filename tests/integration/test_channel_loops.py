"""A channel lives as long as its name, whatever becomes of the event loop that made it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from channels_mpx import MultiplexedChannelLayer
from tests.layers import receive
from tests.servers import RedisServer


@pytest.fixture
def layer(redis_server: RedisServer) -> Iterator[MultiplexedChannelLayer]:
    layer = MultiplexedChannelLayer(hosts=[redis_server.url])
    yield layer
    layer.sync.close()


@contextlib.contextmanager
def resting_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs only now and then; in the end its tasks are ended."""
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()


def test_send_and_receive_while_the_loop_rests(layer: MultiplexedChannelLayer) -> None:
    """As in the tests of channels_redis: the loop that made the channel is paused meanwhile."""
    with resting_loop() as loop:
        channel = loop.run_until_complete(layer.new_channel())
        for number in range(3):
            async_to_sync(layer.send)(channel, {"type": "a", "number": number})
            message = loop.run_until_complete(receive(layer, channel))
            assert message == {"type": "a", "number": number}


def test_send_and_receive_with_a_loop_for_each_call(layer: MultiplexedChannelLayer) -> None:
    """Each call has a loop of its own, which is closed before the next."""
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("room", channel)
    for number in range(3):
        async_to_sync(layer.send)(channel, {"type": "a", "number": number})
        async_to_sync(layer.group_send)("room", {"type": "b", "number": number})
        got: list[Any] = [async_to_sync(receive)(layer, channel) for _ in range(2)]
        assert got == [{"type": kind, "number": number} for kind in "ab"]


def test_receive_on_a_loop_that_waits_already(layer: MultiplexedChannelLayer) -> None:
    """What comes while somebody waits on another loop than the one that made it."""
    channel = async_to_sync(layer.new_channel)()

    async def ask() -> Any:
        reader = asyncio.create_task(receive(layer, channel))
        await asyncio.sleep(0)
        await layer.send(channel, {"type": "a"})
        return await reader

    assert async_to_sync(ask)() == {"type": "a"}
