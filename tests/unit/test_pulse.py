"""Links that are dead, deaf or lead to no master are given up, and no others."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from channels_mpx import LinkUnavailable, Multiplexer, resp
from tests.helpers import eventually
from tests.layers import QUICK, open_layer
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]


async def test_demoted_master_is_given_up(make_redis: MakeRedis) -> None:
    """A server that becomes a replica is left, and taken again once it is a master again."""
    server, other = make_redis(), make_redis()
    async with open_layer(server, **QUICK, probe_interval=0.1) as layer:
        channel = await layer.new_channel()
        server.command("REPLICAOF", other.host, other.port)
        await eventually(lambda: "no master" in layer.statistics().connection.reconnections)
        await eventually(lambda: "replica" in (layer.statistics().connection.last_error or ""))
        assert layer.statistics().connection.state == "connecting"
        server.command("REPLICAOF", "NO", "ONE")
        await layer.send(channel, {"type": "a"})
        assert await layer.receive(channel) == {"type": "a"}


async def test_demoted_master_is_not_noticed_without_the_question(make_redis: MakeRedis) -> None:
    """The negative control: nothing else ends the link to a server that was demoted."""
    server, other = make_redis(), make_redis()
    async with open_layer(server, **QUICK, ping_interval=0.05, probe_interval=3600) as layer:
        await layer.new_channel()
        server.command("REPLICAOF", other.host, other.port)
        await eventually(lambda: layer.statistics().connection.ping_rtt is not None)
        first = server.command("INFO", "commandstats")["cmdstat_ping"]["calls"]
        await eventually(
            lambda: server.command("INFO", "commandstats")["cmdstat_ping"]["calls"] > first + 3
        )
        assert layer.statistics().connection.epoch == 1


async def test_replica_is_not_taken(make_redis: MakeRedis) -> None:
    """The first verb on a replica waits for a master, and says at its deadline what is wrong."""
    server, other = make_redis(), make_redis()
    server.command("REPLICAOF", other.host, other.port)
    async with open_layer(server, timeout=0.3) as layer:
        with pytest.raises(LinkUnavailable, match="it is a replica"):
            await layer.new_channel()


async def test_refused_probe_proves_nothing(make_redis: MakeRedis) -> None:
    """Who may not publish to himself is not taken for deaf."""
    server = make_redis(users=["alice on >secret ~* &* +@all -publish"])
    async with open_layer(
        [server.url_for("alice", "secret")], **QUICK, probe_interval=0.05
    ) as layer:
        await layer.new_channel()

        def refusals() -> int:
            stats = server.command("INFO", "commandstats")
            return int(stats.get("cmdstat_publish", {}).get("rejected_calls", 0))

        await eventually(lambda: refusals() > 3)
        assert layer.statistics().connection.epoch == 1
        assert layer.statistics().connection.probe_rtt is None


async def test_subscriber_hears_itself_through_the_inbox(redis_server: RedisServer) -> None:
    """Whoever listens to anything subscribes to its inbox for the probes."""
    async with Multiplexer(redis_server.url, **QUICK, probe_interval=0.05) as mux:
        subscription = mux.new_channel_subscription(print)
        subscription.add("one")
        await eventually(lambda: mux.statistics().probe_rtt is not None)
        assert mux.statistics().active == 2
        assert mux.statistics().epoch == 1


async def test_frozen_server_with_a_full_backlog_is_given_up(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PING that finds no room does not end the watch over the link."""
    monkeypatch.setattr(resp, "MAX_BACKLOG", 0)
    server = make_redis()
    async with open_layer(server, **QUICK, ping_interval=0.2, ping_timeout=0.3) as layer:
        await layer.new_channel()
        server.freeze()
        sends: list[asyncio.Task[None]] = []
        while not any(send.done() for send in sends):
            sends.append(asyncio.create_task(layer.group_send("room", {"data": bytes(2**20)})))
            await asyncio.sleep(0)
        try:
            await eventually(lambda: layer.statistics().connection.reconnections, timeout=3)
        finally:
            server.thaw()
            await asyncio.gather(*sends, return_exceptions=True)


async def test_ping_of_a_lost_link_leaves_nothing_behind(
    make_redis: MakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error is nobody's news: asyncio must not complain that it was never looked at."""
    server = make_redis()
    async with open_layer(server, **QUICK, ping_interval=0.1, ping_timeout=0.1) as layer:
        await layer.new_channel()
        server.freeze()
        try:
            await eventually(lambda: layer.statistics().connection.reconnections)
        finally:
            server.thaw()
        await eventually(lambda: layer.statistics().connection.epoch == 2)
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []
