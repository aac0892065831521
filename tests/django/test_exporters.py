"""The numbers as monitoring systems get them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers, get_channel_layer
from django.test import override_settings
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from channels_mpx.exporters import metrics
from channels_mpx.exporters.metrics import METRICS, Source
from channels_mpx.exporters.opentelemetry import instrument
from channels_mpx.exporters.prometheus import LayerCollector
from tests.helpers import eventually
from tests.layers import receive

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    """Two layers of ours and one that is not, without servers."""
    ours = "channels_mpx.MultiplexedChannelLayer"
    layers = {
        alias: {"BACKEND": ours, "CONFIG": {"hosts": [f"memory://exporters-{alias}"]}}
        for alias in ("default", "chat")
    }
    other = {"other": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    with override_settings(CHANNEL_LAYERS={**layers, **other}):
        yield
    channel_layers.backends.clear()


@pytest.fixture
async def busy() -> Any:
    """The default layer after two messages, one of which waits still."""
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "hello"})
    await receive(layer, channel)
    await layer.send(channel, {"type": "hello"})
    await eventually(lambda: layer.statistics().waiting == 1)
    yield layer
    del channel
    await layer.aclose()


def scrape(*aliases: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Return what Prometheus gets: values by name and by the values of the labels."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(LayerCollector(*aliases))
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            alias = sample.labels.pop("layer")
            labels = (alias, *sample.labels.values())
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def observe(*aliases: str) -> dict[str, dict[tuple[str, ...], Any]]:
    """Return what OpenTelemetry gets, likewise."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    instrument(*aliases, provider=provider)
    data: Any = reader.get_metrics_data()
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "channels_mpx"
    found = {
        metric.name: {
            tuple(point.attributes.values()): point.value for point in metric.data.data_points
        }
        for metric in scope.metrics
    }
    provider.shutdown()
    return found


async def test_prometheus(busy: Any) -> None:
    """Names, units and labels are as Prometheus wants them."""
    found = scrape()
    assert found["channels_mpx_connected"] == {("default",): 1, ("chat",): 0}
    assert found["channels_mpx_connections_total"] == {("default",): 1, ("chat",): 0}
    assert found["channels_mpx_waiting_messages"][("default",)] == 1
    assert found["channels_mpx_sent_messages_total"][("default", "group")] == 1
    assert found["channels_mpx_dropped_messages_total"][("default", "full")] == 0
    assert found["channels_mpx_lag_seconds"][("default",)] == busy.statistics().lag.last
    assert ("chat",) not in found["channels_mpx_lag_seconds"]
    assert get_channel_layer("chat").statistics().connection.state == "idle"


async def test_opentelemetry(busy: Any) -> None:
    """The same, in its own manner."""
    found = observe()
    assert found["channels_mpx.connected"] == {("default",): 1, ("chat",): 0}
    assert found["channels_mpx.sent_messages"][("default", "group")] == 1
    assert found["channels_mpx.lag"][("default",)] == busy.statistics().lag.last


@pytest.mark.parametrize(("get", "mark"), [(scrape, "_"), (observe, ".")])
async def test_subscriptions(busy: Any, get: Any, mark: str) -> None:
    """What waits in them is not what waits in channels; the counters stay when they are closed."""
    names = ("delivered_messages", "dropped_messages")
    delivered, dropped = (
        f"channels_mpx{mark}subscription_{name}" + "_total" * (mark == "_") for name in names
    )
    async with busy.multiplexer.new_channel_subscription(capacity=5) as subscription:
        subscription.add("news")
        await subscription.activated(5)
        for _ in range(8):
            await busy.multiplexer.publish("news", b"x")
        await eventually(lambda: subscription.dropped == 3)
        await subscription.get_message(0)
        found = get("default")
        assert found[f"channels_mpx{mark}waiting_messages"] == {("default",): 1}
        assert found[f"channels_mpx{mark}subscriptions"] == {("default",): 1}
        assert found[f"channels_mpx{mark}subscription_waiting_messages"] == {("default",): 4}
        assert found[f"channels_mpx{mark}subscription_deepest_messages"] == {("default",): 4}
    for _ in range(2):
        assert found[delivered] == {("default",): 1}
        assert found[dropped] == {("default", "full"): 3, ("default", "removed"): 0}
        found = get("default")
    assert found[f"channels_mpx{mark}subscription_deepest_messages"] == {("default",): 0}


@pytest.mark.parametrize("get", [scrape, observe])
async def test_only_some_layers(get: Any) -> None:
    """Whose aliases are given."""
    values = [labels[0] for samples in get("chat").values() for labels in samples]
    assert set(values) == {"chat"}


def test_registering_needs_no_layers() -> None:
    """A registry may ask what there is before Django's settings are complete."""
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "nowhere"}}):
        registry = CollectorRegistry(auto_describe=True)
        registry.register(LayerCollector())
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(LayerCollector())


def test_one_collection_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many metrics there are; the next collection reads again."""
    source = Source()
    first = source.read()
    assert source.read() is first
    monkeypatch.setattr(metrics, "FRESH", 0)
    assert source.read() is not first


def test_the_page_has_every_metric() -> None:
    """With both names, its labels and its kind, and no other."""
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| (\w+) \| (`\w+`)? ?\|", PAGE.read_text(), re.M)
    expected = []
    for metric in METRICS:
        suffix = (f"_{metric.unit}" if metric.unit else "") + (
            "_total" if metric.is_counter else ""
        )
        kind = "counter" if metric.is_counter else "gauge"
        label = f"`{metric.label}`" if metric.label else ""
        name = metric.name
        expected.append((f"channels_mpx_{name}{suffix}", f"channels_mpx.{name}", kind, label))
    assert rows == expected
