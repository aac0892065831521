"""What layers under test have sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from channels_mpx.names import parse_direct
from channels_mpx.serializers import Message

__all__ = ["Outbox", "Sent"]


@dataclass(frozen=True)
class Sent:
    """One message or request that a layer sent.

    Attributes:
        kind: ``group``, ``direct`` or ``worker``; ``plain`` for what a multiplexer published.
        name: The group or the channel; of a direct channel the part behind the ``!``.
        message: What was sent; bytes, if the kind is ``plain``.
        process: Of a direct channel the process that it belongs to; not compared.
    """

    kind: str
    name: str
    message: Any
    process: str = field(default="", compare=False)


class Outbox(list[Sent]):
    """All that was sent through a broker, in order, whether it has arrived or not."""

    def to_group(self, group: str) -> list[Message]:
        """Return the messages for a group, in the order in which they were sent."""
        return [sent.message for sent in self if (sent.kind, sent.name) == ("group", group)]

    def published(self, name: str) -> list[bytes]:
        """Return the plain messages published under a name, in the order of publishing."""
        return [sent.message for sent in self if (sent.kind, sent.name) == ("plain", name)]

    def to_channel(self, channel: str) -> list[Message]:
        """Return the messages for a channel, direct or worker, in the order of sending."""
        address = parse_direct(channel)
        wanted = ("worker", channel, "")
        if address is not None:
            wanted = ("direct", address.local.decode(), address.process)
        return [sent.message for sent in self if (sent.kind, sent.name, sent.process) == wanted]
