"""Payloads that are no messages, and what must become of them."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from channels_mpx.envelope import Form
from channels_mpx.names import PROCESS_NAME_LENGTH

VALID = msgspec.msgpack.encode({"type": "valid", "text": "x" * 40, "list": [1, 2.5, None, b"\0"]})


class Fuzzer:
    """Makes payloads that are no messages of a group.

    Args:
        seed: For the choices.
    """

    def __init__(self, seed: str) -> None:
        self._dice = random.Random(seed)
        self._kinds = (
            self._noise,
            self._cut_header,
            self._other_version,
            self._other_form,
            self._cut_body,
            self._no_dict,
            self._noise_behind_a_header,
            self._huge_length,
            self._nested,
            self._encrypted,
        )

    def __iter__(self) -> Iterator[bytes]:
        while True:
            payload = self._dice.choice(self._kinds)()
            if not is_message(payload):
                yield payload

    def _bytes(self, most: int) -> bytes:
        return self._dice.randbytes(self._dice.randint(0, most))

    def _header(self, form: int = Form.GROUP, version: int = 1) -> bytes:
        return struct.pack(">BBQ", version, form, self._dice.randrange(2**64))

    def _noise(self) -> bytes:
        return self._bytes(200)

    def _cut_header(self) -> bytes:
        return self._header()[: self._dice.randrange(10)]

    def _other_version(self) -> bytes:
        return self._header(version=self._dice.choice([0, *range(2, 256)])) + VALID

    def _other_form(self) -> bytes:
        return self._header(self._dice.choice([0, *range(2, 256)])) + self._bytes(20) + VALID

    def _cut_body(self) -> bytes:
        return self._header() + VALID[: self._dice.randrange(len(VALID))]

    def _no_dict(self) -> bytes:
        values = [None, 7, "text", b"bytes", [1, 2], {1: 2}, {"a": {2: 3}}, {None: 1}]
        return self._header() + msgspec.msgpack.encode(self._dice.choice(values))

    def _noise_behind_a_header(self) -> bytes:
        return self._header() + self._bytes(200)

    def _huge_length(self) -> bytes:
        head = self._dice.choice([b"\xdb", b"\xc6", b"\xdd", b"\xdf", b"\xc9"])
        return self._header() + head + b"\xff\xff\xff\xff" + self._bytes(40)

    def _nested(self) -> bytes:
        depth = self._dice.choice([10, 1000, 100_000 if self._dice.random() < 0.01 else 100])
        return self._header() + self._dice.choice([b"\x91", b"\x81\xa1a"]) * depth

    def _encrypted(self) -> bytes:
        return self._header(Form.GROUP | 0x80) + self._bytes(100)


class InboxFuzzer(Fuzzer):
    """Makes payloads for a process's own channel: those of groups, and all forms that belong there.

    Args:
        seed: For the choices.
        local: The local part of a channel that is there.
    """

    def __init__(self, seed: str, local: bytes) -> None:
        super().__init__(seed)
        self._local = local
        self._kinds = (*self._kinds, *[self._any_form] * len(self._kinds))

    def __iter__(self) -> Iterator[bytes]:
        while True:
            payload = self._dice.choice(self._kinds)()
            if fate(payload, self._local) != "delivered":
                yield payload

    def _any_form(self) -> bytes:
        """Anything with a target and a return address that may be right or wrong."""
        flags = self._dice.choice(list(Form)) | self._dice.choice([0, 0x40, 0x80, 0xC0, 0x10, 0x20])
        target = self._dice.choice([self._local, b"77", b"", self._bytes(255)])
        process = self._dice.choice([b"0123456789abcdef", b"?"])
        address = self._dice.choice([b"%b!%d" % (process, self._dice.randrange(99)), b"", b"!1"])
        parts = [b"%c%b" % (len(part), part) for part in (target, address)]
        body = self._dice.choice([VALID, VALID[: self._dice.randrange(len(VALID))], b"\x91" * 99])
        whole = self._header(flags) + b"".join(parts[self._dice.randrange(3) :]) + body
        return whole[: self._dice.choice([len(whole), self._dice.randrange(len(whole))])]


#: A return address: a process and a number.
ADDRESS = re.compile(rb"[0-9a-v]{%d}![0-9]{1,20}" % PROCESS_NAME_LENGTH)


def fate(payload: bytes, local: bytes) -> str:
    """Tell by other means than the layer's what must become of a payload in an inbox.

    Returns:
        The name of the counter, ``delivered``, or ``ignored``.
    """
    if len(payload) < 10 or payload[0] != 1:
        return "malformed"
    flags, rest = payload[1], payload[10:]
    form, is_request = flags & 0x0F, bool(flags & 0x40)
    if flags & 0x30 or not 1 <= form <= 7 or (is_request and form not in (2, 3, 4)):
        return "malformed"
    parts = []
    for is_there in (form in (2, 6, 7), is_request):
        size = rest[0] if rest else 256
        if is_there and (len(rest) <= size or not size):
            return "malformed"
        parts.append(rest[1 : 1 + size] if is_there else b"")
        rest = rest[1 + size :] if is_there else rest
    if is_request and ADDRESS.fullmatch(parts[1]) is None:
        return "malformed"
    if form == 5:
        return "ignored"  # what a process sends to itself to see whether it hears
    if form in (6, 7):
        return "late"
    if form == 2 and parts[0] != local:
        return "unknown"
    is_body = not flags & 0x80 and is_message(b"\x01\x01" + bytes(8) + rest)
    return "delivered" if form == 2 and is_body else "malformed"


def is_message(payload: bytes) -> bool:
    """Tell by other means than the layer's whether a payload is a message of a group."""
    if len(payload) < 10 or payload[:2] != b"\x01\x01":
        return False
    try:
        body = msgspec.msgpack.decode(payload[10:])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, TypeError):
        return False
    return isinstance(body, dict) and has_text_keys(body)


def has_text_keys(value: Any) -> bool:
    """Tell whether the keys of all dicts in a value are strings."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and has_text_keys(value[key]) for key in value)
    return all(map(has_text_keys, value)) if isinstance(value, list) else True
