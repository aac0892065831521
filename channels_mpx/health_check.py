"""A check for django-health-check: ``pip install channels_mpx[health-check]``."""

from __future__ import annotations

from dataclasses import dataclass, field

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import channel_layers

from .health import PATIENCE
from .layer import MultiplexedChannelLayer

try:
    from health_check import HealthCheck
    from health_check.exceptions import ServiceUnavailable
except ImportError as error:
    raise ImportError(
        "channels_mpx.health_check needs django-health-check 3.24 or newer: "
        "pip install channels_mpx[health-check]"
    ) from error

__all__ = ["ChannelLayer"]


@dataclass
class ChannelLayer(HealthCheck):  # type: ignore[misc, unused-ignore]
    """Fails if a layer of this process is not healthy; name it in the checks of a view.

    It asks nobody, so it answers at once, and may be called on any loop and in any thread.

    Attributes:
        alias: The layer's alias in ``CHANNEL_LAYERS``.
        patience: See `MultiplexedChannelLayer.health`.
    """

    alias: str = DEFAULT_CHANNEL_LAYER
    patience: float = field(default=PATIENCE, repr=False)  # what is not shown is no label

    async def run(self) -> None:
        """Check, as django-health-check 4 wants it.

        What is wrong, with the layer or with the alias, is raised as its ``ServiceUnavailable``.
        """
        self.check_status()

    def check_status(self) -> None:
        """Check, as django-health-check 3 wants it. Raises what `run` does."""
        layer = channel_layers[self.alias] if self.alias in channel_layers else None
        if not isinstance(layer, MultiplexedChannelLayer):
            raise ServiceUnavailable(f"{self.alias!r} is no layer of channels_mpx.")
        health = layer.health(self.patience)
        if not health.is_healthy:
            raise ServiceUnavailable(" ".join(health.problems))
