"""Errors without the frames that they came through: in those are passwords.

Django's error page, its mail to ADMINS and other collectors of errors show the local variables of
every frame of a traceback, of causes and contexts too. Settings pass through our frames as they
are, and through redis-py's, so an error that comes from there goes on without them.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TypeVar

__all__ = ["origin", "without_frames"]

E = TypeVar("E", bound=BaseException)


def without_frames(error: E) -> E:
    """Take the tracebacks from an error and from all that it is chained to; return the error."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            left += (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))
    return error


def origin(error: BaseException) -> str:
    """Return the place where an error was raised, in place of its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].name}() in {Path(frames[-1].filename).name}:{frames[-1].lineno}"
