"""Wrong settings, wrong servers and wrong names: one clear error each."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from channels_mpx import (
    ConfigurationError,
    LinkError,
    LinkRefused,
    MultiplexedChannelLayer,
    NotAGroupMember,
    UnknownChannel,
)
from tests.layers import open_layer
from tests.servers import HOST, Certificates, RedisServer, free_port

MakeRedis = Callable[..., RedisServer]
SECRET = "s3cret-pa55"


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"capcity": 5}, "'capcity'; did you mean 'capacity'"),
        ({"host": "x"}, "did you mean 'hosts'"),
        ({"zzz": 5}, "no option 'zzz'; known are hosts"),
        ({"capacity": "5"}, "capacity must be a whole number.*'5'"),
        ({"capacity": 0}, "capacity must be"),
        ({"capacity": True}, "capacity must be"),
        ({"expiry": "60"}, "expiry must be a number of seconds"),
        ({"expiry": -1}, "expiry must be"),
        ({"expiry": float("nan")}, "expiry must be"),
        ({"timeout": None}, "timeout must be"),
        ({"prefix": "a b"}, "prefix must be"),
        ({"prefix": "site:"}, "not 'site:'; the colon behind it is added"),
        ({"random_prefix_length": 8}, "it is of channels_redis and not needed here, remove it"),
        ({"serializer_format": ".."}, "serializer_format '..' is unknown"),
        ({"serializer_format": object}, "serializer_format .*object.* needs the methods serialize"),
        ({"channel_capacity": [1]}, "channel_capacity must be a dict"),
        ({"channel_capacity": {"a": "b"}}, "channel_capacity"),
        ({"symmetric_encryption_keys": "secret"}, "must be a list of keys"),
        ({"serializer_format": "mspack"}, "'mspack' is unknown; did you mean 'msgpack'"),
        ({"serializer_format": "no.such.Thing"}, "no.such.Thing' cannot be imported"),
        ({"serializer_format": "os.path.join"}, "needs the methods serialize"),
        ({"hosts": 5}, "hosts must be a list"),
        ({"hosts": []}, "hosts must be a list"),
        ({"hosts": [5]}, "int is no form of a host"),
        ({"hosts": ["localhost:6379"]}, "must begin with redis://"),
        ({"hosts": ["http://localhost"]}, "must begin with redis://"),
        ({"hosts": ["redis://localhost:99999"]}, r"hosts\[0\]: not a URL"),
        ({"hosts": ["redis://localhost:0"]}, "1 to 65535"),
        ({"hosts": ["redis://localhost/zero"]}, "database in the URL must be a number"),
        ({"hosts": [("localhost", "x")]}, "port must be"),
        ({"hosts": [{"addres": "redis://x"}]}, "no argument 'addres'; did you mean 'address'"),
        (
            {"hosts": [{"host": "x", "pasword": 1}]},
            "no argument 'pasword'; did you mean 'password'",
        ),
        ({"hosts": [{"host": "x", "zzz": 1}]}, "no argument 'zzz'; known are client_name, .*db"),
        ({"hosts": ["redis://x?pasword=1"]}, "no argument in the URL; did you mean 'password'"),
        (
            {"hosts": ["redis://x?ssl_check_hostname=1"]},
            "'ssl_check_hostname' is for TLS; use redi",
        ),
        ({"hosts": [{"path": "/x", "host": "y"}]}, "no argument 'host'"),
        (
            {
                "hosts": [
                    {"sentinels": [("a", 1)], "master_name": "m", "sentinel_kwargs": {"pasword": 1}}
                ]
            },
            "no argument 'pasword'; did you mean 'password'",
        ),
        ({"hosts": [{"sentinels": [("a", 1)]}]}, "needs both 'sentinels' and 'master_name'"),
        ({"hosts": ["redis://a", "redis://b"]}, "hosts has 2 entries.*one server for now"),
        ({"on_disconnect": 5}, "on_disconnect must be a string"),
        ({"client_name": "a b"}, "client_name must be"),
    ],
)
def test_settings_are_checked_before_anything_happens(config: dict[str, Any], text: str) -> None:
    """A wrong setting is one error that names it, when the layer is made."""
    with pytest.raises(ConfigurationError, match=text):
        MultiplexedChannelLayer(**config)


@pytest.mark.parametrize(
    "hosts",
    [
        [f"redis://user:{SECRET}@localhost:99999"],
        [f"http://user:{SECRET}@localhost"],
        [f"redis://user:{SECRET}@localhost/zero"],
        [{"address": "redis://localhost", "password": SECRET, "passwort": SECRET}],
        [{"address": f"redis://:{SECRET}@localhost", "no_such_argument": 1}],
        [f"redis://:{SECRET}@localhost", "redis://b"],
    ],
)
def test_setting_errors_never_hold_the_password(hosts: Any) -> None:
    """However wrong the settings, the password is not in the text of the error."""
    with pytest.raises(ConfigurationError) as caught:
        MultiplexedChannelLayer(hosts=hosts)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


#: Seconds: a deadline that no test lives to see, so that what is told is told before it.
NEVER = 3600.0


async def first_error(hosts: Any, **config: Any) -> LinkError:
    """Return the error of the first verb of a layer."""
    async with open_layer(hosts, **config) as layer:
        assert SECRET not in repr(layer)
        with pytest.raises(LinkError) as caught:
            await layer.new_channel()
        assert SECRET not in str(layer.statistics())
    assert SECRET not in str(caught.value)
    return caught.value


async def test_wrong_password_is_refused_at_once(make_redis: MakeRedis) -> None:
    """The server's own words reach the first caller, long before the deadline."""
    server = make_redis(password="right")
    address = f"{HOST}:{server.port}"
    for url in (server.url_for("", SECRET), server.url_for("nobody", SECRET), server.url_for()):
        error = await first_error([url], timeout=NEVER)
        assert isinstance(error, LinkRefused)
        assert address in str(error)
        assert re.search("username-password|authenticated", str(error))


async def test_database_out_of_range_is_refused_at_once(redis_server: RedisServer) -> None:
    """So is a database that the server does not have."""
    error = await first_error([redis_server.url.replace("/0", "/9999")], timeout=NEVER)
    assert isinstance(error, LinkRefused)
    assert "DB index is out of range" in str(error)
    assert f"{HOST}:{redis_server.port}" in str(error)


async def test_unknown_certificate_is_refused_at_once(
    make_redis: MakeRedis, certificates: Certificates
) -> None:
    """A server whose certificate no authority of ours has signed is refused, with the reason."""
    server = make_redis(tls=certificates)
    error = await first_error([f"rediss://{HOST}:{server.port}"], timeout=NEVER)
    assert isinstance(error, LinkRefused)
    assert "certificate" in str(error).lower()


async def old_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as Redis 5 does: HELLO and everything else is unknown."""
    while await reader.read(4096):
        writer.write(b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n")
    writer.close()


async def test_server_without_resp3_is_refused_at_once() -> None:
    """A server too old for RESP3 is named as such."""
    server = await asyncio.start_server(old_server, HOST, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await first_error([f"redis://:{SECRET}@{HOST}:{port}"], timeout=NEVER)
        assert isinstance(error, LinkRefused)
        assert f"{HOST}:{port}" in str(error)


@pytest.mark.parametrize("where", ["closed port", "silent port", "no such host"])
async def test_unreachable_server_is_one_error_at_the_deadline(where: str) -> None:
    """The first call waits until its deadline and raises one error that names host and port."""
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda reader, writer: writers.append(writer), HOST, 0)
    async with silent:
        host, port = HOST, free_port()
        if where == "silent port":
            port = silent.sockets[0].getsockname()[1]
        elif where == "no such host":
            host = "no-such-host.invalid"
        start = time.monotonic()
        error = await first_error([f"redis://user:{SECRET}@{host}:{port}"], timeout=0.5)
        assert time.monotonic() - start > 0.4
        assert isinstance(error, TimeoutError)
        assert f"{host}:{port}" in str(error)
        for writer in writers:
            writer.close()


async def test_unreachable_server_fails_every_first_verb() -> None:
    """Whatever is called first, on a loop or in a thread, raises the same kind of error."""
    async with open_layer([f"redis://{HOST}:{free_port()}"], timeout=0.3) as layer:
        for verb in (
            layer.group_send("room", {"type": "a"}),
            layer.send("work", {"type": "a"}),
            layer.receive("work"),
            layer.new_channel(),
            asyncio.to_thread(layer.sync.group_send, "room", {"type": "a"}),
            asyncio.to_thread(layer.sync.send, "work", {"type": "a"}),
            layer.flush(),
        ):
            with pytest.raises(LinkError, match=HOST):
                await asyncio.wait_for(verb, 20)


async def test_unreachable_server_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line says that there is no link, however often it is tried."""
    with caplog.at_level(logging.INFO, "channels_mpx"):
        await first_error([f"redis://:{SECRET}@{HOST}:{free_port()}"], timeout=0.5)
    assert len([r for r in caplog.records if "no Redis connection" in r.message]) == 1
    assert SECRET not in caplog.text


async def test_group_add_of_an_unknown_local_channel(layer: MultiplexedChannelLayer) -> None:
    """A name of this process that nobody made is an error that says so."""
    channel = await layer.new_channel()
    for verb in (layer.group_add, lambda group, name: layer.receive(name)):
        with pytest.raises(UnknownChannel, match=f"{channel}99"):
            await verb("room", f"{channel}99")
    for name in ("specific.!", "a!b", "specific.0123456789abcdef!1"):
        with pytest.raises(UnknownChannel, match=re.escape(name)):
            await layer.group_add("room", name)
    assert layer.statistics().groups == 0


async def test_group_add_of_a_worker_channel_says_what_to_do(
    layer: MultiplexedChannelLayer,
) -> None:
    """A worker channel cannot be a member; the error tells the way out."""
    with pytest.raises(
        NotAGroupMember, match=r"'work'.*channel_name, or .*await layer.new_channel\(\)"
    ):
        await layer.group_add("room", "work")
