"""Text of others for people: nothing in it that a log, a terminal or a reader would be misled by.

Whoever may publish chooses the names of channels and what stands in payloads; other processes and
the server choose the texts of their errors. A line break in them would begin a record in a log
that nobody has written, an escape sequence would reach a terminal, and a mark of direction would
turn the rest of a line round. All that is not printable is shown as Python writes it.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_NAME", "escape", "shorten"]

#: Characters that are shown of a name that somebody else chose; one in Redis may have 512 MB.
MAX_NAME: Final = 300


def escape(text: str) -> str:
    """Return a text with everything escaped that is not printable, such as line breaks."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def shorten(name: bytes | str) -> str:
    """Return a name for people: text if it is text, escaped, and its beginning if it is long."""
    if isinstance(name, bytes):
        # Cut before it is decoded: at most four bytes are one character.
        name = name[: 4 * MAX_NAME + 4].decode("utf-8", "backslashreplace")
    text = escape(name[: MAX_NAME + 1])
    return text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}…"
