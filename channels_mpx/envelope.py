"""Values on the wire: the envelope around every payload that the layer publishes.

    byte 0       version, always 1
    byte 1       low four bits: what it is (`Form`); bit 7: the body is encrypted
    bytes 2-9    when it was sent, microseconds since 1970, big-endian
    DIRECT only  one byte n, then n bytes: the local part of the channel's name
    the rest     the body (see `codec`)

Routing needs nothing but this header, so a body is decoded where it is consumed and never on the
reader. Version, form and lengths are checked here; what fails is a `DecodingError`, and the
caller counts and drops it.
"""

from __future__ import annotations

import enum
import struct
import time
from typing import Final

from . import exceptions

VERSION: Final = 1
ENCRYPTED: Final = 0x80

_HEADER = struct.Struct(">BBQ")
_HEADER_SIZE = _HEADER.size


class Form(enum.IntEnum):
    """What an envelope is."""

    GROUP = 1
    DIRECT = 2
    WORKER = 3
    CONTROL = 4
    PROBE = 5


#: What the first two bytes mean: the form, and whether the body is encrypted.
_MEANINGS = {
    bytes((VERSION, form | flag)): (form, bool(flag)) for form in Form for flag in (0, ENCRYPTED)
}

Envelope = tuple[Form, bool, bytes, int]
"""A header: form, whether the body is encrypted, local part of the channel, start of the body."""


def wrap(form: Form, body: bytes, encrypted: bool = False, local: bytes | None = None) -> bytes:
    """Put a body into an envelope.

    Args:
        form: What it is.
        body: The encoded message.
        encrypted: Whether ``body`` is encrypted.
        local: For DIRECT: the local part of the channel, at most 255 bytes.
    """
    flags = form | ENCRYPTED if encrypted else form
    header = _HEADER.pack(VERSION, flags, time.time_ns() // 1000)
    if local is None:
        return header + body
    return b"%b%c%b%b" % (header, len(local), local, body)


def unwrap(payload: bytes) -> Envelope:
    """Read the header of a payload.

    Raises:
        DecodingError: It is too short, of another version, or of a form that does not exist.
    """
    meaning = _MEANINGS.get(payload[:2])
    if meaning is None or len(payload) < _HEADER_SIZE:
        raise exceptions.DecodingError(problem=_blame(payload))
    form, is_encrypted = meaning
    if form is not Form.DIRECT:
        return form, is_encrypted, b"", _HEADER_SIZE
    start = _HEADER_SIZE + 1
    end = start + payload[_HEADER_SIZE] if len(payload) >= start else start
    if len(payload) < end or end == start:
        raise exceptions.DecodingError(problem="the channel's local part is cut off")
    return form, is_encrypted, payload[start:end], end


def sent_at(payload: bytes) -> float:
    """Return when a payload was wrapped, in seconds since 1970 on the sender's clock."""
    stamp: int = _HEADER.unpack_from(payload)[2]
    return stamp / 1e6


def _blame(payload: bytes) -> str:
    if len(payload) < _HEADER_SIZE:
        return f"only {len(payload)} bytes"
    if payload[0] != VERSION:
        return f"version {payload[0]}, this process speaks {VERSION}"
    return f"unknown flags {payload[1]:#04x}"
