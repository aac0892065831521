"""A Django Channels layer in which one process holds one Redis connection."""

from .exceptions import *  # noqa: F403  (the whole error tree is public)
from .exceptions import __all__ as _errors
from .layer import MultiplexedChannelLayer

__version__ = "0.1.0"

__all__ = ["MultiplexedChannelLayer", "__version__"]
__all__ += _errors
