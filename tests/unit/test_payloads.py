"""Payloads of each form, and bytes that are of none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_mpx import ConfigurationError, DecodingError
from channels_mpx.consumers.payloads import decoder

#: Pieces of JSON and of MessagePack, so that much of what they make is almost right.
PIECES = [
    *(b"{", b"}", b"[", b"]", b'"', b":", b",", b"1", b"e9999", b"\\ud800", b"null", b"\xff"),
    *(b"\x81", b"\x91", b"\xc0", b"\xd4\x05\x00", b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff"),
    *(b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xa1a", b"\x80", b"\x90"),
]


@pytest.mark.parametrize(
    ("form", "payload", "value"),
    [
        ("bytes", b"", b""),
        ("bytes", b"\xff\x00", b"\xff\x00"),
        ("text", b"", ""),
        ("text", "\u00fc\U0001f600".encode(), "\u00fc\U0001f600"),
        (
            "json",
            b' {"a": [1, 2.5, null, true, "\xc3\xbc"]} ',
            {"a": [1, 2.5, None, True, "\u00fc"]},
        ),
        ("json", b"null", None),
        ("msgpack", b"\x82\xa1a\x92\x01\xc0\x01\xc4\x01\xff", {"a": [1, None], 1: b"\xff"}),
        ("msgpack", b"\xc0", None),
    ],
)
def test_decodes(form: str, payload: bytes, value: Any) -> None:
    """Handlers get Python's own values."""
    assert decoder(form)(payload) == value


def test_bytes_are_not_copied() -> None:
    """They are what came."""
    payload = b"x" * 100
    assert decoder("bytes")(payload) is payload


@pytest.mark.parametrize(
    ("form", "payload"),
    [
        ("text", b"\xff"),
        ("text", b"\xed\xa0\x80"),
        ("json", b""),
        ("json", b"{"),
        ("json", b"NaN"),
        ("json", b"1 2"),
        ("json", b'"\xff"'),
        ("json", b"9" * 5000),
        ("json", b"[" * 100_000),
        ("msgpack", b""),
        ("msgpack", b"\xc1"),
        ("msgpack", b"\x01\x01"),
        ("msgpack", b"\x81\x80\x01"),
        ("msgpack", b"\x91" * 100_000),
        ("msgpack", b"\xd6\xff"),
    ],
)
def test_what_does_not_decode(form: str, payload: bytes) -> None:
    """One error for all of it, which names the form, says why, and does not quote the payload."""
    with pytest.raises(DecodingError, match=f"the payload is not '{form}': .") as caught:
        decoder(form)(payload)
    assert caught.value.__cause__ is not None
    assert len(str(caught.value)) < 200


@given(st.sampled_from(["text", "json", "msgpack"]), st.data())
def test_nothing_else_is_raised(form: str, data: st.DataObject) -> None:
    """Whatever comes is a value, or a `DecodingError`."""
    pieces = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)
    payload = data.draw(st.binary(max_size=50) | pieces)
    try:
        decoder(form)(payload)
    except DecodingError:
        pass


@pytest.mark.parametrize("form", ["", "xml", "JSON", None, b"json", 1, ["json"], bytes])
def test_unknown_forms(form: object) -> None:
    """They are refused by the name that the user gave, with those that there are."""
    with pytest.raises(ConfigurationError) as caught:
        decoder(form, "payload of Chat")
    assert str(caught.value).endswith(
        f"payload of Chat must be one of 'bytes', 'text', 'json', 'msgpack', not {form!r}"
    )
