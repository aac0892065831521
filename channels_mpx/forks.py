"""What must happen to connections when the process forks, and when it exits."""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from typing import Protocol

from . import couriers

__all__ = ["keep", "register"]


class Connected(Protocol):
    """Something that holds a connection of the process."""

    def forget_parent(self) -> None:
        """In a child made by fork: begin anew, and leave the connection to the parent."""

    def close(self) -> None:
        """Close the connection, if it can be done from here; blocks until it is done."""


_connected: weakref.WeakSet[Connected] = weakref.WeakSet()
_kept: list[object] = []


def register(connected: Connected) -> None:
    """See to a connection for as long as somebody holds it."""
    _connected.add(connected)


def keep(inherited: object) -> None:
    """Keep something for ever: its destructor would close what is the parent's."""
    _kept.append(inherited)


def _after_fork() -> None:
    couriers.after_fork()
    for connected in tuple(_connected):
        connected.forget_parent()


def _at_exit() -> None:
    for connected in tuple(_connected):
        with contextlib.suppress(Exception):  # the interpreter is going away
            connected.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
