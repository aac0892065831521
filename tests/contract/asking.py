"""Who asks and who answers in the tests of requests."""

from __future__ import annotations

from typing import Any

from channels_mpx import (
    MultiplexedChannelLayer,
)
from tests.contract.conftest import MakeLayer
from tests.helpers import eventually

NOBODY = "specific.0123456789abcdev!1"


def double(event: dict[str, Any]) -> dict[str, Any]:
    """Return what a server answers."""
    return {"type": "doubled", "number": 2 * event["number"]}


async def pair(
    make_layer: MakeLayer, **config: Any
) -> tuple[MultiplexedChannelLayer, MultiplexedChannelLayer, str]:
    """Return who asks, who answers, and a channel of the second."""
    asker, owner = await make_layer(**config), await make_layer(**config)
    return asker, owner, await owner.new_channel()


async def listening(layer: MultiplexedChannelLayer, topics: int) -> None:
    """Return when a layer is subscribed to so many topics: its inbox, and bells."""
    await eventually(lambda: layer.statistics().connection.active == topics)
