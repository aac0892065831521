"""What is wrong with a consumer's class is told when the class is defined, where that can be seen."""

from __future__ import annotations

import inspect
from collections.abc import Collection

from channels.consumer import AsyncConsumer

from channels_mpx import exceptions
from channels_mpx.names import encode_name

from .offers import is_default, own_static

__all__ = [
    "Name",
    "is_computed",
    "require_consumer",
    "require_declared",
    "require_handler",
    "require_kind",
    "require_names",
]

Name = str | bytes

# As Channels has made it: whoever changes it later is somebody whom we must not leave out.
_plain_call = AsyncConsumer.__call__


def require_consumer(consumer: type, mixin: type) -> None:
    """Refuse a mixin that comes too late, or before a ``__call__`` that it would leave out."""
    behind = consumer.__mro__[consumer.__mro__.index(mixin) :]
    if AsyncConsumer not in behind:
        raise exceptions.ConfigurationError(
            problem=f"{consumer.__name__} must have MultiplexedConsumerMixin before its consumer "
            "class, as its first base class"
        )
    owner = next(base for base in behind[1:] if "__call__" in vars(base))
    if vars(owner)["__call__"] is not _plain_call:
        raise exceptions.ConfigurationError(
            problem=f"{owner.__name__}, behind MultiplexedConsumerMixin in {consumer.__name__}, has "
            "a __call__ that would be left out: let it inherit from the mixin itself"
        )


def require_kind(consumer: type, name: str, is_sync: bool = False) -> None:
    """Refuse a ``def`` where the mixin awaits, and a coroutine function where it calls in a thread.

    What a decorator has made of a function is judged by the function; what is no function is not.
    """
    hook = own_static(consumer, name)
    if is_default(consumer, name) or name in consumer._shadowed:  # type: ignore[attr-defined]
        return
    if inspect.isfunction(hook) and inspect.iscoroutinefunction(inspect.unwrap(hook)) is is_sync:
        raise exceptions.ConfigurationError(
            problem=f"{name} of {consumer.__name__} must be {'def' if is_sync else 'async def'}"
            + (": it is a synchronous consumer" if is_sync else "")
        )


def is_computed(value: object) -> bool:
    """Tell whether a class attribute is a property, which has a value on instances only."""
    return hasattr(type(value), "__get__")


def require_handler(consumer: type, handler: str, attribute: str) -> None:
    """Refuse a consumer that would never notice what it subscribes to.

    Raises:
        ConfigurationError: It has no handler.
    """
    if is_default(consumer, handler):
        raise exceptions.ConfigurationError(
            problem=f"{consumer.__name__} subscribes to {attribute} and has no {handler}: what comes "
            "through them would vanish. Define it, in the class itself or in one before the mixin"
        )


def require_declared(consumer: type, attribute: str, handler: str) -> None:
    """Refuse a class attribute that holds no names, or names for which there is no handler.

    Raises:
        ConfigurationError: So it is.
    """
    names = own_static(consumer, attribute)
    if not is_computed(names):
        names = require_names(consumer, attribute, names)
    if names and issubclass(consumer, AsyncConsumer):
        require_handler(consumer, handler, attribute)


def require_names(consumer: type, attribute: str, names: object) -> list[bytes]:
    """Return the names of a class attribute as Redis gets them.

    Raises:
        ConfigurationError: They are no collection of names; text is one name, not many.
    """
    what = f"{attribute} of {consumer.__name__}"
    if isinstance(names, (str, bytes)) or not isinstance(names, Collection):
        raise exceptions.ConfigurationError(
            problem=f"{what} must be a list of names, not {names!r}"
        )
    try:
        return [encode_name(name) for name in names]
    except exceptions.InvalidName as error:
        raise exceptions.ConfigurationError(problem=f"{what}: {error}") from error
