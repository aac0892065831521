"""From an alias to a layer of ours, or to one sentence that says why there is none."""

from __future__ import annotations

from channels.layers import channel_layers
from django.core.management.base import CommandError

from channels_mpx.exceptions import MPXError
from channels_mpx.layer import MultiplexedChannelLayer

__all__ = ["find_layer"]


def find_layer(alias: str) -> MultiplexedChannelLayer:
    """Return the layer with an alias: the one that this process uses.

    Raises:
        CommandError: There is none, it cannot be made, or it is not one of ours.
    """
    aliases = sorted({*channel_layers.configs, *channel_layers.backends})
    if alias not in aliases:
        known = ", ".join(map(repr, aliases)) or "nothing"
        raise CommandError(f"There is no channel layer {alias!r}; CHANNEL_LAYERS has {known}.")
    try:
        layer = channel_layers[alias]
    except MPXError as error:
        raise CommandError(f"CHANNEL_LAYERS[{alias!r}]: {error}") from error
    except Exception as error:  # Channels' own, or what the class of somebody else raises
        raise CommandError(
            f"CHANNEL_LAYERS[{alias!r}] cannot be made: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(layer, MultiplexedChannelLayer):
        kind = type(layer)
        raise CommandError(
            f"The channel layer {alias!r} is a {kind.__module__}.{kind.__qualname__}; mpx looks"
            " into layers of channels_mpx only."
        )
    return layer
