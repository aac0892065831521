"""What is new while a gap is open must not make it look over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from channels_mpx.gap import Gap, GapWatch
from channels_mpx.names import Topic
from tests.helpers import eventually
from tests.layers import open_layer, receive
from tests.proxy import Proxy
from tests.servers import RedisServer

OLD, NEW = 100, 150

#: Seconds each way to the server: the names of the refused batch are asked for again one by one.
TRIP = 0.05


async def lose_the_link_and_join(server: RedisServer) -> list[dict[str, object]]:
    """Be in many groups, have one of them forbidden, lose the link, and join many new ones at once.

    Returns:
        What the member of the old groups hears after it was told that the gap is over, when a
        message is sent to one of them at that moment.
    """
    async with (
        Proxy(server.host, server.port) as proxy,
        open_layer(server) as other,
        open_layer(
            [server.url_for("site", "pw", port=proxy.port)], on_reconnect="gap.closed"
        ) as layer,
    ):
        channel, newcomer = await layer.new_channel(), await layer.new_channel()
        for group in [f"a{number}" for number in range(OLD)] + ["bad"]:
            await layer.group_add(group, channel)
        proxy.delay(TRIP)

        def linked(epoch: int) -> None:
            told(epoch)
            joins = (layer.group_add(f"n{number}", newcomer) for number in range(NEW))
            tasks.extend(map(asyncio.ensure_future, joins))

        tasks: list[asyncio.Future[None]] = []
        told, layer._process.linked = layer._process.linked, linked  # type: ignore[method-assign]
        names = [f"&mpx:{kind}*" for kind in ("inbox:", "group:a", "group:n")]
        server.command("ACL", "SETUSER", "site", "resetchannels", *names)
        proxy.cut()
        assert (await receive(layer, channel))["type"] == "gap.closed"
        await other.group_send(f"a{OLD - 1}", {"number": 1})
        await asyncio.gather(*tasks)
        await eventually(lambda: layer.statistics().connection.active == OLD + NEW + 1)
        await other.group_send(f"a{OLD - 1}", {"number": 2})
        heard = [await receive(layer, channel)]
        while heard[-1] != {"number": 2}:
            heard.append(await receive(layer, channel))
        return heard


def make_server(make_redis: Callable[..., RedisServer]) -> RedisServer:
    return make_redis(users=["site on >pw ~* &* +@all"])


async def test_gap_is_over_when_all_that_was_wanted_is_back(
    make_redis: Callable[..., RedisServer],
) -> None:
    """What is sent after the news that the connection is back arrives."""
    heard = await lose_the_link_and_join(make_server(make_redis))
    assert heard == [{"number": 1}, {"number": 2}]


async def test_gap_would_be_over_too_early(
    make_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: answers are counted, whatever they are about."""

    def settled(watch: GapWatch, topic: Topic) -> Gap | None:
        if watch._missing:
            watch._missing.pop()
        return watch._end_if_over()

    monkeypatch.setattr(GapWatch, "settled", settled)
    assert await lose_the_link_and_join(make_server(make_redis)) == [{"number": 2}]
