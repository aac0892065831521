"""What passes through Redis, as an operator wants to see it: decoded if it is the layer's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from channels_mpx import envelope
from channels_mpx.codec import Codec
from channels_mpx.envelope import Form
from channels_mpx.exceptions import DecodingError
from channels_mpx.names import Namespace

from .formats import message_text, payload_text, readable

__all__ = ["Arrival", "Sighting", "look_at"]


@dataclass(frozen=True)
class Arrival:
    """A message as it came: when, in seconds since 1970, on which Redis channel, and its bytes."""

    time: float
    channel: bytes
    payload: bytes


@dataclass(frozen=True)
class Sighting:
    """A message, understood as far as it can be.

    Attributes:
        kind: ``plain``, or if it is the layer's own its form in small letters, such as ``group``
            or ``direct``, or ``bell``.
        name: The group; the process, ``!`` and the consumer's part; the worker channel; else the
            Redis channel.
        lag: Seconds since it was sent, by two machines' clocks; None if it does not tell.
        size: Bytes of the payload.
        message: The message in it, if there is one.
        problem: Why it cannot be decoded, if so.
        payload: What came.
    """

    kind: str
    name: str
    lag: float | None
    size: int
    message: dict[str, Any] | None
    problem: str | None
    payload: bytes

    def text(self) -> str:
        """Return the content in one line, with nothing in it that a terminal would obey."""
        if self.problem is not None:
            return f"undecodable: {readable(self.problem)}: {payload_text(self.payload)}"
        if self.message is not None:
            return message_text(self.message)
        return payload_text(self.payload) if self.kind == "plain" else f"({self.kind})"

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        found: dict[str, Any] = {
            "kind": self.kind,
            "name": self.name,
            "lag": self.lag,
            "size": self.size,
        }
        if self.message is not None:
            found["message"] = self.message
        if self.problem is not None:
            found["problem"] = self.problem
        if self.problem is not None or self.kind == "plain":
            try:
                found["payload"] = self.payload.decode()
            except UnicodeDecodeError:
                found["payload"] = self.payload
        return found


def look_at(arrival: Arrival, names: Namespace, codec: Codec) -> Sighting:
    """Return what a message is. Never raises, whatever it is."""
    channel, payload = arrival.channel, arrival.payload
    if not names.covers(channel):
        return Sighting("plain", readable(channel), None, len(payload), None, None, payload)
    place, _, name = readable(channel).partition(":")[2].partition(":")
    if place == "bell":
        return Sighting("bell", name, None, len(payload), None, None, payload)
    kind, lag, message, problem = place, None, None, None
    try:
        form, is_encrypted, target, start, _ = envelope.unwrap(payload)
        kind = form.name.lower()
        lag = round(arrival.time - envelope.sent_at(payload), 6)
        if target:
            name = f"{name}!{readable(target)}"
        if form is not Form.PROBE:
            message = codec.decode(payload[start:], is_encrypted, channel + payload[:start])
    except DecodingError as error:
        problem = error.problem
    return Sighting(kind, name, lag, len(payload), message, problem, payload)
