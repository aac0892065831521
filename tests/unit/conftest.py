"""Multiplexers, each on memory and on Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from channels_mpx import Multiplexer
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
