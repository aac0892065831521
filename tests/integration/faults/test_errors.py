"""Servers that will not, or not now: BUSY, OOM, READONLY, MASTERDOWN, LOADING, maxclients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
import redis

from channels_mpx import CommandRefused, LinkRefused, LinkUnavailable, queues, resp, traffic
from tests.helpers import eventually
from tests.integration.faults.test_refusals import refusal, refused
from tests.layers import (
    QUICK,
    connections_received,
    group_subscriptions,
    is_active,
    open_layer,
    receive,
)
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]

#: Seconds: a deadline that no test lives to see, so that what is told is told before it.
NEVER = 3600.0


@contextlib.asynccontextmanager
async def busy(server: RedisServer) -> AsyncIterator[None]:
    """Have the server run a script that does not end, and answer all others with BUSY."""
    script = "while true do end"
    running = asyncio.ensure_future(asyncio.to_thread(run_script_on, server, script))
    await eventually(lambda: is_busy(server))
    try:
        yield
    finally:
        server.command("SCRIPT", "KILL")
        await running


def run_script_on(server: RedisServer, script: str) -> None:
    """Run a script until it is killed, over a connection of its own."""
    client = redis.Redis(
        unix_socket_path=server.unix_url.removeprefix("unix://").partition("?")[0],
        username="harness",
        password="harness",
        retry=None,
    )
    with contextlib.closing(client), contextlib.suppress(redis.ResponseError):
        client.eval(script, 0)


def is_busy(server: RedisServer) -> bool:
    """Whether the server answers with BUSY."""
    try:
        server.command("PING")
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


BUSY = ["busy-reply-threshold 20"]


async def test_busy_is_waited_for(make_redis: MakeRedis) -> None:
    """BUSY is not for callers: publishing, subscribing and pushing are tried again until it ends."""
    server = make_redis(config=BUSY)
    async with open_layer(server, **QUICK) as layer:
        channel = await layer.new_channel()
        await layer.send("work", {"type": "before"})
        async with busy(server):
            verbs = [
                asyncio.ensure_future(verb)
                for verb in (
                    layer.group_add("room", channel),
                    layer.send(channel, {"type": "direct"}),
                    layer.send("work", {"type": "work"}),
                )
            ]
            await eventually(lambda: refused(layer).get("BUSY", 0) >= 6)
            assert not any(verb.done() for verb in verbs)
        await asyncio.gather(*verbs)
        await layer.group_send("room", {"type": "group"})
        heard = [(await receive(layer, channel))["type"] for _ in range(2)]
        assert heard == ["direct", "group"]
        assert [(await receive(layer, "work"))["type"] for _ in range(2)] == ["before", "work"]
        assert layer.statistics().connection.epoch == 1


async def test_busy_for_too_long_is_an_error_of_its_own(make_redis: MakeRedis) -> None:
    """The control: at their deadline callers get what they would have got at once."""
    server = make_redis(config=BUSY)
    async with open_layer(server, timeout=0.4) as layer:
        channel = await layer.new_channel()
        async with busy(server):
            verbs = (layer.send(channel, {"type": "a"}), layer.send("work", {"type": "a"}))
            for error in await asyncio.gather(*verbs, return_exceptions=True):
                assert isinstance(error, CommandRefused)
                assert error.code == "BUSY"
        await layer.send(channel, {"type": "b"})
        assert await receive(layer, channel) == {"type": "b"}


async def test_busy_would_hit_callers_at_once(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other control: without a notion of errors that pass, verbs fail the moment they are called."""
    for module in (traffic, resp):
        monkeypatch.setattr(module, "PASSING", frozenset())
    server = make_redis(config=BUSY)
    async with open_layer(server, timeout=NEVER) as layer:
        channel = await layer.new_channel()
        async with busy(server):
            for verb in (layer.send(channel, {}), layer.group_add("room", channel)):
                await refusal(verb, "BUSY")


@pytest.mark.parametrize("is_protected", [True, False])
async def test_reader_of_a_worker_channel_waits_longer_than_any_deadline(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch, is_protected: bool
) -> None:
    """BUSY beyond the deadline of one command after the other is nothing to who waits for work.

    The control: without the queue's own retry the first deadline would be the reader's.
    """
    monkeypatch.setattr(queues, "PAUSE", 0.05)
    if not is_protected:
        monkeypatch.setattr(queues, "PASSING", frozenset())
    server, deadlines = make_redis(config=BUSY), 0
    async with open_layer(server, timeout=0.3) as layer:
        await layer.new_channel()
        await layer.send("work", {"type": "before"})
        assert await receive(layer, "work") == {"type": "before"}
        pop = layer._process.workers.pop

        async def count(channel: str) -> bytes | None:
            nonlocal deadlines
            try:
                return await pop(channel)
            except CommandRefused as error:
                deadlines += error.code == "BUSY"
                raise

        monkeypatch.setattr(layer._process.workers, "pop", count)
        async with busy(server):
            reader = asyncio.ensure_future(receive(layer, "work", 30))
            await eventually(lambda: deadlines >= (3 if is_protected else 1), 20)
            if not is_protected:
                await refusal(reader, "BUSY")
                assert deadlines == 1
                return
            assert not reader.done()
        await layer.send("work", {"type": "after"})
        assert await reader == {"type": "after"}
        assert layer.statistics().connection.epoch == 1
        assert layer.statistics().delivered == 2


async def test_server_that_is_busy_is_dialled_until_it_is_not(make_redis: MakeRedis) -> None:
    """A connection lost meanwhile comes back by itself, with all of its groups."""
    server = make_redis(config=BUSY)
    async with open_layer(server, **QUICK) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        async with busy(server):
            link = layer._hub.life.traffic.link  # type: ignore[union-attr]
            assert link is not None
            link.lose("the test says so")
            await eventually(lambda: "BUSY" in (layer.statistics().connection.last_error or ""))
        await eventually(lambda: is_active(layer))
        assert group_subscriptions(server) == {"room"}


async def test_out_of_memory_is_for_the_sender(make_redis: MakeRedis) -> None:
    """OOM refuses what is stored, typed and at once; what is only passed on is not stored."""
    server = make_redis()
    async with open_layer(server, timeout=NEVER) as layer:
        channel = await layer.new_channel()
        server.command("CONFIG", "SET", "maxmemory", "1mb")
        await refusal(layer.send("work", {"type": "a"}), "OOM")
        assert refused(layer) == {"OOM": 1}
        await layer.send(channel, {"type": "b"})
        assert await receive(layer, channel) == {"type": "b"}
        server.command("CONFIG", "SET", "maxmemory", "0")
        await layer.send("work", {"type": "c"})
        assert await receive(layer, "work") == {"type": "c"}
        assert layer.statistics().connection.epoch == 1


@pytest.mark.parametrize("is_stale", [False, True], ids=["READONLY", "MASTERDOWN"])
async def test_replica_is_left_for_a_master(make_redis: MakeRedis, is_stale: bool) -> None:
    """An answer that only replicas give ends the link; what was refused is tried on the next one."""
    # Without ROLE nothing else tells a replica from a master.
    server = make_redis(users=["site on >pw ~* &* +@all -role"])
    other = make_redis()
    async with open_layer([server.url_for("site", "pw")], **QUICK) as layer:
        await layer.new_channel()
        if is_stale:
            server.command("CONFIG", "SET", "replica-serve-stale-data", "no")
            server.command("REPLICAOF", other.host, 1)
        else:
            server.command("REPLICAOF", other.host, other.port)
        sending = asyncio.ensure_future(layer.send("work", {"type": "a"}))
        await eventually(lambda: refused(layer).get("MASTERDOWN" if is_stale else "READONLY"))
        await eventually(lambda: "no master" in layer.statistics().connection.reconnections)
        assert not sending.done()
        server.command("REPLICAOF", "NO", "ONE")
        await sending
        assert await receive(layer, "work") == {"type": "a"}


async def test_replica_would_be_kept(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: who takes READONLY for a word about one command stays with the replica."""
    monkeypatch.setattr(traffic, "NOT_MASTER", frozenset())
    server, other = make_redis(users=["site on >pw ~* &* +@all -role"]), make_redis()
    async with open_layer([server.url_for("site", "pw")], timeout=0.3) as layer:
        await layer.new_channel()
        server.command("REPLICAOF", other.host, other.port)
        await refusal(layer.send("work", {"type": "a"}), "READONLY")
        assert layer.statistics().connection.epoch == 1


async def test_loading_server_is_waited_for(make_redis: MakeRedis) -> None:
    """While a server reads its file, what it can do is done, and the rest waits for the end."""
    server = make_redis(config=["key-load-delay 500", "loading-process-events-interval-bytes 1024"])
    server.command("EVAL", "for i = 1, 2000 do redis.call('SET', 'k' .. i, i) end", 0)
    async with open_layer(server, timeout=20) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        server.command("SAVE")
        server.kill()
        await eventually(lambda: layer.statistics().connection.state == "connecting")
        with pytest.raises(redis.BusyLoadingError):
            server.start()
        await layer.send("work", {"type": "a"})
        assert refused(layer)["LOADING"] > 0
        assert await receive(layer, "work") == {"type": "a"}
        await layer.group_send("room", {"type": "b"})
        assert await receive(layer, channel) == {"type": "b"}
        assert server.command("DBSIZE") == 2000


async def test_maxclients_is_waited_for(make_redis: MakeRedis) -> None:
    """A server that is full is tried again, rarely enough; the reason is there to be read."""
    server = make_redis()
    async with open_layer(server, timeout=1) as layer:
        server.command("CONFIG", "SET", "maxclients", 1)  # which the harness holds
        with pytest.raises(LinkUnavailable, match="max number of clients"):
            await layer.new_channel()
        assert connections_received(server) < 30
        refused = layer.statistics().connection.refused
        assert refused.keys() == {"ERR"}
        assert refused["ERR"] >= 1
        server.command("CONFIG", "SET", "maxclients", 100)
        await layer.new_channel()


async def test_wrong_password_at_the_start_is_no_wait(make_redis: MakeRedis) -> None:
    """The control of all this waiting: what will not pass is told at once."""
    server = make_redis(password="right")
    async with open_layer([server.url_for("", "wrong")], timeout=NEVER) as layer:
        with pytest.raises(LinkRefused) as caught:
            await layer.new_channel()
        assert caught.value.code == "WRONGPASS"
        assert layer.statistics().connection.refused["WRONGPASS"] >= 1
    async with open_layer([server.url_for()], timeout=NEVER) as layer:
        with pytest.raises(LinkRefused, match="wants a password") as caught:
            await layer.new_channel()
        assert caught.value.code == "NOAUTH"
        assert layer.statistics().connection.refused["NOAUTH"] >= 1
