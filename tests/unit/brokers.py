"""Virtual processes on one broker."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from channels_mpx import MultiplexedChannelLayer
from channels_mpx.testing import Broker
from tests.layers import QUICK


@contextlib.asynccontextmanager
async def pair(
    broker: Broker, **config: object
) -> AsyncIterator[tuple[MultiplexedChannelLayer, MultiplexedChannelLayer]]:
    """Yield two virtual processes, both connected."""
    layers = [broker.layer(**{**QUICK, **config}) for _ in range(2)]
    try:
        for layer in layers:
            await layer.new_channel()
        yield layers[0], layers[1]
    finally:
        for layer in layers:
            await layer.aclose()
