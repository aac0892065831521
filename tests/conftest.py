"""Fixtures: Redis servers, a proxy in front of one, and certificates."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, settings

from tests.proxy import Proxy
from tests.servers import HOST, Certificates, RedisServer

# A machine that is busy generates slowly, and that is no finding.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--full``: the fault tests at their full size, which takes minutes."""
    parser.addoption("--full", action="store_true", help="run fault tests at their full size")


def pytest_configure() -> None:
    """Let programs under test be interrupted also where a shell in the background is not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def is_full(pytestconfig: pytest.Config) -> bool:
    """Whether fault tests run at their full size."""
    return bool(pytestconfig.getoption("--full"))


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """The server of the whole session; tests take `redis_server`."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """A running server without keys and scripts. It is shared: do not stop or configure it."""
    shared_redis.command("FLUSHALL")
    shared_redis.command("SCRIPT", "FLUSH")
    return shared_redis


@pytest.fixture
def make_redis() -> Iterator[Callable[..., RedisServer]]:
    """A function that starts a private server; it takes the arguments of `RedisServer`."""
    with ExitStack() as servers:

        def make(**options: Any) -> RedisServer:
            return servers.enter_context(RedisServer(**options))

        yield make


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[Proxy]:
    """A proxy in front of `redis_server`; connect to `proxy.port`."""
    async with Proxy(redis_server.host, redis_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate for the loopback address, and its authority."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    issued = authority.issue_cert(HOST, "localhost")
    files = Certificates(directory / "cert.pem", directory / "key.pem", directory / "ca.pem")
    issued.cert_chain_pems[0].write_to_path(files.cert)
    issued.private_key_pem.write_to_path(files.key)
    authority.cert_pem.write_to_path(files.ca)
    return files
