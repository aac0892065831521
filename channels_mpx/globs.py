"""Redis's glob patterns: as Python's regular expressions, and where none is meant."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable

__all__ = ["find_glob", "translate_glob"]

#: Classes whose users were told that a channel's name looks like a pattern.
_told: weakref.WeakSet[type] = weakref.WeakSet()


def find_glob(who: type, channels: Iterable[bytes]) -> bytes | None:
    """Return the first name of a channel that looks like a pattern, to be warned of.

    Args:
        who: The class of what subscribes to them: there is one warning for each.
        channels: The names, which are going to be taken literally.
    """
    found = next((name for name in channels if b"*" in name), None)
    if found is None or who in _told:
        return None
    _told.add(who)
    return found


def translate_glob(pattern: bytes) -> re.Pattern[bytes]:
    """Return what Redis's glob means: ``*``, ``?``, ``[...]`` and the backslash."""
    out, at = [], 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        at += 1
        if char == b"*":
            out.append(b".*")
        elif char == b"?":
            out.append(b".")
        elif char == b"[":
            members, at = _read_class(pattern, at)
            out.append(members)
        else:
            if char == b"\\" and at < len(pattern):
                char = pattern[at : at + 1]
                at += 1
            out.append(re.escape(char))
    return re.compile(b"".join(out), re.DOTALL)


def _read_class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """Return what ``[...]`` means and where it ends, as Redis reads it.

    A range may stand backwards, a class may be empty (and then matches nothing), and one that is
    not closed ends with the pattern (Redis source, ``stringmatchlen``). The ends of a range are of
    C's type ``char``, which is signed on x86-64: 0x80 to 0xff stand before 0, not behind 0x7f.
    """
    is_negated = pattern[at : at + 1] == b"^"
    at += is_negated
    members: set[int] = set()
    while at < len(pattern) and pattern[at] != ord("]"):
        if pattern[at] == ord("\\") and at + 1 < len(pattern):
            members.add(pattern[at + 1])
            at += 2
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((_signed(pattern[at]), _signed(pattern[at + 2])))
            members.update(char & 0xFF for char in range(low, high + 1))
            at += 3
        else:
            members.add(pattern[at])
            at += 1
    if is_negated:
        members = set(range(256)) - members
    listed = b"".join(b"\\x%02x" % member for member in sorted(members))
    return (b"[%b]" % listed if members else b"(?!)"), at + 1


def _signed(char: int) -> int:
    return char - 256 if char > 127 else char
