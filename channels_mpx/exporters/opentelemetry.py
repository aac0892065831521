"""The layer's numbers for OpenTelemetry: ``pip install channels_mpx[opentelemetry]``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from .metrics import METRICS, Metric, Source

__all__ = ["instrument"]

#: What all names begin with; the name of the meter.
NAME = "channels_mpx"

_UNITS = {"seconds": "s", "bytes": "By", "": "1"}


def instrument(*aliases: str, provider: MeterProvider | None = None) -> None:
    """Make observable instruments that read the numbers of the layers of this process.

    Each observation has the attribute ``layer``, the alias. Call it once; nothing is connected or
    asked for it.

    Args:
        aliases: Layers of ``CHANNEL_LAYERS``; none: all that are ours.
        provider: Whose instruments; None: the global one's.
    """
    meter, source = get_meter(NAME, meter_provider=provider), Source(aliases)
    for metric in METRICS:
        make = (
            meter.create_observable_counter if metric.is_counter else meter.create_observable_gauge
        )
        make(f"{NAME}.{metric.name}", [_callback(metric, source)], _UNITS[metric.unit], metric.help)


def _callback(metric: Metric, source: Source) -> Callable[[CallbackOptions], Sequence[Observation]]:
    def observe(options: CallbackOptions) -> Sequence[Observation]:
        return list(_observations(metric, source))

    return observe


def _observations(metric: Metric, source: Source) -> Iterator[Observation]:
    for alias, numbers in source.read():
        for label, value in metric.samples(numbers):
            yield Observation(
                value, {"layer": alias, metric.label: label} if metric.label else {"layer": alias}
            )
