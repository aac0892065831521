"""The layer's numbers for Prometheus: ``pip install channels_mpx[prometheus]``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from .metrics import METRICS, Metric, Source

__all__ = ["LayerCollector"]

#: What all names begin with.
PREFIX = "channels_mpx_"

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily


class LayerCollector(Collector):  # type: ignore[misc, unused-ignore]
    """Collects the numbers of the layers of this process; give it to a registry.

    Each metric has the label ``layer``, the alias. Nothing is connected or asked for it.

    Args:
        aliases: Layers of ``CHANNEL_LAYERS``; none: all that are ours.
    """

    def __init__(self, *aliases: str) -> None:
        self._source = Source(aliases)

    def describe(self) -> Iterable[Family]:
        """Return the metrics without values: a registry asks before there are layers."""
        return [_family(metric) for metric in METRICS]

    def collect(self) -> Iterator[Family]:
        """Yield the metrics with their values."""
        layers = self._source.read()
        for metric in METRICS:
            family = _family(metric)
            for alias, numbers in layers:
                for label, value in metric.samples(numbers):
                    family.add_metric([alias, label] if metric.label else [alias], float(value))
            yield family


def _family(metric: Metric) -> Family:
    labels: Sequence[str] = ["layer", metric.label] if metric.label else ["layer"]
    name = f"{PREFIX}{metric.name}_{metric.unit}" if metric.unit else f"{PREFIX}{metric.name}"
    kind = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
    family: Family = kind(name, metric.help, labels=labels)
    return family
