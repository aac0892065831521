"""A Django Channels layer in which one process holds one Redis connection."""

from .callbacks import OnActivation, OnDisconnect, OnGap, OnMessage
from .exceptions import *  # noqa: F403  (the whole error tree is public)
from .exceptions import __all__ as _errors
from .gap import Gap
from .layer import MultiplexedChannelLayer
from .ledgers import Promise
from .multiplexer import Multiplexer
from .promises import PromiseSubscription
from .reception import PubSubMessage
from .serializers import register_serializer
from .subscriptions import ChannelSubscription, PatternSubscription

__version__ = "0.1.0"

__all__ = [
    "ChannelSubscription",
    "Gap",
    "MultiplexedChannelLayer",
    "Multiplexer",
    "OnActivation",
    "OnDisconnect",
    "OnGap",
    "OnMessage",
    "PatternSubscription",
    "Promise",
    "PromiseSubscription",
    "PubSubMessage",
    "__version__",
    "register_serializer",
]
__all__ += _errors
