"""A Django Channels layer in which one process holds one Redis connection."""

from .exceptions import *  # noqa: F403  (the whole error tree is public)
from .exceptions import __all__ as _errors
from .layer import MultiplexedChannelLayer
from .multiplexer import Multiplexer
from .serializers import register_serializer
from .subscriptions import (
    ChannelSubscription,
    OnActivation,
    OnDisconnect,
    OnMessage,
    PatternSubscription,
)

__version__ = "0.1.0"

__all__ = [
    "ChannelSubscription",
    "MultiplexedChannelLayer",
    "Multiplexer",
    "OnActivation",
    "OnDisconnect",
    "OnMessage",
    "PatternSubscription",
    "__version__",
    "register_serializer",
]
__all__ += _errors
