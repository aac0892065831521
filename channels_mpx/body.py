"""The body of a message from the reader to its consumers: decoded late, and once where that will do."""

from __future__ import annotations

from . import exceptions
from .codec import Codec
from .names import REPLY_TO
from .serializers import SCALARS, Message

__all__ = ["Body"]


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
        name: Where in Redis it was found; what is encrypted belongs there and nowhere else.
    """

    __slots__ = (
        "_codec",
        "_encrypted",
        "_failure",
        "_flat",
        "_name",
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
        name: bytes = b"",
    ) -> None:
        self._codec = codec
        self._name = name
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
        start, encrypted = self._start, self._encrypted
        place = self._name + payload[:start] if encrypted else b""
        try:
            message = self._codec.decode(payload[start:], encrypted, place)
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
