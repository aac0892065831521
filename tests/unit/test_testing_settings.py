"""The broker for tests in the place of a project's layers."""

from __future__ import annotations

import contextlib

import pytest
from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from channels_mpx import MultiplexedChannelLayer
from channels_mpx.testing import Broker, ChannelLayerTestMixin
from tests.helpers import eventually


class Own(MultiplexedChannelLayer):
    """A layer of somebody's own."""


def settings(**layers: object) -> override_settings:
    """Return a context with these channel layers."""
    return override_settings(CHANNEL_LAYERS=layers)


def test_settings_of_the_project_count() -> None:
    """Class and CONFIG, but for hosts; arguments win."""
    config = {"hosts": ["redis://192.0.2.1"], "capacity": 5, "expiry": 6}
    with settings(own={"BACKEND": f"{__name__}.Own", "CONFIG": config}):
        layer = Broker.of_settings("own", capacity=7).layer(prefix="a")
    assert type(layer) is Own
    assert (layer.capacity, layer.expiry, layer.options.prefix) == (7, 6, "a")
    assert layer.options.hosts.memory is not None


def test_settings_of_other_layers_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do those that are not there; and no Django settings are needed."""
    other = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 5}}
    function = {"BACKEND": f"{__name__}.settings"}
    with settings(other=other, function=function):
        for alias in ("other", "function", "none"):
            layer = Broker.of_settings(alias, expiry=9).layer()
            assert (type(layer), layer.capacity) == (MultiplexedChannelLayer, 100)
            assert layer.expiry == 9

    def fail(_: object) -> None:
        raise ImproperlyConfigured

    monkeypatch.setattr(type(channel_layers), "configs", property(fail))
    assert Broker.of_settings().layer().capacity == 100


def test_installed_layer_is_in_its_place_for_a_while() -> None:
    """What was there comes back; after a change of CHANNEL_LAYERS those are in force."""
    broker, other = Broker(), {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    with settings(default=other):
        before = get_channel_layer()
        with broker.installed(capacity=3) as layer, broker.installed("new") as new:
            assert get_channel_layer() is layer
            assert get_channel_layer("new") is new
            assert layer.capacity == 3
        assert get_channel_layer() is before
        assert get_channel_layer("new") is None
        with broker.installed():
            with settings(default=other):
                assert isinstance(get_channel_layer(), InMemoryChannelLayer)
            assert get_channel_layer() is not before


class Case:
    """As much of a test case as the mixin needs."""

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.addCleanup = self.stack.callback

    def setUp(self) -> None:
        assert get_channel_layer("alias") is self.layer


class Mixed(ChannelLayerTestMixin, Case):  # type: ignore[misc]
    """A test case with the mixin."""

    channel_layer_alias = "alias"
    channel_layer_config = {"capacity": 4}  # noqa: RUF012 (as users write it)


async def test_mixin_gives_each_test_its_layer() -> None:
    """Before the other base classes are set up, and until the end."""
    case = Mixed()
    with case.stack:
        case.setUp()
        there = case.other_process()
        assert (case.layer.capacity, there.capacity) == (4, 4)
        await there.group_send("room", {"type": "a"})
        assert case.outbox is case.broker.outbox
        assert case.outbox.to_group("room") == [{"type": "a"}]
    assert get_channel_layer("alias") is None
    await eventually(lambda: case.broker.links == [])
