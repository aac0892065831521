"""A server that answers and does not deliver: a demoted master, a deaf connection, a failover."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from channels_mpx import LinkError, MultiplexedChannelLayer
from channels_mpx.pulse import Pulse
from tests.helpers import eventually
from tests.layers import QUICK, calls, clients, is_active, open_layer, receive, receive_all
from tests.proxy import Direction, Proxy, without_messages
from tests.sentinels import Sentinels
from tests.servers import HOST, RedisServer

MakeRedis = Callable[..., RedisServer]

PROBING: dict[str, Any] = {**QUICK, "ping_interval": 0.2, "probe_interval": 0.3}


def reasons(layer: MultiplexedChannelLayer) -> dict[str, int]:
    """Return how often links were lost, by kind of reason."""
    return layer.statistics().connection.reconnections


def probes(server: RedisServer) -> int:
    """Return how often anybody published on the server."""
    return calls(server).get("publish", 0)


@pytest.mark.parametrize("is_asked", [True, False])
async def test_demotion_is_found_within_three_intervals(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch, is_asked: bool, is_full: bool
) -> None:
    """REPLICAOF leaves the connection whole; the probe's question finds it, traffic or not.

    The control: without the question a process sends into nowhere for as long as it likes, and its
    own messages, which the replica still gives it, let all look well.
    """
    if not is_asked:
        monkeypatch.setattr(Pulse, "_ask_role", lambda self, link: None)
    server, other = make_redis(), make_redis()
    async with open_layer(server, **PROBING, capacity=10_000) as layer:
        channel = await layer.new_channel()
        server.command("REPLICAOF", other.host, other.port)
        start, took, sent = time.monotonic(), 0.0, 0
        while not reasons(layer) and (is_asked or took < 1.5 or sent < 20):
            with contextlib.suppress(LinkError, asyncio.TimeoutError):
                await asyncio.wait_for(layer.send(channel, {"type": "a"}), 0.05)
                sent += 1
            await asyncio.sleep(0.01)
            took = time.monotonic() - start
        if is_asked:
            assert reasons(layer) == {"no master": 1}
            assert took < 3 * PROBING["probe_interval"] + 0.3 or not is_full
        else:
            assert reasons(layer) == {}
            assert len(await receive_all(layer, channel)) > 5


async def test_role_is_asked_on_connect(make_redis: MakeRedis, is_full: bool) -> None:
    """A replica is not taken, however often it is tried; as a master it is taken within 1 s."""
    server, other = make_redis(), make_redis()
    server.command("REPLICAOF", other.host, other.port)
    async with open_layer(server, timeout=40) as layer:
        joining = asyncio.ensure_future(layer.new_channel())
        await eventually(lambda: calls(server).get("role", 0) >= 4)
        assert layer.statistics().connection.state == "connecting"
        assert "subscribe" not in calls(server)
        server.command("REPLICAOF", "NO", "ONE")
        start = time.monotonic()
        await joining
        assert time.monotonic() - start < 2.0 or not is_full


async def test_probe_that_cannot_be_published_restarts_nothing(make_redis: MakeRedis) -> None:
    """Ten probes are refused: that says nothing about what can be heard."""
    server = make_redis(users=["alice on >secret ~* &* +@all -publish"])
    config = {**PROBING, "probe_interval": 0.05, "ping_interval": 0.1}
    async with open_layer([server.url_for("alice", "secret")], **config) as layer:
        await layer.new_channel()
        await eventually(lambda: layer.statistics().connection.refused.get("NOPERM", 0) >= 10)
        assert layer.statistics().connection.epoch == 1


class Deafening(Proxy):
    """Forwards everything to clients but messages."""

    is_deafening = False

    async def _forward(
        self, data: bytes, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        if direction == "down" and self.is_deafening:
            data = without_messages(data)
        await super()._forward(data, writer, direction)


@pytest.mark.parametrize("interval", [0.2, 3600])
async def test_deaf_connection_is_found_within_three_intervals(
    redis_server: RedisServer, interval: float, is_full: bool
) -> None:
    """Redis answers everything and no message comes: given up. The control: without probes, never."""
    async with Deafening(redis_server.host, redis_server.port) as proxy:
        config = {**PROBING, "probe_interval": interval}
        async with open_layer([redis_server.url_for(port=proxy.port)], **config) as layer:
            channel = await layer.new_channel()
            proxy.is_deafening = True
            start = time.monotonic()
            if interval == 3600:
                await asyncio.sleep(1.0)  # the time itself is what is tested
                assert reasons(layer) == {}
                await layer.send(channel, {"type": "lost"})
                assert await receive_all(layer, channel) == []
                return
            await eventually(lambda: reasons(layer))
            assert time.monotonic() - start < 3 * interval + 0.3 or not is_full
            assert reasons(layer) == {"deaf": 1}
            proxy.is_deafening = False
            await eventually(lambda: is_active(layer))
            await layer.send(channel, {"type": "a"})
            assert await receive(layer, channel) == {"type": "a"}


async def test_steady_traffic_sends_no_probes(make_redis: MakeRedis) -> None:
    """Who hears others needs no message to himself; the control: in silence there are some.

    A machine that is busy with others makes silences too, so many are allowed for.
    """
    server, interval = make_redis(), 0.1
    async with open_layer(server, **{**PROBING, "probe_interval": interval}) as layer:
        channel = await layer.new_channel()
        await eventually(lambda: probes(server) >= 3)
        await layer.send(channel, {"type": "a"})
        await receive(layer, channel)
        before, sent, silences = probes(server), 0, 0
        start = last = time.monotonic()
        while last < start + 1.0:
            await layer.send(channel, {"type": "a"})
            await receive(layer, channel)
            sent += 1
            now = time.monotonic()
            silences += int((now - last) / (interval / 2))
            last = now
            await asyncio.sleep(0.02)
        assert before + sent <= probes(server) <= before + sent + silences


def clients_of_layers(server: RedisServer) -> list[str]:
    """Return the connections of layers to a server, by name."""
    return [row["name"] for row in clients(server) if row["name"].startswith("channels_mpx")]


async def fail_over(how: str) -> float:
    """Lose a master, and have it back; return the seconds until messages passed through the new one."""
    async with Sentinels(down_after=1.0) as sentinels:
        old, new = sentinels.master, sentinels.replica
        async with (
            open_layer([sentinels.host]) as layer,
            open_layer([sentinels.host]) as other,
            open_layer(old, timeout=1) as stubborn,
        ):
            channel, deaf = await layer.new_channel(), await stubborn.new_channel()
            await layer.group_add("room", channel)
            await stubborn.group_add("room", deaf)
            assert await passes(other, layer, channel, 10)
            assert await passes(other, stubborn, deaf, 10)
            getattr(old, how)()
            if how == "freeze":  # a sentinel lives on the same machine
                sentinels.processes[0].send_signal(signal.SIGSTOP)
            start = time.monotonic()
            while not await passes(other, layer, channel):
                assert time.monotonic() - start < 40
            took = time.monotonic() - start
            # The control: who does not ask the sentinels hears nobody, and nobody hears him.
            await receive_all(stubborn, deaf)
            assert not await passes(other, stubborn, deaf)
            await receive_all(layer, channel)
            assert not await passes(stubborn, layer, channel)
            assert len(clients_of_layers(new)) == 2
            await stubborn.aclose()
            await come_back(how, sentinels, layer, other, channel)
            return took


async def passes(
    other: MultiplexedChannelLayer,
    layer: MultiplexedChannelLayer,
    channel: str,
    patience: float = 0.2,
) -> bool:
    """Tell whether a message sent by one layer now comes to the other, in so many seconds."""
    try:
        await asyncio.wait_for(other.group_send("room", {"type": "after"}), patience)
        return await receive(layer, channel, patience) == {"type": "after"}
    except (LinkError, asyncio.TimeoutError):
        return False


async def come_back(
    how: str,
    sentinels: Sentinels,
    layer: MultiplexedChannelLayer,
    other: MultiplexedChannelLayer,
    channel: str,
) -> None:
    """The old master runs on, first as what it was, then as what the sentinels make of it.

    Nobody ever connects to it, and no message is missing.
    """
    old, new = sentinels.master, sentinels.replica
    for port in sentinels.ports[1:]:
        hurry(port)
    if how == "freeze":
        old.thaw()
    else:
        old.start()
    was_master, number = False, 0
    await receive_all(layer, channel)
    until = time.monotonic() + 40
    while (role := again(old.command, "ROLE")[0]) != "slave" or number % 20:
        await other.group_send("room", {"number": number})
        assert await receive(layer, channel) == {"number": number}
        number += 1
        was_master |= role == "master"
        assert not again(clients_of_layers, old)
        assert time.monotonic() < until
    assert was_master
    assert number >= 20
    for each in (layer, other):
        assert each.statistics().connection.state == "connected"
        assert str(new.port) in each.statistics().connection.address


def again(ask: Callable[..., Any], *arguments: Any) -> Any:
    """Ask a server; once more if that fails, as sentinels close all connections to what they demote."""
    try:
        return ask(*arguments)
    except redis.ConnectionError:
        return ask(*arguments)


def hurry(port: int) -> None:
    """Have a sentinel look after those that are back every half second, and not every ten."""
    with redis.Redis(HOST, port, socket_timeout=1, retry=None) as client:
        client.execute_command("SENTINEL", "DEBUG", "info-period", 500, "publish-period", 250)


@pytest.mark.timeout(120)
async def test_failover_takes_down_after_and_five_seconds(is_full: bool) -> None:
    """SIGKILL and SIGSTOP of the master: through the new one within down-after + 5 s.

    The old one, back and demoted by the sentinels, gets nothing.
    """
    killed, frozen = await asyncio.gather(fail_over("kill"), fail_over("freeze"))
    print(f"messages pass again {killed:.1f} s after SIGKILL, {frozen:.1f} s after SIGSTOP")
    if is_full:
        assert killed < 1.0 + 5.0
        assert frozen < 1.0 + 5.0
