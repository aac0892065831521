"""The servers that other tests rely on do what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.helpers import eventually
from tests.servers import Certificates, RedisServer

MakeRedis = Callable[..., RedisServer]


def ping(url: str) -> bool:
    with redis.Redis.from_url(url, socket_timeout=0.2, retry=None) as client:
        return bool(client.ping())


def test_shared_server_is_empty_for_each_test(redis_server: RedisServer) -> None:
    assert redis_server.command("DBSIZE") == 0
    assert ping(redis_server.url)
    assert ping(redis_server.unix_url)


def test_restart_keeps_the_port_and_forgets_the_data(make_redis: MakeRedis) -> None:
    server = make_redis()
    pid, url = server.pid, server.url
    server.command("SET", "key", "value")
    server.restart()
    assert server.pid != pid
    assert server.url == url
    assert server.command("DBSIZE") == 0
    assert ping(url)


@pytest.mark.parametrize("end", [RedisServer.kill, RedisServer.stop, RedisServer.close])
def test_ended_server_refuses_connections(
    make_redis: MakeRedis, end: Callable[[RedisServer], None]
) -> None:
    server = make_redis()
    end(server)
    assert not server.running
    with pytest.raises(redis.ConnectionError):
        ping(server.url)


def test_frozen_server_answers_nothing_until_thawed(make_redis: MakeRedis) -> None:
    server = make_redis()
    server.freeze()
    with pytest.raises(redis.TimeoutError):
        ping(server.url)
    server.thaw()
    assert ping(server.url)


def test_stop_ends_a_frozen_server(make_redis: MakeRedis) -> None:
    server = make_redis()
    server.freeze()
    server.stop()
    assert not server.running


def test_password_is_asked_for(make_redis: MakeRedis) -> None:
    server = make_redis(password="p@ss/word")
    assert ping(server.url)
    assert ping(server.unix_url)
    with pytest.raises(redis.AuthenticationError):
        ping(server.url_for())


def test_acl_user_may_do_only_what_it_may(make_redis: MakeRedis) -> None:
    server = make_redis(users=["alice on >secret ~mpx:* &mpx:* +@all", "default off"])
    with redis.Redis.from_url(server.url_for("alice", "secret")) as client:
        client.set("mpx:key", "value")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.set("key", "value")
    with pytest.raises(redis.AuthenticationError):
        ping(server.url)


def test_tls_is_verified(make_redis: MakeRedis, certificates: Certificates) -> None:
    server = make_redis(tls=certificates)
    assert ping(server.url)
    with pytest.raises(redis.ConnectionError):
        ping(server.url.partition("?")[0])


def test_taken_port_is_an_error_with_the_log(redis_server: RedisServer) -> None:
    second = RedisServer(port=redis_server.port)
    try:
        with pytest.raises(RuntimeError, match="in use"):
            second.start()
    finally:
        second.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child's life to ours")
async def test_killed_tests_leave_no_server() -> None:
    program = (
        "from tests.servers import RedisServer; import time; server = RedisServer();"
        "server.start(); print(server.pid, flush=True); time.sleep(60)"
    )
    with (
        tempfile.TemporaryDirectory() as directory,  # what the killed tests leave behind
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": directory},
        ) as tests,
    ):
        assert tests.stdout is not None
        pid = int(tests.stdout.readline())
        assert runs(pid)
        tests.send_signal(signal.SIGKILL)
        await eventually(lambda: not runs(pid))


def runs(pid: int) -> bool:
    """Whether a process is there and is not a zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
