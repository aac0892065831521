"""The body of a message from the reader to its consumers: decoded late, and once where that will do."""

from __future__ import annotations

from typing import Any, Final

from . import exceptions
from .codec import Codec
from .names import REPLY_TO
from .serializers import SCALARS, Message

__all__ = ["Body"]

#: Bytes of a body that may be copied rather than decoded again, and that each of its lists and
#: dicts has on average: to copy one takes as long as to decode some twenty numbers or words.
COPIED_FROM: Final = 2048
COPIED_SHARE: Final = 64

_are_scalars = SCALARS.issuperset


class Template:
    """A dict or list from which copies are made that share nothing that can be changed.

    Args:
        value: It; nobody else may have it.
    """

    __slots__ = ("_inner", "_leaves", "_value")

    def __init__(self, value: Any) -> None:
        self._value = value
        #: The dicts and lists in it, by key or index: those of scalars, and the others.
        self._leaves: list[tuple[Any, Any]] = []
        self._inner: list[tuple[Any, Template]] = []

    @classmethod
    def of(cls, value: Any, most: int) -> Template | None:
        """Return one for a value; None if it has more than ``most`` dicts and lists."""
        root = cls(value)
        waiting, made = [root], 1
        while waiting:
            template = waiting.pop()
            held = template._value
            for key, item in held.items() if type(held) is dict else enumerate(held):
                kind = type(item)
                if kind is not dict and kind is not list:
                    continue
                made += 1
                if made > most:
                    return None
                if _are_scalars(map(type, item.values() if kind is dict else item)):
                    template._leaves.append((key, item))
                else:
                    inner = cls(item)
                    template._inner.append((key, inner))
                    waiting.append(inner)
        return root

    def copy(self) -> Any:
        """Return a value of the caller's own."""
        copy = self._value.copy()
        for key, leaf in self._leaves:
            copy[key] = leaf.copy()
        for key, inner in self._inner:
            copy[key] = inner.copy()
        return copy


class Body:
    """One message as it came, shared by the mailboxes of all that it is for.

    It is decoded when the first of them opens it. If all its values are scalars that happens
    once and the others get shallow copies. Otherwise it is decrypted and checked once, and the
    others get what is cheaper: it is decoded for each, or, if it has few lists and dicts for its
    size, copied. So no consumer sees what another does with its message.

    Args:
        codec: Decodes it.
        payload: What arrived.
        start: Where the body begins in ``payload``.
        encrypted: Whether it is encrypted.
        arrived: When, in seconds of a monotonic clock; unread for too long, it expires.
        address: Of a request: where the reply goes.
        name: Where in Redis it was found; what is encrypted belongs there and nowhere else.
    """

    __slots__ = (
        "_codec",
        "_encrypted",
        "_failure",
        "_flat",
        "_is_opened_again",
        "_name",
        "_payload",
        "_plain",
        "_start",
        "_template",
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
        name: bytes = b"",
    ) -> None:
        self._codec = codec
        self._name = name
        self._payload = payload
        self._start = start
        self._encrypted = encrypted
        self._flat: Message | None = None
        self._failure: str | None = None
        #: In the clear, once it was opened and is not flat.
        self._plain: bytes | None = None
        #: What it is copied from; None if it is decoded again.
        self._template: Template | None = None
        self._is_opened_again = False
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
        if self._plain is not None:
            return self._open_again(self._plain)
        start, encrypted, codec = self._start, self._encrypted, self._codec
        data = payload[start:]
        try:
            if encrypted or codec.encrypts:
                data = codec.unseal(data, encrypted, self._name + payload[:start])
            message = codec.read(data)
        except exceptions.DecodingError as error:
            self._failure = error.problem
            raise
        if self.address:
            message[REPLY_TO] = self.address.decode()
        if SCALARS.issuperset(map(type, message.values())):
            self._flat = message
            self._payload = b""  # or it would take its memory twice while it waits for others
            return message.copy()
        self._plain = data
        self._payload = b""
        return message

    def _open_again(self, data: bytes) -> Message:
        """Return the message for one more receiver."""
        if self._template is not None:
            return self._template.copy()  # type: ignore[no-any-return]
        message = self._codec.read_again(data)
        if self.address:
            message[REPLY_TO] = self.address.decode()
        if not self._is_opened_again and len(data) >= COPIED_FROM and self._codec.is_plain:
            self._is_opened_again = True
            template = Template.of(message, len(data) // COPIED_SHARE)
            if template is not None:
                self._template = template
                return template.copy()  # type: ignore[no-any-return]
        return message
