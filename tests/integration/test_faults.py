"""What goes wrong between a process and Redis, and what users see of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from channels_mpx import CommandRefused, LinkLost, MultiplexedChannelLayer
from tests.helpers import eventually
from tests.layers import (
    QUICK,
    UNWATCHED,
    connections_received,
    group_subscriptions,
    kill_clients,
    open_layer,
    receive,
    receive_all,
    settle,
)
from tests.proxy import Proxy
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]

NOTICES = {"on_disconnect": "gap.opened", "on_reconnect": "gap.closed"}


def connection(layer: MultiplexedChannelLayer) -> str:
    """The state of the connection."""
    return layer.statistics().connection.state


async def test_kill_and_restart_is_survived(make_redis: MakeRedis, is_full: bool) -> None:
    """After SIGKILL and a restart consumers hear again within 1 s, and of the gap exactly once."""
    server = make_redis()
    async with open_layer(server, **NOTICES) as layer:
        channels = [await layer.new_channel() for _ in range(3)]
        for number, channel in enumerate(channels):
            await layer.group_add("room", channel)
            await layer.group_add(f"own{number}", channel)
        server.kill()
        await eventually(lambda: connection(layer) != "connected")
        server.start()
        opened = time.monotonic()
        await eventually(lambda: len(group_subscriptions(server)) == 4)
        assert time.monotonic() - opened < 1.5 or not is_full
        await layer.group_send("room", {"type": "after"})
        for channel in channels:
            got = [await receive(layer, channel) for _ in range(3)]
            assert [message["type"] for message in got] == ["gap.opened", "gap.closed", "after"]
            assert got[0]["reason"]
            assert got[1]["seconds"] > 0
            assert got[1]["reason"] == got[0]["reason"]
            assert got[1]["epoch"] == layer.statistics().connection.epoch
        assert connection(layer) == "connected"
        assert sum(layer.statistics().connection.reconnections.values()) == 1


async def test_client_kill_is_survived(make_redis: MakeRedis) -> None:
    """After CLIENT KILL everything works again at once, and the reason is in the statistics."""
    server = make_redis()
    async with open_layer(server, **NOTICES) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for number in range(3):
            assert kill_clients(server) == 1
            assert (await receive(layer, channel))["type"] == "gap.opened"
            assert (await receive(layer, channel))["type"] == "gap.closed"
            await layer.group_send("room", {"number": number})
            assert await receive(layer, channel) == {"number": number}
        assert sum(layer.statistics().connection.reconnections.values()) == 3
        assert layer.statistics().connection.epoch == 4


async def test_without_options_a_gap_sends_no_messages(make_redis: MakeRedis) -> None:
    """The negative control: consumers that did not ask for notices get none."""
    server = make_redis()
    async with open_layer(server) as layer:
        channel = await layer.new_channel()
        kill_clients(server)
        await eventually(lambda: layer.statistics().connection.epoch == 2)
        await eventually(lambda: layer.statistics().connection.active == 1)
        assert await settle(layer, channel) == []


@pytest.mark.timeout(240)
async def test_a_thousand_kills_leave_what_is_wanted(make_redis: MakeRedis) -> None:
    """1,000 kills while 32 tasks add and discard at random: at rest Redis has what is wanted."""
    server = make_redis()
    hasty = {"timeout": 30, "reconnect_delay": 0.001, "max_reconnect_delay": 0.01}
    async with open_layer(server, **hasty) as layer:
        channels = [await layer.new_channel() for _ in range(32)]
        wanted: dict[int, set[str]] = {number: set() for number in range(32)}
        kills = 0

        async def churn(number: int) -> None:
            dice = random.Random(number)
            while kills < 1000:
                group = f"g{dice.randrange(40)}"
                if dice.random() < 0.5:
                    await layer.group_add(group, channels[number])
                    wanted[number].add(group)
                else:
                    await layer.group_discard(group, channels[number])
                    wanted[number].discard(group)
                await asyncio.sleep(dice.uniform(0, 0.003))

        tasks = [asyncio.ensure_future(churn(number)) for number in range(32)]
        until = time.monotonic() + 200
        dice = random.Random("kills")
        while kills < 1000:
            kills += await asyncio.to_thread(kill_clients, server)
            await asyncio.sleep(dice.uniform(0, 0.01))
            assert time.monotonic() < until, f"only {kills} kills"
            for task in tasks:
                assert not task.done() or kills >= 1000, task.exception()
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        expected = set().union(*wanted.values())
        await eventually(lambda: group_subscriptions(server) == expected)
        assert layer.statistics().groups == len(expected)
        assert layer.statistics().connection.active == len(expected) + 1
        assert layer.statistics().connection.reconnections
        for channel in channels:
            await settle(layer, channel)
        for group in sorted(expected):
            await layer.group_send(group, {"type": "a", "group": group})
        for number, channel in enumerate(channels):
            heard = {message["group"] for message in await settle(layer, channel)}
            assert heard == wanted[number]


async def test_frozen_server_is_noticed_within_the_deadline(
    make_redis: MakeRedis, is_full: bool
) -> None:
    """A server that does not answer is given up in time; what was under way raises `LinkLost`."""
    server = make_redis()
    async with open_layer(server, ping_interval=0.4, ping_timeout=0.4, timeout=20) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        server.freeze()
        frozen = time.monotonic()
        sends = [
            layer.group_send("room", {"type": "a"}),
            layer.send(channel, {"type": "a"}),
            layer.send("work", {"type": "a"}),
        ]
        done = await asyncio.gather(*sends, return_exceptions=True)
        assert time.monotonic() - frozen < 2.5 or not is_full
        for error in done:
            assert isinstance(error, LinkLost)
            assert f"{server.host}:{server.port}" in str(error)
            assert "no sign of life" in str(error)
        server.thaw()
        await eventually(lambda: group_subscriptions(server) == {"room"})
        await receive_all(layer, channel)
        await layer.group_send("room", {"type": "after"})
        assert await receive(layer, channel) == {"type": "after"}


async def test_frozen_server_is_not_noticed_without_pings(make_redis: MakeRedis) -> None:
    """The negative control: with the checks out of reach the link just stays silent."""
    server = make_redis()
    async with open_layer(server, timeout=20, **UNWATCHED) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        server.freeze()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(layer.group_send("room", {"type": "a"}), 2.5)
        assert connection(layer) == "connected"
        server.thaw()
        assert await receive(layer, channel) == {"type": "a"}
        assert layer.statistics().connection.epoch == 1


async def test_blocked_event_loop_is_not_taken_for_a_dead_server(make_redis: MakeRedis) -> None:
    """A loop that is blocked for longer than all deadlines keeps its link."""
    server = make_redis()
    async with open_layer(server, ping_interval=0.2, ping_timeout=0.2, probe_interval=0.3) as layer:
        channel = await layer.new_channel()
        for _ in range(3):
            await asyncio.sleep(0.25)  # so that a PING may be under way
            time.sleep(1.2)
        await asyncio.sleep(0.5)
        await layer.send(channel, {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}
        assert layer.statistics().connection.epoch == 1


async def test_stalled_network_is_noticed_and_survived(
    redis_server: RedisServer, proxy: Proxy
) -> None:
    """When nothing passes any more, sends fail in time, and all is well when it passes again."""
    url = redis_server.url_for(port=proxy.port)
    quick = {"ping_interval": 0.4, "ping_timeout": 0.4, "timeout": 40}
    async with open_layer([url], **quick) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        proxy.stall()
        with pytest.raises(LinkLost, match="no sign of life"):
            await layer.group_send("room", {"type": "a"})
        proxy.resume()
        await eventually(lambda: layer.statistics().connection.active == 2)
        await receive_all(layer, channel)
        await layer.group_send("room", {"type": "after"})
        assert await receive(layer, channel) == {"type": "after"}


@pytest.mark.parametrize("how", ["cut", "close"])
async def test_cut_connection_is_replaced(
    redis_server: RedisServer, proxy: Proxy, how: str
) -> None:
    """A connection that is reset, or closed in order, is replaced, again and again."""
    async with open_layer([redis_server.url_for(port=proxy.port)], **QUICK) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for number in range(10):
            getattr(proxy, how)()
            await eventually(lambda n=number: layer.statistics().connection.epoch == n + 2)
            await eventually(lambda: layer.statistics().connection.active == 2)
            await layer.group_send("room", {"number": number})
            assert await receive(layer, channel) == {"number": number}


async def test_bytes_in_pieces_are_understood(redis_server: RedisServer, proxy: Proxy) -> None:
    """Replies and messages that arrive in pieces of three bytes mean the same."""
    proxy.split(3)
    async with open_layer([redis_server.url_for(port=proxy.port)], **QUICK) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for number in range(20):
            await layer.group_send("room", {"number": number, "text": "x" * 200})
        for number in range(20):
            assert (await receive(layer, channel))["number"] == number


async def test_refused_subscription_concerns_its_caller_only(make_redis: MakeRedis) -> None:
    """NOPERM reaches whoever asked; no other group, no connection and no reader is concerned."""
    rules = "site on >pw resetchannels &mpx:inbox:* &mpx:group:ok* ~mpx:* +@all"
    server = make_redis(users=[rules])
    async with open_layer([server.url_for("site", "pw")]) as layer:
        channel = await layer.new_channel()
        await layer.group_add("ok", channel)
        before = connections_received(server)
        names = [f"ok{n}" for n in range(5)] + [f"bad{n}" for n in range(5)]
        adds = (layer.group_add(name, channel) for name in names)
        done = await asyncio.gather(*adds, return_exceptions=True)
        assert done[:5] == [None] * 5
        for name, error in zip(names[5:], done[5:], strict=True):
            assert isinstance(error, CommandRefused)
            assert error.code == "NOPERM"
            assert name in str(error)
        assert group_subscriptions(server) == {"ok", *names[:5]}
        assert layer.statistics().groups == 6
        await layer.group_send("ok", {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}
        assert connections_received(server) == before
        assert layer.statistics().connection.epoch == 1


async def test_refused_publish_concerns_its_caller_only(make_redis: MakeRedis) -> None:
    """A PUBLISH that Redis refuses raises where it was called, and nothing else happens."""
    rules = "site on >pw resetchannels &mpx:inbox:* &mpx:group:ok* ~mpx:* +@all"
    server = make_redis(users=[rules])
    async with open_layer([server.url_for("site", "pw")]) as layer:
        channel = await layer.new_channel()
        sends = (layer.group_send(name, {"type": name}) for name in ("ok", "bad", "ok2"))
        done = await asyncio.gather(*sends, return_exceptions=True)
        assert [type(result) for result in done] == [type(None), CommandRefused, type(None)]
        await layer.send(channel, {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}
        assert layer.statistics().connection.epoch == 1
