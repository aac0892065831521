"""Commands as bytes, and as text for people."""

from __future__ import annotations

from .escaping import shorten
from .wire import Command

__all__ = ["describe", "pack"]

_PUBLISH = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"


def pack(command: Command) -> bytes:
    """Return a command as RESP: an array of bulk strings (Redis serialization protocol, Arrays)."""
    if command[0] == b"PUBLISH" and len(command) == 3:
        _, channel, payload = command
        return _PUBLISH % (len(channel), channel, len(payload), payload)  # type: ignore[arg-type]
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        data = argument if isinstance(argument, bytes) else b"%d" % argument
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def describe(command: Command) -> str:
    """Return a command without what it carries, for the texts of errors."""
    words = command[: 2 if command[0] == b"PUBLISH" else 1]
    return " ".join(shorten(word) for word in words)  # type: ignore[arg-type]
