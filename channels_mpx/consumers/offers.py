"""Public names of the mixins, which give way to those of the classes behind the mixins.

The mixins come first among the base classes of a consumer, so each of their public names would
hide one of a library's consumer class behind them, and break it. So what stands in the mixins is an
`Offer`: wherever it is looked up, the name of a class behind the mixin comes first. The mixins
themselves ask with `own`, which never returns what belongs to a class behind them.
"""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ["Offer", "is_default", "own", "own_static", "shadowed", "yielding"]

Mixin = TypeVar("Mixin", bound=type)


class Offer:
    """A name of a mixin, for consumers that have nothing of that name behind it.

    Args:
        owner: The mixin.
        name: The name.
        value: What the class statement has there.
    """

    __slots__ = ("name", "owner", "value")

    def __init__(self, owner: type, name: str, value: Any) -> None:
        self.owner = owner
        self.name = name
        self.value = value

    def __get__(self, instance: Any, owner: type) -> Any:
        if self.name in owner._shadowed:  # type: ignore[attr-defined]
            return getattr(super(self.owner, owner if instance is None else instance), self.name)
        return self.bound(instance, owner)

    def bound(self, instance: Any, owner: type) -> Any:
        """Return what the mixin has there, whatever is behind it."""
        bind = getattr(type(self.value), "__get__", None)
        return self.value if bind is None else bind(self.value, instance, owner)


def yielding(*kept: str) -> Any:
    """Return a decorator for mixins, whose public names then give way.

    Args:
        kept: Names that have to hide those behind them, which they call.
    """

    def decorate(mixin: Mixin) -> Mixin:
        for name, value in list(vars(mixin).items()):
            if not name.startswith("_") and name not in kept:
                setattr(mixin, name, Offer(mixin, name, value))
        return mixin

    return decorate


def shadowed(consumer: type) -> frozenset[str]:
    """Return the names of mixins that classes behind those have too."""
    found, offered = set(), set()
    for base in consumer.__mro__:
        for name, value in vars(base).items():
            if isinstance(value, Offer):
                offered.add(name)
            elif name in offered:
                found.add(name)
    return frozenset(found)


def own(consumer: Any, name: str) -> Any:
    """Return what a consumer has under a name of a mixin, for that mixin itself.

    That is what the consumer's own classes, before the mixin, have made of it, or else what the
    mixin has, and never what a class behind the mixin has for purposes of its own.
    """
    owner = type(consumer)
    if name in owner._shadowed:
        offer = _first(owner, name)
        if isinstance(offer, Offer):
            return offer.bound(consumer, owner)
    return getattr(consumer, name)


def own_static(consumer: type, name: str) -> Any:
    """Return the same of a class: as the class statement has it, a property as such."""
    found = _first(consumer, name)
    return found.value if isinstance(found, Offer) else found


def is_default(consumer: type, name: str) -> bool:
    """Tell whether no class before the mixin has a name of its own there."""
    return isinstance(_first(consumer, name), Offer)


def _first(consumer: type, name: str) -> Any:
    return next(vars(base)[name] for base in consumer.__mro__ if name in vars(base))
