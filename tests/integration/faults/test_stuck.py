"""Replies that never end: bytes come all the time, and nothing that anybody waits for."""

from __future__ import annotations

import asyncio

import pytest

from channels_mpx import LinkLost, liveness
from channels_mpx.statistics import LayerStatistics
from tests.layers import QUICK, open_layer
from tests.proxy import Proxy
from tests.servers import RedisServer

SWALLOWED = [b"$1000000\r\n", b"*100000\r\n", b">3\r\n$7\r\nmessage\r\n$400000000\r\n"]


async def swallow(server: RedisServer, data: bytes, seconds: float) -> LayerStatistics:
    """Announce more than ever comes, and go on sending for a while; nobody may wait for ever."""
    config = {**QUICK, "ping_interval": 0.1, "ping_timeout": 0.1}
    async with Proxy(server.host, server.port) as proxy:
        async with open_layer([server.url_for(port=proxy.port)], **config) as layer:
            await layer.new_channel()
            proxy.say(data)
            sends = []
            until = asyncio.get_running_loop().time() + seconds
            while (
                asyncio.get_running_loop().time() < until
                and layer.statistics().connection.epoch == 1
            ):
                sends.append(asyncio.ensure_future(layer.group_send("room", {"type": "a"})))
                await asyncio.sleep(0.02)
            statistics = layer.statistics()
        errors = await asyncio.wait_for(asyncio.gather(*sends, return_exceptions=True), 10)
    assert LinkLost in {type(error) for error in errors}
    return statistics


@pytest.mark.parametrize("data", SWALLOWED)
async def test_reply_that_never_ends_costs_a_link(redis_server: RedisServer, data: bytes) -> None:
    """A length that swallows all replies ends the link, though bytes come all the time."""
    links = (await swallow(redis_server, data, 10)).connection
    assert (links.epoch, links.reconnections) == (2, {"desync": 1})


@pytest.mark.parametrize("data", SWALLOWED)
async def test_reply_that_never_ends_keeps_a_link_that_takes_any_byte_for_life(
    redis_server: RedisServer, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(liveness, "PATIENCE", 10**6)
    assert (await swallow(redis_server, data, 2)).connection.epoch == 1
