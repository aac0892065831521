"""Messages to bytes and back, and the check that what leaves arrives unchanged.

Channels' specification (Messages) allows byte strings, unicode strings, integers in the signed
64-bit range, floats, lists, dicts with unicode keys, booleans and None; tuples arrive as lists. A
value outside that is refused at the sender, by the path to it, instead of being turned silently
into something else (msgspec would write a UUID, a Decimal or a datetime as a string). Subclasses
of the allowed types, such as ``SafeString`` or a ``TextChoices`` member, travel as their base.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

from . import exceptions
from .names import REPLY_TO
from .serializers import SCALARS, JSONSerializer, Message, MsgPackSerializer, Serializer

__all__ = ["Body", "Codec"]

#: Levels of lists and dicts inside a message: any receiver can decode it, however deep its stack.
MAX_DEPTH = 64

_CONTAINERS = (dict, list)
_BASES: tuple[type[Any], ...] = (str, bytes, int, float)


class Codec:
    """Turns messages into bodies and back.

    Args:
        serializer: The class of the serializer.
        keys: Secrets; the first encrypts, all decrypt. Without any, bodies travel in the clear
            and encrypted ones are refused; with some, bodies in the clear are refused.

    Raises:
        ConfigurationError: Keys were given and ``cryptography`` is not installed.
    """

    def __init__(
        self, serializer: type[Serializer] = MsgPackSerializer, keys: Sequence[str | bytes] = ()
    ) -> None:
        self._serializer = serializer()
        self._checked = isinstance(self._serializer, (MsgPackSerializer, JSONSerializer))
        self._scalars: frozenset[type] = getattr(self._serializer, "scalars", frozenset())
        self._crypter = _make_crypter(keys) if keys else None
        self.encrypts = self._crypter is not None

    def encode(self, message: Message) -> bytes:
        """Return the body for a message.

        Raises:
            EncodingError: The message is not a dict or holds a value that has no wire form.
        """
        if not isinstance(message, dict):
            raise exceptions.EncodingError(
                path="the top", problem=f"a message is a dict, not {type(message).__name__}"
            )
        try:
            if self._checked and not self._is_flat(message):
                message = self._conform(message, "message", 0)
            data = self._serializer.serialize(message)
        except exceptions.EncodingError:
            raise
        except Exception as error:  # a user's serializer may raise anything
            self._blame(message)
            raise exceptions.EncodingError(path="message", problem=str(error)) from error
        return data if self._crypter is None else self._crypter.encrypt(data)

    def decode(self, data: bytes, encrypted: bool) -> Message:
        """Return the message in a body.

        Raises:
            DecodingError: It is not one, or the keys do not fit.
        """
        if encrypted is not self.encrypts:
            raise exceptions.DecodingError(
                problem="it is encrypted and no key is configured"
                if encrypted
                else "it is not encrypted and only encrypted messages are taken"
            )
        try:
            if self._crypter is not None:
                data = self._crypter.decrypt(data)
        except Exception as error:  # whatever cryptography makes of bytes that are not its own
            raise exceptions.DecodingError(problem="no key fits") from error
        try:
            message = self._serializer.deserialize(data)
        except Exception as error:  # a user's serializer may raise anything
            raise exceptions.DecodingError(problem=str(error) or type(error).__name__) from error
        if not isinstance(message, dict):
            raise exceptions.DecodingError(problem=f"a {type(message).__name__}, not a dict")
        if self._checked and not _is_plain(message):
            raise exceptions.DecodingError(problem="it holds values that no message may hold")
        return message

    def _is_flat(self, message: Message) -> bool:
        """Tell whether keys are strings and values of plain types, at the speed of C."""
        try:
            "".join(message)
        except TypeError:
            return False
        return self._scalars.issuperset(map(type, message.values()))

    def _conform(self, value: Any, path: str, depth: int) -> Any:
        """Return ``value`` in plain types only, or raise with the path to what has no form."""
        kind = type(value)
        if kind in self._scalars:
            return value
        if not isinstance(value, (dict, list, tuple)):
            return self._conform_scalar(value, path)
        if depth > MAX_DEPTH:
            raise exceptions.EncodingError(path=path, problem=f"nested over {MAX_DEPTH} levels")
        if isinstance(value, dict):
            return {
                self._conform_key(key, path): self._conform(item, f"{path}[{key!r}]", depth + 1)
                for key, item in value.items()
            }
        return [
            self._conform(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)
        ]

    def _conform_scalar(self, value: Any, path: str) -> Any:
        if isinstance(value, (bytearray, memoryview)):
            value = bytes(value)
        for base in _BASES:
            if isinstance(value, base):
                problem = self._serializer.problem(value)  # type: ignore[attr-defined]
                if problem is None:
                    # The base's own copy: a subclass may print itself quite differently.
                    return str.__str__(value) if isinstance(value, str) else base(value)
                raise exceptions.EncodingError(path=path, problem=problem)
        name = type(value).__qualname__
        raise exceptions.EncodingError(
            path=path, problem=f"{name} has no form on the wire; convert it, for example with str()"
        )

    @staticmethod
    def _conform_key(key: Any, path: str) -> str:
        if isinstance(key, str):
            return key if type(key) is str else str.__str__(key)
        raise exceptions.EncodingError(
            path=path, problem=f"the key {key!r} is {type(key).__name__}, keys are strings"
        )

    def _blame(self, value: Any, path: str = "message", depth: int = 0) -> None:
        """After a failure: raise for the innermost value that fails on its own, if there is one."""
        if depth > MAX_DEPTH:
            raise exceptions.EncodingError(path=path, problem=f"nested over {MAX_DEPTH} levels")
        if isinstance(value, dict):
            for key, item in value.items():
                self._blame(item, f"{path}[{key!r}]", depth + 1)
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                self._blame(item, f"{path}[{index}]", depth + 1)
        else:
            try:
                self._serializer.serialize({"": value})
            except Exception as error:  # a user's serializer may raise anything
                raise exceptions.EncodingError(path=path, problem=str(error)) from error


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Tell whether a decoded list or dict holds nothing but what the specification allows."""
    items = value.values() if type(value) is dict else value
    if SCALARS.issuperset(map(type, items)):
        return True
    if depth >= MAX_DEPTH:
        return False  # deeper than anybody of ours sends
    return all(
        type(item) in SCALARS or (type(item) in _CONTAINERS and _is_plain(item, depth + 1))
        for item in items
    )


def _make_crypter(keys: Sequence[str | bytes]) -> Any:
    """Return a MultiFernet; the keys are hashed as channels_redis does, so they stay valid."""
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise exceptions.ConfigurationError(
            problem="symmetric_encryption_keys needs cryptography: pip install channels_mpx[crypto]"
        ) from error
    raw = [key.encode() if isinstance(key, str) else key for key in keys]
    return MultiFernet(
        [Fernet(base64.urlsafe_b64encode(hashlib.sha256(key).digest())) for key in raw]
    )


class Body:
    """One message as it came, shared by the mailboxes of all that it is for.

    It is decoded when the first of them opens it. If all its values are scalars that happens
    once and the others get shallow copies; otherwise it is decoded for each, so that no consumer
    sees what another does with its message.

    Args:
        codec: Decodes it.
        payload: What arrived.
        start: Where the body begins in ``payload``.
        encrypted: Whether it is encrypted.
        arrived: When, in seconds of a monotonic clock; unread for too long, it expires.
        address: Of a request: where the reply goes.
    """

    __slots__ = (
        "_codec",
        "_encrypted",
        "_failure",
        "_flat",
        "_payload",
        "_start",
        "address",
        "arrived",
        "is_reported",
        "size",
    )

    def __init__(
        self,
        codec: Codec,
        payload: bytes,
        start: int,
        encrypted: bool,
        arrived: float,
        address: bytes = b"",
    ) -> None:
        self._codec = codec
        self._payload = payload
        self._start = start
        self._encrypted = encrypted
        self._flat: Message | None = None
        self._failure: str | None = None
        #: Whether somebody has been told that it cannot be opened.
        self.is_reported = False
        self.arrived = arrived
        self.address = address
        self.size = len(payload)

    @classmethod
    def made(cls, codec: Codec, message: Message, arrived: float) -> Body:
        """Return a body that was never on the wire; all values of ``message`` are scalars."""
        body = cls(codec, b"", 0, False, arrived)
        body._flat = message
        return body

    def open(self) -> Message:
        """Return the message, a dict of the caller's own; a request has an address in it.

        Raises:
            DecodingError: It is not one; it is so for every receiver.
        """
        payload = self._payload  # before the look at what another thread sets before it lets go
        if self._flat is not None:
            return self._flat.copy()
        if self._failure is not None:
            raise exceptions.DecodingError(problem=self._failure)
        try:
            message = self._codec.decode(payload[self._start :], self._encrypted)
        except exceptions.DecodingError as error:
            self._failure = error.problem
            raise
        if self.address:
            message[REPLY_TO] = self.address.decode()
        if SCALARS.issuperset(map(type, message.values())):
            self._flat = message
            self._payload = b""  # or it would take its memory twice while it waits for others
            return message.copy()
        return message
