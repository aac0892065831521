"""Envelopes: what was put in comes out, and nothing else than an envelope is taken for one."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_mpx import envelope, exceptions
from channels_mpx.envelope import Form, sent_at, unwrap, wrap

FORMS = st.sampled_from([form for form in Form if form is not Form.DIRECT])
LOCALS = st.binary(min_size=1, max_size=255)
PAYLOADS = st.builds(wrap, FORMS, st.binary(max_size=40), st.booleans()) | st.builds(
    wrap, st.just(Form.DIRECT), st.binary(max_size=40), st.booleans(), LOCALS
)


@given(FORMS, st.binary(), st.booleans())
def test_unwrap_what_was_wrapped(form: Form, body: bytes, encrypted: bool) -> None:
    """Form, flag and body come back; there is no local part."""
    payload = wrap(form, body, encrypted)
    *header, start = unwrap(payload)
    assert header == [form, encrypted, b""]
    assert payload[start:] == body


@given(LOCALS, st.binary(), st.booleans())
def test_unwrap_a_direct_envelope(local: bytes, body: bytes, encrypted: bool) -> None:
    """The local part comes back as well, and is no part of the body."""
    payload = wrap(Form.DIRECT, body, encrypted, local)
    *header, start = unwrap(payload)
    assert header == [Form.DIRECT, encrypted, local]
    assert payload[start:] == body


def test_stamp_the_time_of_sending() -> None:
    """``sent_at`` is the sender's clock, to the microsecond."""
    before = time.time_ns() // 1000
    stamp = sent_at(wrap(Form.GROUP, b""))
    assert before <= round(stamp * 1e6) <= time.time_ns() // 1000


def test_lay_out_the_header_as_documented() -> None:
    """Version, flags, eight bytes of time, length and local part, body."""
    payload = wrap(Form.DIRECT, b"body", True, b"12")
    stamp = payload[2:10]
    assert payload == b"\x01\x82" + stamp + b"\x0212body"
    assert unwrap(payload) == (Form.DIRECT, True, b"12", 13)
    assert sent_at(payload) == struct.unpack(">Q", stamp)[0] / 1e6


def test_refuse_to_wrap_a_long_local_part() -> None:
    """A local part of more than 255 bytes is the sender's error."""
    with pytest.raises(OverflowError):
        wrap(Form.DIRECT, b"", local=b"x" * 256)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"", "only 0 bytes"),
        (b"\x01\x01" + bytes(7), "only 9 bytes"),
        (b"\x00\x01" + bytes(8), "version 0, this process speaks 1"),
        (b"\x02\x01" + bytes(8), "version 2"),
        (b"\x01\x00" + bytes(8), "unknown flags 0x00"),
        (b"\x01\x06" + bytes(8), "unknown flags 0x06"),
        (b"\x01\x11" + bytes(8), "unknown flags 0x11"),
        (b"\x01\xc1" + bytes(8), "unknown flags 0xc1"),
        (b"\x01\x02" + bytes(8), "cut off"),
        (b"\x01\x02" + bytes(8) + b"\x00body", "cut off"),
        (b"\x01\x02" + bytes(8) + b"\x02x", "cut off"),
    ],
)
def test_refuse_what_is_no_envelope(payload: bytes, problem: str) -> None:
    """The error says what is wrong with the header."""
    with pytest.raises(exceptions.DecodingError, match=problem):
        unwrap(payload)


def assert_read_or_refused(payload: bytes) -> None:
    """Either the header is sound, or the error is a DecodingError."""
    try:
        form, encrypted, local, start = unwrap(payload)
    except exceptions.DecodingError:
        return
    assert payload[:2] == bytes((envelope.VERSION, form | envelope.ENCRYPTED * encrypted))
    assert bool(local) == (form is Form.DIRECT)
    assert payload[start - len(local) : start] == local
    assert start <= len(payload)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(b"\x01\x02".__add__))
def test_unwrap_random_bytes(payload: bytes) -> None:
    """Random bytes are read or refused, never anything else."""
    assert_read_or_refused(payload)


@given(PAYLOADS, st.data())
def test_unwrap_damaged_envelopes(payload: bytes, data: st.DataObject) -> None:
    """So are envelopes with bits flipped, cut anywhere."""
    at = data.draw(st.integers(0, len(payload) - 1))
    damaged = bytearray(payload)
    damaged[at] ^= data.draw(st.integers(0, 255))
    assert_read_or_refused(bytes(damaged)[: data.draw(st.integers(0, len(payload)))])
