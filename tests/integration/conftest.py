"""A layer of our own, and another process with one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from channels_mpx import MultiplexedChannelLayer
from tests.layers import Peer, open_layer
from tests.servers import RedisServer


@pytest.fixture
async def layer(redis_server: RedisServer) -> AsyncIterator[MultiplexedChannelLayer]:
    """Our own layer."""
    async with open_layer(redis_server) as layer:
        yield layer


@pytest.fixture
async def peer(redis_server: RedisServer) -> AsyncIterator[Peer]:
    """Another process with a layer on the same server."""
    async with Peer(redis_server) as peer:
        yield peer
