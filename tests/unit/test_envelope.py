"""Envelopes: what was put in comes out, and nothing else than an envelope is taken for one."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_mpx import envelope, exceptions
from channels_mpx.envelope import Form, sent_at, unwrap, wrap, wrap_request

TARGETED = (Form.DIRECT, Form.REPLY, Form.FAILURE)
ADDRESS = b"0123456789abcdev!42"

FORMS = st.sampled_from([form for form in Form if form not in TARGETED])
TARGETS = st.binary(min_size=1, max_size=255)
BODIES = st.binary(max_size=40)
ADDRESSES = st.from_regex(r"[0-9a-v]{16}![0-9]{1,20}", fullmatch=True).map(str.encode)
PAYLOADS = (
    st.builds(wrap, FORMS, BODIES, st.booleans())
    | st.builds(wrap, st.sampled_from(TARGETED), BODIES, st.booleans(), TARGETS)
    | st.builds(wrap_request, st.just(Form.DIRECT), BODIES, st.booleans(), TARGETS, ADDRESSES)
    | st.builds(wrap_request, st.just(Form.WORKER), BODIES, st.booleans(), st.none(), ADDRESSES)
)


@given(FORMS, st.binary(), st.booleans())
def test_unwrap_what_was_wrapped(form: Form, body: bytes, encrypted: bool) -> None:
    """Form, flag and body come back; there is neither target nor return address."""
    payload = wrap(form, body, encrypted)
    *header, start, address = unwrap(payload)
    assert header == [form, encrypted, b""]
    assert address == b""
    assert payload[start:] == body


@given(st.sampled_from(TARGETED), TARGETS, st.binary(), st.booleans())
def test_unwrap_an_envelope_with_a_target(
    form: Form, target: bytes, body: bytes, encrypted: bool
) -> None:
    """The target comes back as well, and is no part of the body."""
    payload = wrap(form, body, encrypted, target)
    *header, start, address = unwrap(payload)
    assert header == [form, encrypted, target]
    assert address == b""
    assert payload[start:] == body


@given(ADDRESSES, TARGETS, st.binary(), st.booleans())
def test_unwrap_a_request(address: bytes, target: bytes, body: bytes, encrypted: bool) -> None:
    """So does the return address, with and without a target before it."""
    payload = wrap_request(Form.DIRECT, body, encrypted, target, address)
    start = unwrap(payload)[3]
    assert unwrap(payload) == (Form.DIRECT, encrypted, target, start, address)
    assert payload[start:] == body
    for form in (Form.WORKER, Form.CONTROL):
        payload = wrap_request(form, body, encrypted, None, address)
        start = unwrap(payload)[3]
        assert unwrap(payload) == (form, encrypted, b"", start, address)
        assert payload[start:] == body


def test_stamp_the_time_of_sending() -> None:
    """``sent_at`` is the sender's clock, to the microsecond."""
    before = time.time_ns() // 1000
    stamp = sent_at(wrap(Form.GROUP, b""))
    assert before <= round(stamp * 1e6) <= time.time_ns() // 1000


def test_lay_out_the_header_as_documented() -> None:
    """Version, flags, eight bytes of time, length and target, body."""
    payload = wrap(Form.DIRECT, b"body", True, b"12")
    stamp = payload[2:10]
    assert payload == b"\x01\x82" + stamp + b"\x0212body"
    assert unwrap(payload) == (Form.DIRECT, True, b"12", 13, b"")
    assert sent_at(payload) == struct.unpack(">Q", stamp)[0] / 1e6


def test_lay_out_a_request_as_documented() -> None:
    """The return address stands behind the target, with its length before it."""
    payload = wrap_request(Form.DIRECT, b"body", False, b"12", ADDRESS)
    assert payload == b"\x01\x42" + payload[2:10] + b"\x0212" + b"\x13" + ADDRESS + b"body"
    payload = wrap_request(Form.WORKER, b"body", True, None, ADDRESS)
    assert payload == b"\x01\xc3" + payload[2:10] + b"\x13" + ADDRESS + b"body"


def test_refuse_to_wrap_a_long_target() -> None:
    """A target of more than 255 bytes is the sender's error."""
    with pytest.raises(OverflowError):
        wrap(Form.DIRECT, b"", target=b"x" * 256)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"", "only 0 bytes"),
        (b"\x01\x01" + bytes(7), "only 9 bytes"),
        (b"\x00\x01" + bytes(8), "version 0, this process speaks 1"),
        (b"\x02\x01" + bytes(8), "version 2"),
        (b"\x01\x00" + bytes(8), "unknown flags 0x00"),
        (b"\x01\x08" + bytes(8), "unknown flags 0x08"),
        (b"\x01\x11" + bytes(8), "unknown flags 0x11"),
        (b"\x01\xc1" + bytes(8), "unknown flags 0xc1"),
        (b"\x01\x02" + bytes(8), "cut off"),
        (b"\x01\x02" + bytes(8) + b"\x00body", "cut off"),
        (b"\x01\x02" + bytes(8) + b"\x02x", "cut off"),
        (b"\x01\x06" + bytes(8) + b"\x02x", "cut off"),
        (b"\x01\x41" + bytes(8) + b"\x13" + ADDRESS, "unknown flags 0x41"),
        (b"\x01\x46" + bytes(8) + b"\x011\x13" + ADDRESS, "unknown flags 0x46"),
        (b"\x01\x43" + bytes(8), "return address"),
        (b"\x01\x43" + bytes(8) + b"\x13" + ADDRESS[:-1], "return address"),
        (b"\x01\x43" + bytes(8) + b"\x14" + ADDRESS + b"x", "return address"),
        (b"\x01\x43" + bytes(8) + b"\x13" + ADDRESS.upper(), "return address"),
        (b"\x01\x42" + bytes(8) + b"\x011", "return address"),
        (b"\x01\x42" + bytes(8) + b"\xff1\x13" + ADDRESS, "cut off"),
    ],
)
def test_refuse_what_is_no_envelope(payload: bytes, problem: str) -> None:
    """The error says what is wrong with the header."""
    with pytest.raises(exceptions.DecodingError, match=problem):
        unwrap(payload)


def assert_read_or_refused(payload: bytes) -> None:
    """Either the header is sound, or the error is a DecodingError."""
    try:
        form, encrypted, target, start, address = unwrap(payload)
    except exceptions.DecodingError:
        return
    flags = envelope.ENCRYPTED * encrypted | envelope.REQUEST * bool(address)
    assert payload[:2] == bytes((envelope.VERSION, form | flags))
    assert bool(target) == (form in TARGETED)
    tail = b"%c%b" % (len(target), target) if target else b""
    tail += b"%c%b" % (len(address), address) if address else b""
    assert payload[10:start] == tail
    assert start <= len(payload)


@given(
    st.binary(max_size=300)
    | st.binary(max_size=300).map(b"\x01\x02".__add__)
    | st.binary(max_size=300).map(b"\x01\x42".__add__)
)
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
