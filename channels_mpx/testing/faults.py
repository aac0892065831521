"""Faults that last as long as a ``with`` block, and say so if there is none."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["lasting"]


class _Fault(contextlib.AbstractContextManager[None]):
    """A fault that has no effect before its block begins."""

    def __init__(self, name: str, context: contextlib.AbstractContextManager[None]) -> None:
        self._name = name
        self._context = context
        self._is_used = False

    def __enter__(self) -> None:
        self._is_used = True
        self._context.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._context.__exit__(*raised)

    def __del__(self) -> None:
        if not self._is_used:
            text = f"Broker.{self._name}() does nothing by itself: write `with broker.{self._name}(…):`"
            warnings.warn(text, RuntimeWarning, stacklevel=2)


def lasting(
    function: Callable[..., Iterator[None]],
) -> Callable[..., contextlib.AbstractContextManager[None]]:
    """Make a fault of a generator, as `contextlib.contextmanager` does.

    A call whose block is never entered is warned about, as with a coroutine that is not awaited.
    """
    make = contextlib.contextmanager(function)
    name = function.__name__.replace("_dropping", "drop").replace("_delaying", "delay")

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> contextlib.AbstractContextManager[None]:
        return _Fault(name, make(*args, **kwargs))

    return call
