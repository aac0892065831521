"""The layers that keep the contract."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer

from channels_mpx import MultiplexedChannelLayer
from tests.layers import open_layer
from tests.servers import RedisServer

MakeLayer = Callable[..., Any]

_brokers = itertools.count()


@pytest.fixture(params=["memory", "redis"])
async def make_layer(request: pytest.FixtureRequest) -> AsyncIterator[MakeLayer]:
    """A function that makes layers of one kind, all on one server; it takes options."""
    host = f"memory://contract{next(_brokers)}"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        host = server.url
    async with contextlib.AsyncExitStack() as layers:

        async def make(**config: Any) -> MultiplexedChannelLayer:
            return await layers.enter_async_context(open_layer([host], **config))

        yield make


@pytest.fixture(params=["memory", "redis", "oracle"])
async def layer(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """A layer of each kind, with room for five messages in a channel."""
    if request.param == "oracle":
        yield InMemoryChannelLayer(capacity=5)
        return
    host = f"memory://contract{next(_brokers)}"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        host = server.url
    async with open_layer([host], capacity=5) as layer:
        yield layer
