"""How values look: text that no name and no payload can disturb, sizes, times, tables, JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

from channels_mpx.escaping import escape

__all__ = [
    "age",
    "message_text",
    "milliseconds",
    "payload_text",
    "plural",
    "readable",
    "size",
    "table",
    "to_json",
]

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def readable(name: bytes | str) -> str:
    """Return a name or a text with whatever a terminal would obey or hide escaped."""
    return escape(name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name)


def payload_text(payload: bytes) -> str:
    """Return a payload that is not ours: as text if it is text, else as Python writes bytes."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return repr(payload)
    return text if text.isprintable() else repr(payload)


def message_text(message: dict[str, Any]) -> str:
    """Return a message in one line: as JSON if it has a form there, else as Python writes it."""
    try:
        text = json.dumps(message, ensure_ascii=False)
    except TypeError:  # bytes
        text = repr(message)
    return readable(text)


def plural(number: int, one: str, many: str = "") -> str:
    """Return a number and what it counts: ``1 queue``, ``2 queues``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(number: int) -> str:
    """Return bytes in the unit that people read: ``512 B``, ``1.5 MiB``."""
    value = float(number)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def age(seconds: float) -> str:
    """Return a time span in its largest unit: ``12 s``, ``3 h``."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def milliseconds(seconds: float | None) -> str:
    """Return a short time: ``0.21 ms``; a dash if there is none."""
    return "-" if seconds is None else f"{seconds * 1000:.2f} ms"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], texts: int = 1) -> list[str]:
    """Return lines of aligned columns, the header first.

    Args:
        header: The names of the columns.
        rows: Their values.
        texts: How many columns are text and begin at the left; the others are numbers.
    """
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [
            cell.ljust(width) if index < texts else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def to_json(value: object) -> str:
    """Return one line of JSON, in ASCII.

    What JSON has no form for becomes ``{"base64": …}`` (bytes) or null (numbers without end).
    """
    return json.dumps(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
