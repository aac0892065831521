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
from typing import Final, NamedTuple

from . import exceptions

VERSION: Final = 1
ENCRYPTED: Final = 0x80

_FORM_MASK = 0x0F
_HEADER = struct.Struct(">BBQ")
_HEADER_SIZE = _HEADER.size


class Form(enum.IntEnum):
    """What an envelope is."""

    GROUP = 1
    DIRECT = 2
    WORKER = 3
    CONTROL = 4
    PROBE = 5


_FORMS = {int(form): form for form in Form}


class Envelope(NamedTuple):
    """A payload whose header was read.

    Attributes:
        form: What it is.
        encrypted: Whether the body must be decrypted first.
        sent_at: Seconds since 1970 on the sender's clock.
        local: The local part of the addressed channel, empty unless ``form`` is DIRECT.
        body: Where the body begins in the payload.
    """

    form: Form
    encrypted: bool
    sent_at: float
    local: bytes
    body: int


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
    try:
        version, flags, stamp = _HEADER.unpack_from(payload)
    except struct.error as error:
        raise exceptions.DecodingError(problem=f"only {len(payload)} bytes") from error
    if version != VERSION:
        raise exceptions.DecodingError(problem=f"version {version}, this process speaks {VERSION}")
    form = _FORMS.get(flags & _FORM_MASK)
    if form is None or flags & ~(_FORM_MASK | ENCRYPTED):
        raise exceptions.DecodingError(problem=f"unknown flags {flags:#04x}")
    if form is not Form.DIRECT:
        return Envelope(form, flags >= ENCRYPTED, stamp / 1e6, b"", _HEADER_SIZE)
    start = _HEADER_SIZE + 1
    end = start + payload[_HEADER_SIZE] if len(payload) >= start else start
    if len(payload) < end or end == start:
        raise exceptions.DecodingError(problem="the channel's local part is cut off")
    return Envelope(form, flags >= ENCRYPTED, stamp / 1e6, payload[start:end], end)
