"""Django with our layer as the default one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from channels.layers import channel_layers, get_channel_layer
from django.test import override_settings

from channels_mpx import MultiplexedChannelLayer
from tests.django.mpx import Manager, setting
from tests.django.projects import Project
from tests.servers import RedisServer

_brokers = itertools.count()


@pytest.fixture(params=["memory", "redis"])
def hosts(request: pytest.FixtureRequest) -> list[str]:
    """A place for messages of each kind, that no other test uses."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        return [server.url]
    return [f"memory://django{next(_brokers)}"]


@pytest.fixture
def layer(hosts: list[str]) -> Iterator[MultiplexedChannelLayer]:
    """The default layer of Django's settings."""
    config: dict[str, Any] = {
        "BACKEND": "channels_mpx.MultiplexedChannelLayer",
        "CONFIG": {"hosts": hosts},
    }
    with override_settings(CHANNEL_LAYERS={"default": config}):
        layer = get_channel_layer()
        assert isinstance(layer, MultiplexedChannelLayer)
        yield layer
        layer.sync.close()
    channel_layers.backends.clear()


@pytest.fixture
def manager(redis_server: RedisServer) -> Iterator[Manager]:
    """Commands on the shared server."""
    with Manager({"default": setting(redis_server.url)}) as manager:
        yield manager


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project of a user."""
    return Project(pytester, monkeypatch)
