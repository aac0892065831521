"""What callers pass to the verbs, checked where they pass it."""

from __future__ import annotations

import math
from typing import Final

from . import exceptions

__all__ = [
    "MOST_SECONDS",
    "require_callable",
    "require_deadline",
    "require_payload",
    "require_timeout",
]

#: The most seconds for anything, 31 years: the deadline of a worker channel's message keeps its 13
#: digits, and every clock and lock of Python's can wait so long.
MOST_SECONDS: Final = 10**9


def require_callable(name: str, value: object) -> None:
    """Refuse a callback that cannot be called; None is none.

    Raises:
        NotCallable: It is something else.
    """
    if value is not None and not callable(value):
        raise exceptions.NotCallable(name=name, value=value)


def require_payload(value: object, name: str = "payload") -> bytes:
    """Return what is to be published: bytes as they are, text as UTF-8.

    Raises:
        InvalidArgument: It is neither, or text that has no UTF-8.
    """
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        required = "str or bytes"
        if isinstance(value, (dict, list, tuple)):
            required = f"str or bytes, for example json.dumps({name})"
        raise exceptions.InvalidArgument(name=name, required=required, value=value)
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        required = "text that UTF-8 can carry, or bytes"
        raise exceptions.InvalidArgument(name=name, required=required, value=value) from error


def require_deadline(value: object, name: str = "timeout") -> float:
    """Return a finite number of seconds; more than a lifetime is a lifetime.

    Raises:
        InvalidTimeout: It is none, or negative.
    """
    if not _is_seconds(value) or value == math.inf:
        raise exceptions.InvalidTimeout(name=name, value=value, alternative="")
    return float(min(value, MOST_SECONDS))  # type: ignore[call-overload]


def require_timeout(value: object, name: str = "timeout") -> float | None:
    """Return a number of seconds, or None for as long as it takes.

    Raises:
        InvalidTimeout: It is neither, or negative.
    """
    if value is None or value == math.inf:
        return None
    if not _is_seconds(value):
        raise exceptions.InvalidTimeout(name=name, value=value, alternative=", or None")
    return float(value)  # type: ignore[arg-type]


def _is_seconds(value: object) -> bool:
    # True and False are ints to Python, and a mistake here; NaN is not at least 0.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
