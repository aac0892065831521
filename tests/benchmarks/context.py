"""What every measurement is given, and the helpers that all of them share."""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Result = dict[str, float]
"""A measurement: ``value`` in the row's unit, and whatever else is worth telling."""

MESSAGE: dict[str, Any] = {
    "type": "chat.message",
    "text": "The quick brown fox jumps over the lazy dog, and never sleeps",
    "user": 12,
}
MESSAGE["text"] = MESSAGE["text"][:60]

CAPACITY = 1_000_000
"""Messages that a channel may hold: more than any row sends, so that no layer drops."""

STALL = 2.0
"""Seconds without a delivery after which what is missing counts as dropped."""

LOOPS = ("asyncio", "uvloop")


class ChannelLayer(Protocol):
    """The part of Channels' specification that the rows use."""

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Send to one channel."""

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for one message."""

    async def new_channel(self, prefix: str = ...) -> str:
        """Make a channel of this process."""

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group."""

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Send to all channels of a group."""


LAYERS: dict[str, str] = {
    "channels_mpx": "channels_mpx.MultiplexedChannelLayer",
    "channels_redis.pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "channels_redis.core": "channels_redis.core.RedisChannelLayer",
    "in-memory": "channels.layers.InMemoryChannelLayer",
}
"""Each layer's name in the tables, and its class."""


@dataclass(frozen=True)
class Context:
    """One cell's circumstances.

    Attributes:
        peer: Name of the peer, as in the tables.
        url: The Redis server's URL.
        loop: ``asyncio`` or ``uvloop``.
        quick: Whether to do a small part of the work, to see that everything runs.
    """

    peer: str
    url: str
    loop: str
    quick: bool = False

    def count(self, full: int, quick: int) -> int:
        """Return how often to repeat something."""
        return quick if self.quick else full

    @property
    def span(self) -> float:
        """Return the seconds for which every peer is measured in rows without a fixed number."""
        return 1.0 if self.quick else 2.5

    @property
    def window(self) -> float:
        """Return the seconds after which a slow peer is stopped."""
        return 3.0 if self.quick else 10.0

    def layer(self) -> Any:
        """Make the peer's layer, with the same settings for all."""
        return make_layer(self.peer, self.url)


def variant(peer: str) -> str:
    """Return how a peer uses its layer: ``sync``, ``mixin``, or nothing special."""
    name, _, last = peer.rpartition(".")
    return last if name in LAYERS else ""


def make_layer(peer: str, url: str) -> Any:
    """Make the layer that ``peer`` uses.

    Raises:
        ImportError: The peer is not installed.
        AttributeError: The peer has no such layer.
    """
    layer = peer.removesuffix(f".{variant(peer)}")
    module, _, name = LAYERS[layer].rpartition(".")
    factory = getattr(importlib.import_module(module), name)
    if layer == "in-memory":
        return factory(capacity=CAPACITY)
    return factory(hosts=[url], capacity=CAPACITY)


def prepare(loop: str) -> None:
    """Install the event loop and the few Django settings that a layer may look at."""
    from django.conf import settings

    settings.configure(SECRET_KEY="benchmark", INSTALLED_APPS=[], DATABASES={})
    if loop == "uvloop":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            importlib.import_module("uvloop").install()


def level() -> None:
    """Collect garbage, so that no peer pays for what happened before the clock started."""
    gc.collect()


async def input_lines() -> asyncio.StreamReader:
    """Return this process's input, to be read without blocking the event loop."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def settle() -> None:
    """Let subscriptions take effect that a layer does not wait for, then level the field."""
    await asyncio.sleep(0.2)
    level()


def percentile(samples: list[float], share: float) -> float:
    """Return the value below which ``share`` (0 to 1) of the samples lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def resident_bytes() -> int:
    """Return the memory that this process occupies now, in bytes.

    Where ``/proc`` is missing it is the highest value so far.
    """
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    import resource

    return pages * resource.getpagesize()
