"""One connection for everything, and all the ways to describe it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from channels_mpx import CommandRefused, MultiplexedChannelLayer
from tests.helpers import eventually
from tests.layers import QUICK, calls, clients, open_layer, receive, subscriptions
from tests.servers import HOST, Certificates, RedisServer, free_port

MakeRedis = Callable[..., RedisServer]

#: Everything that the layer asks of Redis; what the documentation tells administrators to allow.
#: HELLO and AUTH need no permission. SELECT is needed for a database other than 0 only, and
#: CLIENT SETINFO (Redis 7.2) is redis-py's, which lives without it.
CONNECTION_COMMANDS = "+ping +role +client|setname"
MESSAGE_COMMANDS = "+publish +subscribe +unsubscribe"
WORKER_COMMANDS = "+eval +evalsha +time +lpop +lpush +rpush +lindex +lset +lrem +llen +pexpire +pttl +scan +unlink"
MINIMAL = f"{CONNECTION_COMMANDS} {MESSAGE_COMMANDS} {WORKER_COMMANDS}"


async def exercise(layer: MultiplexedChannelLayer) -> None:
    """Use everything that the layer asks of Redis."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "group"})
    # A queue with room for two, in which one has expired behind one that has not.
    push = layer._process.workers.push
    for seconds in (60, 0.001, 60):
        await layer._hub.call(push, "full", b"", 2, seconds)
        await asyncio.sleep(0.01)
    await layer.send(channel, {"type": "direct"})
    assert [(await receive(layer, channel))["type"] for _ in range(2)] == ["group", "direct"]
    for number in range(2):  # the second time by the digest of the script
        await layer.send("work", {"number": number})
        assert await receive(layer, "work") == {"number": number}
    await layer.group_discard("room", channel)
    await layer.send("work", {"type": "flushed"})
    await layer.flush()


async def exercise_give_back(layer: MultiplexedChannelLayer, server: RedisServer) -> None:
    """Have a message popped for a reader who goes away, and so given back."""
    with contextlib.suppress(asyncio.TimeoutError):
        await receive(layer, "work", 0.1)
    await layer.send("work", {"type": "kept"})
    server.freeze()
    try:
        with contextlib.suppress(asyncio.TimeoutError):
            await receive(layer, "work", 0.1)
    finally:
        server.thaw()
    await eventually(lambda: layer.statistics().connection.in_flight == 0)
    assert await receive(layer, "work", 2) == {"type": "kept"}


async def test_everything_uses_one_connection(redis_server: RedisServer) -> None:
    """Groups, direct and worker channels and every verb share one connection, named after us."""
    async with open_layer(redis_server) as layer:
        channel = await layer.new_channel()
        for number in range(20):
            await layer.group_add(f"room{number}", channel)
        await layer.group_send("room1", {"type": "a"})
        await layer.send("work", {"type": "a"})
        await receive(layer, "work")
        rows = clients(redis_server)
        assert len(rows) == 1
        assert rows[0]["name"] == f"channels_mpx:tests:{os.getpid()}"
        assert rows[0]["resp"] == "3"
        assert int(rows[0]["sub"]) == 22
    await eventually(lambda: not clients(redis_server))


async def test_client_name_is_configurable(redis_server: RedisServer) -> None:
    """`client_name` is what CLIENT LIST shows."""
    async with open_layer(redis_server, client_name="my-site") as layer:
        await layer.new_channel()
        assert [row["name"] for row in clients(redis_server)] == ["my-site"]


async def test_new_channel_sends_nothing_once_connected(redis_server: RedisServer) -> None:
    """A thousand consumers that come, join a known group and leave cost no Redis command."""
    async with open_layer(redis_server, **{**QUICK, "ping_interval": 3600}) as layer:
        first = await layer.new_channel()
        await layer.group_add("room", first)
        before = calls(redis_server)
        channels = [await layer.new_channel() for _ in range(1000)]
        for channel in channels:
            await layer.group_add("room", channel)
        for channel in channels[:500]:
            await layer.group_discard("room", channel)
        assert layer.statistics().channels == 1001
        del channels, channel
        assert calls(redis_server) == before
        await layer.group_send("room", {"type": "a"})
        assert await receive(layer, first) == {"type": "a"}
        assert calls(redis_server)["publish"] == before.get("publish", 0) + 1


async def test_prefixes_keep_sites_apart(redis_server: RedisServer) -> None:
    """Groups, worker channels and the keys of two prefixes on one server have nothing in common."""
    async with (
        open_layer(redis_server, prefix="one") as one,
        open_layer(redis_server, prefix="two") as two,
    ):
        mine, theirs = await one.new_channel(), await two.new_channel()
        await one.group_add("room", mine)
        await two.group_add("room", theirs)
        await one.group_send("room", {"from": "one"})
        await one.send("work", {"from": "one"})
        await two.group_send("room", {"from": "two"})
        await two.send("work", {"from": "two"})
        for layer, channel, name in ((one, mine, "one"), (two, theirs, "two")):
            assert await receive(layer, channel) == {"from": name}
            assert await receive(layer, "work") == {"from": name}
        names = subscriptions(redis_server, "*")
        assert {name.split(":")[0] for name in names} == {"one", "two"}


async def test_every_name_is_under_the_prefix(redis_server: RedisServer) -> None:
    """Topics and keys begin with the prefix, so that one ACL rule covers them."""
    async with open_layer(redis_server, prefix="site") as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.send("work", {"type": "a"})
        names = set(redis_server.command("PUBSUB", "CHANNELS", "*"))
        names |= set(redis_server.command("KEYS", "*"))
        assert len(names) == 3
        assert all(name.startswith("site:") for name in names)


async def test_minimal_acl_is_enough(make_redis: MakeRedis) -> None:
    """A user with the prefix and the listed commands can do everything that the layer does."""
    server = make_redis(users=[f"site on >pw resetchannels ~mpx:* &mpx:* -@all {MINIMAL}"])
    quick = {"ping_interval": 0.05, "ping_timeout": 5, "probe_interval": 0.05}
    async with open_layer([server.url_for("site", "pw")], **quick) as layer:
        await exercise(layer)
        await exercise_give_back(layer, server)
        await layer.new_channel()
        await eventually(lambda: layer.statistics().connection.probe_rtt)
        assert layer.statistics().connection.reconnections == {}
        assert redis_denials(server) == []


@pytest.mark.parametrize("command", MINIMAL.split())
async def test_minimal_acl_is_minimal(make_redis: MakeRedis, command: str) -> None:
    """Without any one of the listed commands Redis has something to deny."""
    rules = " ".join(word for word in MINIMAL.split() if word != command)
    server = make_redis(users=[f"site on >pw resetchannels ~mpx:* &mpx:* -@all {rules}"])
    quick = {"timeout": 0.5, "ping_interval": 0.05, "ping_timeout": 5, "probe_interval": 0.05}
    async with open_layer([server.url_for("site", "pw")], **quick) as layer:
        # On Python 3.10 asyncio's TimeoutError is another class.
        errors = (CommandRefused, TimeoutError, asyncio.TimeoutError, ConnectionError)
        with contextlib.suppress(*errors):
            await exercise(layer)
            await exercise_give_back(layer, server)
        await eventually(lambda: redis_denials(server))


def redis_denials(server: RedisServer) -> list[Any]:
    """Return what ACL LOG has."""
    return list(server.command("ACL", "LOG"))


@pytest.mark.parametrize("form", ["pair", "list", "dict", "address", "nested", "url", "lone"])
async def test_hosts_takes_every_form(redis_server: RedisServer, form: str) -> None:
    """Every way in which channels_redis takes one server works here."""
    url, port = redis_server.url, redis_server.port
    hosts: Any = {
        "pair": [(HOST, port)],
        "list": [[HOST, port]],
        "dict": [{"host": HOST, "port": port, "db": 0}],
        "address": [{"address": url}],
        "nested": [{"address": (HOST, port)}],
        "url": [url],
        "lone": url,
    }[form]
    async with open_layer(hosts, **QUICK) as layer:
        await exercise(layer)


@pytest.mark.parametrize("form", ["url", "dict", "path"])
async def test_hosts_takes_a_unix_socket(redis_server: RedisServer, form: str) -> None:
    """A unix socket works, as a URL and as a dict."""
    path = redis_server.unix_url.removeprefix("unix://").partition("?")[0]
    hosts: Any = {
        "url": [redis_server.unix_url],
        "dict": [{"unix_socket_path": path}],
        "path": [{"path": path}],
    }[form]
    async with open_layer(hosts, **QUICK) as layer:
        await exercise(layer)
        await layer.new_channel()
        assert f"unix:{path}" in layer.statistics().connection.address


@pytest.mark.parametrize("form", ["url", "dict"])
async def test_hosts_takes_tls(
    make_redis: MakeRedis, certificates: Certificates, form: str
) -> None:
    """TLS works with a URL and with a dict, and the certificate is checked."""
    server = make_redis(tls=certificates, password="pw")
    hosts: Any = [server.url]
    if form == "dict":
        hosts = [
            {
                "host": HOST,
                "port": server.port,
                "password": "pw",
                "ssl": True,
                "ssl_ca_certs": str(certificates.ca),
            }
        ]
    async with open_layer(hosts, **QUICK) as layer:
        await exercise(layer)


@pytest.mark.parametrize("form", ["url", "query", "dict", "override"])
async def test_hosts_takes_credentials_and_a_database(make_redis: MakeRedis, form: str) -> None:
    """User, password and database work from the URL and from a dict; queues are in that database."""
    password = "p@ss/w:rd%"
    server = make_redis(users=[f"alice on >{password} ~* &* +@all"])
    url = server.url_for("alice", password).replace("/0", "/3")
    hosts: Any = {
        "url": [url],
        "query": [server.url_for("alice", password).replace("/0", "") + "?db=3"],
        "dict": [
            {"host": HOST, "port": server.port, "username": "alice", "password": password, "db": 3}
        ],
        "override": [{"address": server.url, "username": "alice", "password": password, "db": 3}],
    }[form]
    async with open_layer(hosts, **QUICK) as layer:
        await layer.send("work", {"type": "a"})
        (row,) = clients(server)
        assert (row["user"], row["db"]) == ("alice", "3")
        assert list(server.command("INFO", "keyspace")) == ["db3"]
        assert await receive(layer, "work") == {"type": "a"}
        await exercise(layer)
        assert password not in repr(layer)


@pytest.fixture
def sentinel(redis_server: RedisServer, tmp_path: Path) -> Iterator[int]:
    """The port of a Sentinel that watches the server under the name ``ours``."""
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind {HOST}\ndir {tmp_path}\n"
        f"sentinel monitor ours {HOST} {redis_server.port} 1\n"
    )
    process = subprocess.Popen(
        ["redis-server", str(config), "--sentinel"], stdout=subprocess.DEVNULL
    )
    try:
        with redis.Redis(port=port, socket_timeout=5) as client:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.01)
        yield port
    finally:
        process.kill()
        process.wait()


async def test_hosts_takes_sentinel(redis_server: RedisServer, sentinel: int) -> None:
    """The master is asked of Sentinel; the error for an unknown master names it."""
    host = {"sentinels": [(HOST, sentinel)], "master_name": "ours"}
    async with open_layer([host], **QUICK) as layer:
        await exercise(layer)
        await layer.group_send("room", {"type": "a"})
        assert str(redis_server.port) in layer.statistics().connection.address
    async with open_layer([{**host, "master_name": "nobody"}], timeout=0.3) as layer:
        with pytest.raises(ConnectionError, match="nobody"):
            await layer.new_channel()
