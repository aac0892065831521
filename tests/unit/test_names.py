"""Names in Redis: ours never collide, with each other or with those of another prefix."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from channels_mpx import MultiplexedChannelLayer, exceptions, names
from channels_mpx.globs import translate_glob
from channels_mpx.names import (
    DirectAddress,
    Kind,
    Namespace,
    ReturnAddress,
    Topic,
    escape_glob,
    parse_direct,
    parse_return,
)

CHANNEL_CHARACTERS = "abcXYZ019_.-"

PREFIXES = st.text("ab.-_", min_size=1, max_size=6)
NAMES = st.text("abx_.-!", min_size=1, max_size=12)


def test_make_process_names_of_80_random_bits() -> None:
    """Process names have 16 characters of an alphabet of 32, and do not repeat."""
    made = {names.new_process_name() for _ in range(1000)}
    assert len(made) == 1000
    assert {len(name) for name in made} == {names.PROCESS_NAME_LENGTH}
    assert set("".join(made)) == set("0123456789abcdefghijklmnopqrstuv")


@given(st.text(CHANNEL_CHARACTERS, max_size=20), st.text(CHANNEL_CHARACTERS + "!", max_size=20))
def test_parse_direct_returns_what_the_name_was_made_of(left: str, local: str) -> None:
    """Process and local part come back from a name, whatever stands before the process."""
    process = names.new_process_name()
    assert parse_direct(f"{left}{process}!{local}") == DirectAddress(process, local.encode())


def test_parse_direct_of_a_worker_channel() -> None:
    """A name without ``!`` is no direct channel."""
    assert parse_direct("thumbnails") is None


@pytest.mark.parametrize("left", ["", "short", "x" * (names.PROCESS_NAME_LENGTH - 1)])
def test_parse_direct_of_a_name_that_no_process_made(left: str) -> None:
    """Too little before the ``!`` cannot be a process: its name is empty, so nobody has it."""
    assert parse_direct(f"{left}!abc") == DirectAddress("", b"abc")


@given(st.integers(0, 10**20 - 1))
def test_parse_return_returns_what_the_address_was_made_of(number: int) -> None:
    """Process and token come back, from text and from bytes."""
    address = ReturnAddress(names.new_process_name(), b"%d" % number)
    assert parse_return(bytes(address)) == parse_return(bytes(address).decode()) == address


@pytest.mark.parametrize(
    "address",
    [
        *(None, 5, [], "", "!", "work", "specific.0123456789abcdev!1", "0123456789abcdev!"),
        *("0123456789abcdew!1", "0123456789abcdev!x", "0123456789abcdev!1\n", "ä" * 16 + "!1"),
        *(
            "0123456789abcdev!" + "1" * 21,
            b"0123456789abcdev!1!1",
            "0123456789abcdev!\N{THAI DIGIT ONE}",
        ),
    ],
)
def test_parse_return_of_something_else(address: object) -> None:
    """Whatever a message may hold there, it is an address or None."""
    assert parse_return(address) is None


@given(st.binary(max_size=20) | st.text("*?[]\\^-ab", max_size=12).map(str.encode), st.data())
def test_escape_glob_matches_the_name_and_nothing_else(name: bytes, data: st.DataObject) -> None:
    """An escaped name, taken as a pattern, matches exactly that name."""
    pattern = translate_glob(escape_glob(name))
    assert pattern.fullmatch(name)
    other = data.draw(st.binary(max_size=20) | st.just(name + b"x") | st.just(b"x" + name))
    assert bool(pattern.fullmatch(other)) == (other == name)


def test_escape_glob_leaves_plain_names_alone() -> None:
    """Only the five special characters get a backslash."""
    assert escape_glob(b"a.b:c-d") == b"a.b:c-d"
    assert escape_glob(b"*?[]\\") == rb"\*\?\[\]\\"


def test_lay_out_names_under_the_prefix() -> None:
    """Each kind of name has its place."""
    space = Namespace("site")
    assert space.prefix == "site"
    assert space.inbox("p") == b"site:inbox:p"
    assert space.group("g") == b"site:group:g"
    assert space.queue("c") == b"site:queue:c"
    assert space.bell("c") == b"site:bell:c"
    assert space.queues_pattern() == b"site:queue:*"


def all_names(prefix: str, name: str) -> list[bytes]:
    space = Namespace(prefix)
    return [make(name) for make in (space.inbox, space.group, space.queue, space.bell)]


@given(PREFIXES, PREFIXES, NAMES, NAMES)
def test_names_never_collide(prefix: str, other: str, name: str, another: str) -> None:
    """Another prefix, kind or name is another place, also if one prefix begins like the other."""
    ours, theirs = all_names(prefix, name), all_names(other, another)
    assert len(set(ours)) == 4
    assert bool(set(ours) & set(theirs)) == ((prefix, name) == (other, another))
    assert all(Namespace(prefix).covers(place) == (prefix == other) for place in theirs)


@given(PREFIXES, PREFIXES, NAMES)
def test_queues_pattern_matches_our_queues_only(prefix: str, other: str, name: str) -> None:
    """The pattern finds every queue of its prefix, no other key and no other prefix's."""
    glob = translate_glob(Namespace(prefix).queues_pattern())
    inbox, group, queue, bell = all_names(other, name)
    assert bool(glob.fullmatch(queue)) == (prefix == other)
    assert not any(glob.fullmatch(place) for place in (inbox, group, bell))


@pytest.mark.parametrize("prefix", ["a", "A-z_0.9", "x" * 64])
def test_accept_a_prefix(prefix: str) -> None:
    """1 to 64 letters, digits, ``_``, ``-`` and ``.`` are a prefix."""
    assert Namespace(prefix).prefix == prefix


@pytest.mark.parametrize(
    "prefix", ["", "x" * 65, "a:b", "a*", "ä", "a b", "a\n", "[a]", None, b"a", 3]
)
def test_refuse_a_prefix(prefix: object) -> None:
    """Anything else is refused, by name."""
    with pytest.raises(exceptions.ConfigurationError, match="prefix must be") as caught:
        Namespace(prefix)  # type: ignore[arg-type]
    assert repr(prefix) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "encoded"),
    [("a", b"a"), ("ä", b"\xc3\xa4"), (b"\xff\x00", b"\xff\x00"), ("\udc80", b"\xed\xb2\x80")],
)
def test_encode_names_as_redis_gets_them(name: object, encoded: bytes) -> None:
    """Text as UTF-8, whatever text it is, and bytes as they are."""
    assert names.encode_name(name) == encoded


@pytest.mark.parametrize("name", ["", b""])
def test_encode_nothing(name: object) -> None:
    """A name has at least one character."""
    with pytest.raises(exceptions.InvalidName) as caught:
        names.encode_name(name)
    assert str(caught.value) == f"{name!r} is not a name that can be used here: it is empty"


@pytest.mark.parametrize("name", [None, 7, 1.5, True, ["a"], bytearray(b"a"), str])
def test_encode_what_is_no_name(name: object) -> None:
    """The error says what it is instead."""
    with pytest.raises(exceptions.InvalidName) as caught:
        names.encode_name(name)
    assert str(caught.value) == (
        f"{name!r} is not a name that can be used here: "
        f"a name is str or bytes, not {type(name).__name__}"
    )


@pytest.mark.parametrize("name", [b"mpx:", b"mpx:inbox:x", b"mpx:\xff"])
def test_refuse_reserved_names(name: bytes) -> None:
    """A user's name under the prefix is refused, also if it is not text."""
    with pytest.raises(exceptions.ReservedName, match="'mpx'"):
        Namespace("mpx").require_foreign(name)


@pytest.mark.parametrize("name", [b"", b"mpx", b"mpxx:inbox:x", b"other", b"xmpx:"])
def test_accept_foreign_names(name: bytes) -> None:
    """A name outside the prefix is fine, also if it begins with the same letters."""
    Namespace("mpx").require_foreign(name)


def test_topics_of_two_kinds_are_two() -> None:
    """A channel and a pattern of one name are different dictionary keys."""
    topics = {Topic(Kind.CHANNEL, b"a"): 1, Topic(Kind.PATTERN, b"a"): 2}
    assert topics[Topic(Kind("channel"), b"a")] == 1
    assert topics[Topic(Kind("pattern"), b"a")] == 2


@st.composite
def globs(draw: st.DrawFn) -> bytes:
    """Patterns that look like the reserved names, so that many of them match some."""
    part = st.one_of(
        st.sampled_from(
            [b"*", b"?", b"\\", b"[", b"]", b"[^", b"[m]", b"[a-z]", b"[z-a]", b"[^a]"]
        ),
        st.sampled_from([b"m", b"p", b"x", b":", b"mpx", b"mpx:", b"\\m", b"\\p", b"[\\m]", b"a"]),
        st.binary(min_size=1, max_size=2),
    )
    return b"".join(draw(st.lists(part, min_size=1, max_size=8)))


RESERVED = [b"mpx:", b"mpx:group:a", b"mpx:x", b"mpx::", b"mpx:inbox:0123456789abcdef", b"mpx:\xff"]


@settings(max_examples=2000)
@given(globs(), st.binary(max_size=3))
@example(b"*", b"")
@example(b"[m]px:*", b"")
@example(b"m\\px:[^a", b"")
def test_is_exposed_by_no_pattern_that_it_calls_harmless(pattern: bytes, rest: bytes) -> None:
    """It is never False for a pattern that matches a reserved name."""
    glob = translate_glob(pattern)
    if any(glob.fullmatch(name) for name in (*RESERVED, b"mpx:" + rest)):
        assert Namespace("mpx").is_exposed_by(pattern)


@pytest.mark.parametrize(
    ("pattern", "is_exposed"),
    [
        *((p, True) for p in (b"*", b"m*", b"mp?:*", b"mpx*", b"mpx:*", b"[m]px:*", b"\\mpx:*")),
        *((p, True) for p in (b"?px:x", b"[^a]*", b"*.x", b"mpx:group:[ab]", b"mpx:a", b"mp\\x:")),
        *((p, False) for p in (b"news.*", b"mq*", b"m:*", b"mpy:*", b"mpx", b"mpx-*", b"M*")),
        *((p, False) for p in (b"\\**", b"m\\*px:", b"\\[x]*", b"]*", b"mpx\\\\:*", b"\\q[m]")),
    ],
)
def test_is_exposed_by(pattern: bytes, is_exposed: bool) -> None:
    """What stands before the first special character decides; in doubt it may match."""
    assert Namespace("mpx").is_exposed_by(pattern) is is_exposed


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("my room", ", not 'my room'"),
        ("a:b\n", r", not 'a:b\n'"),
        ("x" * 120, f", not '{'x' * 100}'… (120 characters)"),
        (5, ", not int; are the arguments in the right order?"),
        ({"type": "s3cret"}, ", not dict; are the arguments in the right order?"),
        (None, ", not NoneType; are the arguments in the right order?"),
    ],
)
def test_say_which_name_is_bad(name: Any, end: str) -> None:
    """Channels' sentence has the name in it, escaped and bounded; of what is no name its type."""
    layer = MultiplexedChannelLayer(hosts=["memory://"])
    for check, kind in (
        (layer.require_valid_group_name, "Group"),
        (layer.require_valid_channel_name, "Channel"),
    ):
        with pytest.raises(TypeError) as caught:
            check(name)
        assert str(caught.value).startswith(f"{kind} name must be a valid unicode string")
        assert str(caught.value).endswith(end)
    assert layer.require_valid_group_name("room") is True
    assert layer.require_valid_channel_name("specific.a!b") is True
    with pytest.raises(TypeError, match="must end at the !, not 'a!b'"):
        layer.require_valid_channel_name("a!b", receive=True)
