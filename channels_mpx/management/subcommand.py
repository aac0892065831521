"""What a subcommand is, and the types of its arguments."""

from __future__ import annotations

import abc
import math
from argparse import ArgumentTypeError
from typing import Any, ClassVar

from channels_mpx.server import Server

from .console import Console

__all__ = ["PATIENCE", "Subcommand", "count", "pause", "seconds"]

#: Seconds in which a server must answer for the first time.
PATIENCE = 3


class Subcommand(abc.ABC):
    """One thing that ``manage.py mpx`` does.

    Attributes:
        name: What one types.
        help: What it does, in a sentence.
    """

    name: ClassVar[str]
    help: ClassVar[str]

    @abc.abstractmethod
    def add_arguments(self, parser: Any) -> None:
        """Add the arguments of this subcommand to its parser."""

    @abc.abstractmethod
    def run(self, console: Console, server: Server, options: dict[str, Any]) -> None:
        """Do it, and return if all is well.

        Raises:
            CommandError: Something is wrong, in a sentence for people.
            MPXError: The same.
        """


def count(text: str) -> int:
    """Return a whole number above 0, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number, at least 1, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """Return a number of seconds above 0, for argparse."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return value


def pause(text: str) -> float:
    """Return a number of seconds, 0 or more, for argparse."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise ArgumentTypeError(f"must be a number of seconds, 0 or more, not {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
