"""The system checks of production and of servers: what they find, and when they connect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.test import override_settings
from django.views.debug import SafeExceptionReporterFilter

from channels_mpx import checks
from channels_mpx.checks import check_deployment, check_servers, check_settings
from tests.django.findings import found, ids
from tests.django.mpx import setting
from tests.helpers import eventually
from tests.integration.test_connection import MINIMAL
from tests.layers import clients, connections_received
from tests.servers import Certificates, RedisServer, free_port

# Production


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("memory://", ["W014"]),
        ("redis://localhost", ["W013"]),
        ("redis://", ["W013"]),
        ("redis://127.8.9.1:1/0", ["W013"]),
        ("redis://[::1]", ["W013"]),
        ("redis://db.localhost", ["W013"]),
        ("unix:///run/redis.sock", ["W013"]),
        ({"unix_socket_path": "/run/redis.sock"}, ["W013"]),
        ({"db": 3}, ["W013"]),
        ("redis://redis", ["W011", "W012", "W013"]),
        ("redis://10.0.0.1", ["W011", "W012", "W013"]),
        (("redis", 6379), ["W011", "W012", "W013"]),
        ("redis://user@redis", ["W011", "W012", "W013"]),
        ("redis://:pw@redis", ["W011", "W013", "W018"]),
        ("redis://redis?password=pw", ["W011", "W013", "W018"]),
        ("rediss://redis", ["W012", "W013"]),
        ("rediss://:pw@redis", ["W013", "W018"]),
        ("redis://user:pw@localhost", ["W013", "W018"]),
        ("rediss://localhost?ssl_password=pw", ["W013", "W018"]),
        ("unix://user:pw@/run/redis.sock", ["W013", "W018"]),
        ({"address": "rediss://user:pw@redis", "db": 1}, ["W013", "W018"]),
        ({"host": "redis", "ssl": True, "password": "pw"}, ["W013"]),
        ({"host": "redis", "ssl": False}, ["W011", "W012", "W013"]),
        ({"address": "rediss://redis", "password": "pw"}, ["W013"]),
        ({"address": ("redis", 6379), "password": "pw"}, ["W011", "W013"]),
        ({"sentinels": [("redis", 1)], "master_name": "m"}, ["W011", "W012", "W013"]),
        ({"sentinels": [("localhost", 1)], "master_name": "m"}, ["W013"]),
        ({"sentinels": [("localhost", 1), ("b", 2)], "master_name": "m"}, ["W011", "W012", "W013"]),
        ({"sentinels": {("localhost", 1)}, "master_name": "m"}, ["W013"]),
        (
            {"sentinels": [("a", 1)], "master_name": "m", "ssl": True, "password": "x"},
            ["W013"],
        ),
    ],
    ids=str,
)
def test_deployment(host: Any, expected: list[str]) -> None:
    """TLS and a password are for other machines; encryption is for every server."""
    assert ids(check_deployment, host) == expected
    if "W014" not in expected:
        keyed = ids(check_deployment, host, symmetric_encryption_keys=["secret"])
        assert keyed == [id_ for id_ in expected if id_ != "W013"]


def test_cure_of_a_password_in_a_url_hides_it() -> None:
    """What the hint says is what Django hides, and what it warns of is what Django shows."""
    url, cure = "redis://user:s3cret@redis", {"address": "redis://user@redis", "password": "s3cret"}
    for host, is_shown in ((url, True), ({"address": url}, True), (cure, False)):
        with override_settings(CHANNEL_LAYERS={"default": setting(host)}):
            shown = SafeExceptionReporterFilter().get_safe_settings()["CHANNEL_LAYERS"]
            assert ("s3cret" in str(shown)) is is_shown
            assert ("W018" in ids(check_deployment, host)) is is_shown


def test_deployment_takes_own_connections_for_safe() -> None:
    """What a connection class or a credential provider of the project's does is its business."""
    import redis.asyncio as aioredis
    from redis.credentials import UsernamePasswordCredentialProvider

    provider = UsernamePasswordCredentialProvider("user", "pw")
    host = {"host": "redis", "credential_provider": provider}
    assert ids(check_deployment, host) == ["W011", "W013"]
    host["connection_class"] = aioredis.SSLConnection
    assert ids(check_deployment, host) == ["W013"]


def test_deployment_leaves_errors_to_the_settings_check() -> None:
    """A layer that cannot be made has no deployment; others still have theirs."""
    layers = {"a": setting("nonsense"), "b": setting("memory://")}
    assert [m[1] for m in found(check_deployment, **layers)] == [
        "CHANNEL_LAYERS['b']['CONFIG']['hosts']"
    ]


def test_no_check_connects_unasked(redis_server: RedisServer) -> None:
    """Neither the settings nor the deployment check opens a connection."""
    before = connections_received(redis_server)
    assert ids(check_settings, redis_server.url) == []
    assert ids(check_deployment, redis_server.url) == ["W013"]
    assert connections_received(redis_server) == before


# Servers


async def test_servers_that_are_fine(redis_server: RedisServer) -> None:
    """Redis's own limits fit our own size; the connection is closed again."""
    assert await asyncio.to_thread(ids, check_servers, redis_server.url) == []
    await eventually(lambda: clients(redis_server) == [])


def test_servers_need_none_for_memory() -> None:
    """There is nothing to ask."""
    assert ids(check_servers, "memory://") == []


@pytest.mark.parametrize(
    ("limits", "size", "expected"),
    [
        ("32mb 8mb 60", 8 * 2**20, []),
        ("32mb 8mb 60", 8 * 2**20 + 1, ["W015"]),
        ("15mb 0 0", 8 * 2**20, ["W015"]),
        ("16mb 0 0", 8 * 2**20, []),
        ("0 4mb 60", 8 * 2**20, ["W015"]),
        ("0 0 0", 2**30, []),
    ],
)
def test_limits_of_output_buffers(
    make_redis: Callable[..., RedisServer], limits: str, size: int, expected: list[str]
) -> None:
    """Two messages must fit below the hard limit, one below the soft one; 0 is no limit."""
    server = make_redis(config=[f"client-output-buffer-limit pubsub {limits}"])
    assert ids(check_servers, server.url, max_message_size=size) == expected


def test_limits_that_are_not_told(make_redis: Callable[..., RedisServer]) -> None:
    """Whom the ACL forbids to ask gets an information, which fails no check."""
    server = make_redis(users=[f"site on >pw resetchannels ~mpx:* &mpx:* -@all {MINIMAL}"])
    ((id_, path, text),) = found(check_servers, default=setting(server.url_for("site", "pw")))
    assert (id_, path) == ("I001", "CHANNEL_LAYERS['default']['CONFIG']['hosts']")
    assert "NOPERM" in text


def test_limits_of_something_else_than_redis() -> None:
    """An answer without the class `pubsub` says nothing."""
    assert list(checks._check_limits("x", {}, 1)) == []


def test_server_without_resp3(make_redis: Callable[..., RedisServer]) -> None:
    """As before Redis 6, where HELLO is unknown."""
    server = make_redis(config=['rename-command HELLO ""'])
    ((id_, _, text),) = found(check_servers, default=setting(server.url))
    assert id_ == "W016"
    assert "HELLO" in text


def test_server_that_refuses_for_another_reason(make_redis: Callable[..., RedisServer]) -> None:
    """No password, or the wrong one, where one is wanted: that is not about RESP3."""
    server = make_redis(password="right")
    assert ids(check_servers, server.url_for()) == ["W017"]
    assert ids(check_servers, server.url_for(password="wrong")) == ["W017"]


@pytest.mark.parametrize("is_frozen", [True, False])
def test_server_that_cannot_be_asked(
    make_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch, is_frozen: bool
) -> None:
    """A warning with the reason, soon: also if it accepts connections and says nothing."""
    monkeypatch.setattr(checks, "PATIENCE", 0.2)
    port = free_port()
    if is_frozen:
        server = make_redis()
        server.freeze()
        port = server.port
    ((id_, _, text),) = found(check_servers, default=setting(f"redis://127.0.0.1:{port}"))
    assert id_ == "W017"
    assert f"No link to Redis at 127.0.0.1:{port} within 0.2 s" in text
    assert is_frozen or "connection refused; is Redis running there?" in text


async def test_servers_are_not_asked_on_an_event_loop(redis_server: RedisServer) -> None:
    """Blocking it is refused, and said."""
    ((id_, _, text),) = found(check_servers, default=setting(redis_server.url))
    assert id_ == "W017"
    assert "event loop" in text


async def test_tls_and_a_password_satisfy(
    make_redis: Callable[..., RedisServer], certificates: Certificates
) -> None:
    """The server check goes over TLS too."""
    server = make_redis(tls=certificates, password="pw")
    assert await asyncio.to_thread(ids, check_servers, server.url) == []
