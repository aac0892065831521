"""Where the subcommands write: lines for people, one JSON document in a line for programs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .formats import to_json

__all__ = ["Console", "Line", "Unwritable"]

_HOME, _CLEAR, _END_OF_LINE, _BELOW = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Unwritable(Exception):
    """The output goes nowhere, as on a disk that is full."""


@dataclass(frozen=True)
class Line:
    """One line of text.

    Attributes:
        text: Without a line break.
        style: A role of Django's palette, such as ``WARNING``; empty for none.
    """

    text: str
    style: str = ""


class Console:
    """The output of a command.

    Args:
        stdout: Django's wrapper; the results go there.
        stderr: Django's wrapper; everything else goes there.
        style: Django's palette.
        is_json: Whether results are JSON.
        is_colored: Whether colors are wanted even where nobody seems to watch.
    """

    def __init__(
        self, stdout: Any, stderr: Any, style: Any, is_json: bool, is_colored: bool
    ) -> None:
        self.is_json = is_json
        self._stdout = stdout
        self._stderr = stderr
        self._style = style
        self._is_colored = is_colored

    @property
    def is_watched(self) -> bool:
        """Whether a person looks at the results: a terminal, and no JSON."""
        return bool(self._stdout.isatty()) and not self.is_json

    def line(self, text: str = "", style: str = "") -> None:
        """Write one line of the result, at once."""
        self._write(self._stdout, text, style)

    def lines(self, lines: Iterable[Line]) -> None:
        """Write lines of the result."""
        for line in lines:
            self.line(line.text, line.style)

    def document(self, value: object) -> None:
        """Write one JSON document of the result, in one line."""
        self._write(self._stdout, to_json(value))

    def aside(self, text: str, style: str = "") -> None:
        """Tell people something that is no result."""
        self._write(self._stderr, text, style)

    def progress(self, text: str = "") -> None:
        """Show a person how far it is, in the place of what was shown last; nothing ends it."""
        if self.is_watched:
            self._write(self._stdout, f"\r{text}{_END_OF_LINE}\r", ending="")

    @contextlib.contextmanager
    def screen(self) -> Iterator[None]:
        """Clear the screen for `draw`; the last picture stays."""
        self._write(self._stdout, _HIDE_CURSOR + _CLEAR, ending="")
        try:
            yield
        finally:
            self._write(self._stdout, _SHOW_CURSOR, ending="")

    def draw(self, lines: list[Line]) -> None:
        """Show lines in the place of those before, as many as there is room for."""
        columns, rows = shutil.get_terminal_size()
        room = rows - 1  # the cursor stands in the last row
        if len(lines) > room:
            lines = [*lines[: room - 1], Line(f"… {len(lines) - room + 1} more lines")]
        shown = (
            self._paint(self._stdout, line.text[:columns], line.style) + _END_OF_LINE
            for line in lines
        )
        self._write(self._stdout, _HOME + "\n".join(shown) + "\n" + _BELOW, ending="")

    def _paint(self, stream: Any, text: str, style: str) -> str:
        if not style or not (stream.isatty() or self._is_colored):
            return text
        painted: str = getattr(self._style, style)(text)
        return painted

    def _write(self, stream: Any, text: str, style: str = "", ending: str = "\n") -> None:
        # A pipe may have an encoding that lacks a character of somebody's group.
        encoding = getattr(stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        try:
            stream.write(self._paint(stream, text, style), style_func=str, ending=ending)
            stream.flush()
        except BrokenPipeError:  # whoever read it has enough
            raise
        except OSError as error:
            raise Unwritable(f"The output cannot be written: {error.strerror or error}.") from error
