"""Multiplexers, each on memory and on Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from channels_mpx import Multiplexer, PromiseSubscription
from tests.layers import QUICK
from tests.sites import MemorySite, RedisSite, Site


@pytest.fixture
def broker() -> MemorySite:
    """A broker in memory that nobody else uses."""
    return MemorySite()


@pytest.fixture(params=["memory", "redis"])
def site(request: pytest.FixtureRequest) -> Site:
    """Somewhere to connect to, of each kind."""
    if request.param == "memory":
        return MemorySite()
    return RedisSite(request.getfixturevalue("redis_server"))


@pytest.fixture
async def mux(site: Site) -> AsyncIterator[Multiplexer]:
    """A multiplexer on each kind of site."""
    async with Multiplexer(site.url, **QUICK) as mux:
        yield mux


@pytest.fixture
def threads_only(broker: MemorySite) -> Iterator[Multiplexer]:
    """A multiplexer for a test without an event loop."""
    mux = Multiplexer(broker.url, **QUICK)
    yield mux
    mux.close()


@pytest.fixture
async def jobs(mux: Multiplexer) -> AsyncIterator[PromiseSubscription]:
    """An active subscription to promises."""
    async with mux.new_promise_subscription("job-") as jobs:
        yield jobs
