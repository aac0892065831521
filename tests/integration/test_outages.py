"""While there is no server: what waits, what fails, and what does not care."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from channels_mpx import LinkError, MultiplexedChannelLayer
from tests.helpers import eventually
from tests.layers import QUICK, group_subscriptions, open_layer, receive, settle
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]


def connection(layer: MultiplexedChannelLayer) -> str:
    """The state of the connection."""
    return layer.statistics().connection.state


async def test_send_during_an_outage_waits_and_arrives(make_redis: MakeRedis) -> None:
    """What is sent while there is no link goes out on the next one, after the subscriptions."""
    server = make_redis()
    async with open_layer(server, **{**QUICK, "timeout": 20}) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        server.kill()
        await eventually(lambda: connection(layer) == "connecting")
        sends = [
            asyncio.ensure_future(layer.group_send("room", {"number": number}))
            for number in range(20)
        ]
        sends.append(asyncio.ensure_future(layer.send("work", {"type": "work"})))
        adding = asyncio.ensure_future(layer.group_add("other", channel))
        await eventually(lambda: layer.statistics().connection.parked >= 21)
        assert not any(task.done() for task in [*sends, adding])
        server.start()
        await asyncio.wait_for(asyncio.gather(*sends, adding), 10)
        assert [(await receive(layer, channel))["number"] for _ in range(20)] == list(range(20))
        assert await receive(layer, "work") == {"type": "work"}


async def test_send_during_a_long_outage_fails_at_its_deadline(make_redis: MakeRedis) -> None:
    """Without a link until `timeout` a verb raises, says that nothing was sent, and is forgotten."""
    server = make_redis()
    async with open_layer(server, timeout=0.5) as layer:
        channel = await layer.new_channel()
        server.kill()
        await eventually(lambda: connection(layer) == "connecting")
        verbs = [
            layer.group_send("room", {"type": "a"}),
            layer.send(channel, {"type": "a"}),
            layer.send("work", {"type": "a"}),
            layer.group_add("room", channel),
        ]
        start = time.monotonic()
        done = await asyncio.gather(*verbs, return_exceptions=True)
        assert time.monotonic() - start > 0.3  # and the server is still away
        for error in done:
            assert isinstance(error, LinkError)
            assert isinstance(error, TimeoutError)
            assert f"{server.host}:{server.port}" in str(error)
        server.start()
        await eventually(lambda: layer.statistics().connection.active == 1)
        assert await settle(layer, channel) == []
        assert not server.command("KEYS", "*")
        assert layer.statistics().groups == 0
        assert layer.statistics().connection.parked == 0


async def test_group_discard_works_during_an_outage(make_redis: MakeRedis) -> None:
    """Leaving a group needs no link: nothing is awaited, and the group does not come back."""
    server = make_redis()
    async with open_layer(server, **QUICK) as layer:
        channel = await layer.new_channel()
        await layer.group_add("left", channel)
        await layer.group_add("kept", channel)
        server.kill()
        await eventually(lambda: connection(layer) == "connecting")
        await layer.group_discard("left", channel)  # the server is not there
        server.start()
        await eventually(lambda: group_subscriptions(server) == {"kept"})
        await eventually(lambda: layer.statistics().connection.active == 2)
        assert group_subscriptions(server) == {"kept"}


async def test_waiting_receive_survives_an_outage(make_redis: MakeRedis) -> None:
    """Readers of direct and worker channels that wait during an outage are not disturbed."""
    server = make_redis()
    async with open_layer(server, **QUICK) as layer:
        channel = await layer.new_channel()
        direct = asyncio.ensure_future(receive(layer, channel, 20))
        worker = asyncio.ensure_future(receive(layer, "work", 20))
        await eventually(lambda: layer.statistics().connection.active == 2)
        server.restart()
        await eventually(lambda: layer.statistics().connection.epoch == 2)
        await eventually(lambda: layer.statistics().connection.active == 2)
        await layer.send(channel, {"type": "direct"})
        await layer.send("work", {"type": "work"})
        assert await direct == {"type": "direct"}
        assert await worker == {"type": "work"}


async def test_aclose_during_an_outage_is_quick(make_redis: MakeRedis, is_full: bool) -> None:
    """Closing does not wait for a server that is gone, or frozen, and stays so."""
    for spoil in ("kill", "freeze"):
        server = make_redis()
        async with open_layer(server) as layer:
            channel = await layer.new_channel()
            await layer.group_add("room", channel)
            getattr(server, spoil)()
            start = time.monotonic()
            await layer.aclose()
            assert time.monotonic() - start < 3 or not is_full, spoil
            assert connection(layer) == "idle"
