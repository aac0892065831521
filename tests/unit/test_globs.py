"""Globs mean to us what they mean to Redis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_mpx.globs import translate_glob

GLOBS = [
    (b"", [b""], [b"a"]),
    (b"a", [b"a"], [b"", b"A", b"ab", b"ba"]),
    (b"*", [b"", b"a", b"a\nb", b"\xff"], []),
    (b"a*c", [b"ac", b"abc", b"a*c"], [b"a", b"acb"]),
    (b"a?c", [b"abc", b"a?c", b"a\nc"], [b"ac", b"abbc"]),
    (rb"a\*", [b"a*"], [b"a", b"ab", rb"a\*"]),
    (rb"\a\\", [b"a\\"], [b"a", rb"\a\\"]),
    (b"a\\", [b"a\\"], [b"a"]),
    (b"a.c+(", [b"a.c+("], [b"abc+("]),
    (b"[abc]x", [b"ax", b"cx"], [b"x", b"dx", b"abx"]),
    (b"[a-c]", [b"a", b"b", b"c"], [b"d", b"-"]),
    (b"[^a]", [b"b", b"^"], [b"a", b""]),
    (b"[a^]", [b"a", b"^"], [b"b"]),
    (b"[-a]", [b"-", b"a"], [b"b"]),
    (b"[*?.]", [b"*", b"?", b"."], [b"a"]),
    (b"[a]]", [b"a]"], [b"a", b"]"]),
]

ODD_GLOBS = [
    (b"[z-a]", [b"a", b"m", b"z"], [b"-"]),
    (rb"[\]]", [b"]"], [b"\\", rb"\]"]),
    (rb"[\-a]", [b"-", b"a"], [b"\\", b"]"]),
    (rb"[a\-c]", [b"a", b"-", b"c"], [b"b", b"\\"]),
    (b"[]a]", [], [b"", b"a", b"]", b"a]"]),
    (b"[^]", [b"x", b"]"], [b"", b"xx"]),
    (b"[^]a]", [b"xa]"], [b"x", b"a"]),
    (b"[", [], [b"", b"["]),
    (b"[a", [b"a"], [b"[a", b"["]),
    (b"[[a]", [b"[", b"a"], [b"b"]),
    (b"[a--b]", [b"-", b"a", b"b", b"A"], [b"c"]),
    (b"[a&&b]", [b"a", b"&", b"b"], [b"c"]),
    (b"[a||b]", [b"|"], [b"c"]),
    (b"[a~~b]", [b"~"], [b"c"]),
    (b"[m-\xff]", [b"\xff", b"\x00", b"a", b"m"], [b"n", b"\x80", b"\xfe"]),
    (b"[\x80-m]", [b"\x80", b"\xff", b"\x00", b"m"], [b"n", b"\x7f"]),
    (b"[\x80-\xff]", [b"\x80", b"\xc3", b"\xff"], [b"\x00", b"\x7f"]),
    (b"[^\xff-b]", [b"c", b"\xfe"], [b"\xff", b"\x00", b"b"]),
]


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [*GLOBS, *ODD_GLOBS],
    ids=repr,
)
def test_match_globs_as_redis_does(
    pattern: bytes, matches: list[bytes], others: list[bytes]
) -> None:
    """A glob means what it means to Redis; none is an error."""
    glob = translate_glob(pattern)
    assert [name for name in matches + others if glob.fullmatch(name)] == matches


@given(st.text("ab*?[]^-\\&", max_size=8).map(str.encode))
def test_translate_any_glob(pattern: bytes) -> None:
    """Redis takes every pattern, so no subscriber can break the publishers."""
    translate_glob(pattern)
