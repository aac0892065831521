"""Values on the wire: the envelope around every payload that the layer publishes.

    byte 0         version, always 1
    byte 1         low four bits: what it is (`Form`); bit 6: it carries a return address; bit 7:
                   the body is encrypted
    bytes 2-9      when it was sent, microseconds since 1970, big-endian
    with a target  one byte n, then n bytes. DIRECT: the local part of the channel's name;
                   REPLY, FAILURE: the token of the request
    with bit 6     one byte n, then n bytes: where a reply goes (`names.ReturnAddress`)
    the rest       the body (see `codec`)

Routing needs nothing but this header, so a body is decoded where it is consumed and never on the
reader; a request that finds nobody is returned without a look into it. Version, form and lengths
are checked here; what fails is a `DecodingError`, and the caller counts and drops it.
"""

from __future__ import annotations

import enum
import itertools
import struct
import time
from collections.abc import Iterator
from typing import Final

from . import exceptions
from .names import RETURN_ADDRESS

VERSION: Final = 1
REQUEST: Final = 0x40
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
    #: The answer to a request.
    REPLY = 6
    #: Why there is none.
    FAILURE = 7


#: Forms behind whose header stands a target.
_TARGETED = frozenset({Form.DIRECT, Form.REPLY, Form.FAILURE})

#: Forms to which a reply is possible.
_ANSWERABLE = frozenset({Form.DIRECT, Form.WORKER, Form.CONTROL})

Envelope = tuple[Form, bool, bytes, int, bytes]
"""A header: form, whether the body is encrypted, target, start of the body, return address."""

_Meaning = tuple[Form, bool, bool, bool, Envelope | None]


def _meanings() -> Iterator[tuple[bytes, _Meaning]]:
    for form, secrecy, request in itertools.product(Form, (0, ENCRYPTED), (0, REQUEST)):
        has_target = form in _TARGETED
        is_whole = not has_target and not request
        header = (form, bool(secrecy), b"", _HEADER_SIZE, b"") if is_whole else None
        if not request or form in _ANSWERABLE:
            beginning = bytes((VERSION, form | secrecy | request))
            yield beginning, (form, bool(secrecy), has_target, bool(request), header)


#: What the first two bytes mean: the form, whether the body is encrypted, whether a target and a
#: return address follow; and, if neither does, the header, which is the same for all of them.
_MEANINGS: dict[bytes, _Meaning] = dict(_meanings())


def wrap(form: int, body: bytes, encrypted: bool = False, target: bytes | None = None) -> bytes:
    """Put a body into an envelope.

    Args:
        form: What it is.
        body: The encoded message.
        encrypted: Whether ``body`` is encrypted.
        target: For DIRECT, REPLY and FAILURE: for whom, at most 255 bytes.
    """
    flags = form | ENCRYPTED if encrypted else form
    header = _HEADER.pack(VERSION, flags, time.time_ns() // 1000)
    if target is None:
        return header + body
    return b"%b%c%b%b" % (header, len(target), target, body)


def wrap_request(
    form: Form, body: bytes, encrypted: bool, target: bytes | None, address: bytes
) -> bytes:
    """Put a body into an envelope that says where the reply goes.

    Args:
        form: DIRECT, WORKER or CONTROL.
        body: The encoded message.
        encrypted: Whether ``body`` is encrypted.
        target: As in `wrap`.
        address: The return address.
    """
    return wrap(form | REQUEST, b"%c%b%b" % (len(address), address, body), encrypted, target)


def unwrap(payload: bytes) -> Envelope:
    """Read the header of a payload.

    Raises:
        DecodingError: It is too short, of another version, or of a form that does not exist.
    """
    meaning = _MEANINGS.get(payload[:2])
    if meaning is None or len(payload) < _HEADER_SIZE:
        raise exceptions.DecodingError(problem=_blame(payload))
    form, is_encrypted, has_target, is_request, header = meaning
    if header is not None:
        return header
    target, address, end = b"", b"", _HEADER_SIZE
    if has_target:
        start = end + 1
        end = start + payload[_HEADER_SIZE] if len(payload) >= start else start
        if len(payload) < end or end == start:
            raise exceptions.DecodingError(problem="whom it is for is cut off")
        target = payload[start:end]
    if is_request:
        start = end + 1
        end = start + payload[start - 1] if len(payload) >= start else start
        address = payload[start:end]
        if len(payload) < end or RETURN_ADDRESS.fullmatch(address) is None:
            raise exceptions.DecodingError(problem="its return address is none")
    return form, is_encrypted, target, end, address


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
