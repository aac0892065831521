"""The server behind a layer, for those who run it: commands from code without an event loop.

The management commands and the system checks look at Redis through this module and nothing else.
It uses the layer's own connection, so that what they see is what the layer sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from . import exceptions
from .couriers import require_no_loop
from .frames import Subscriber
from .hub import Hub
from .layer import MultiplexedChannelLayer
from .names import Topic
from .serializers import Message
from .wire import Command

__all__ = ["Server", "hub_of"]

T = TypeVar("T")

#: Keys that one SCAN looks at, and names that one command holds.
BATCH = 1000


def hub_of(layer: MultiplexedChannelLayer) -> Hub:
    """Return the connection of a layer; the one place that knows where a layer keeps it."""
    return layer._hub


class Server:
    """The Redis server of a layer. Everything here blocks until Redis has answered.

    Args:
        layer: Whose connection is used. It is made if there is none, and stays as it is.

    Raises (every method that asks):
        LinkError: Redis does not do its part within the layer's ``timeout``.
        SyncCallFromAsync: This thread runs an event loop.
    """

    def __init__(self, layer: MultiplexedChannelLayer) -> None:
        self.layer = layer
        self.hub = hub_of(layer)
        self._preparation = layer._preparation
        self.names = self.hub.names

    def __repr__(self) -> str:
        return f"<Server {self.address}>"

    @property
    def address(self) -> str:
        """Where it is; never a password."""
        return self.hub.address

    @property
    def is_memory(self) -> bool:
        """Whether there is no server: the layer stays within this process."""
        return self.layer.options.hosts.memory is not None

    def reach(self, patience: float, *command: bytes) -> Any:
        """Send a first command, and return the reply if it comes soon.

        Args:
            patience: Seconds to wait for that; the layer's own ``timeout`` if that is less.
            command: PING unless it is given.

        Raises:
            CommandRefused: Redis's own error.
            LinkRefused: The server does not accept us.
            LinkUnavailable: It has not answered in time; says why.
        """
        patience = min(patience, self.layer.options.timeout)
        return self.call(self._reach, patience, command or (b"PING",))

    async def _reach(self, patience: float, command: Command) -> Any:
        try:
            return await asyncio.wait_for(self.hub.command(*command), patience)
        except exceptions.LinkError:
            raise
        except asyncio.TimeoutError as error:
            reason = self.hub.statistics().last_error or "it does not answer"
            raise exceptions.LinkUnavailable(
                address=self.address, seconds=patience, reason=reason
            ) from error

    def call(self, verb: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call a verb where the connection lives, and return what it returns."""
        require_no_loop(getattr(verb, "__name__", "call").lstrip("_"))
        return self.hub.call_sync(verb, *args)

    def ask(self, *command: bytes | int) -> Any:
        """Send a command; return Redis's reply.

        Raises:
            CommandRefused: Redis's own error.
        """
        return self.call(self.hub.command, *command)

    def ask_each(self, commands: Iterable[Command]) -> list[Any]:
        """Send commands together; return the replies in order, with `CommandRefused` among them."""
        return self.call(self._ask_each, tuple(commands))

    async def _ask_each(self, commands: Sequence[Command]) -> list[Any]:
        futures = [self.hub.command(*command) for command in commands]
        replies = await asyncio.gather(*futures, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException) and not isinstance(
                reply, exceptions.CommandRefused
            ):
                raise reply
        return replies

    def numsub(self, channels: Sequence[bytes]) -> dict[bytes, int]:
        """Return how many connections are subscribed to each channel, without patterns.

        Raises:
            CommandRefused: Redis's own error.
        """
        counts: dict[bytes, int] = {}
        for start in range(0, len(channels), BATCH):
            flat = self.ask(b"PUBSUB", b"NUMSUB", *channels[start : start + BATCH])
            counts.update(zip(flat[::2], flat[1::2], strict=True))
        return counts

    def queues(self) -> list[bytes]:
        """Return the keys of the worker queues under the prefix, sorted, each once.

        SCAN looks at every key of the database, in batches between which others get their turn.

        Raises:
            CommandRefused: Redis's own error.
        """
        keys: set[bytes] = set()
        pattern, cursor = self.names.queues_pattern(), b"0"
        while True:
            cursor, found = self.ask(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", BATCH)
            keys.update(found)
            if cursor == b"0":
                return sorted(keys)

    def lengths(self, keys: Sequence[bytes]) -> list[int | None]:
        """Return how many entries each queue has; None for a key that holds no queue.

        Raises:
            CommandRefused: Redis's own error, but for a key of another type.
        """
        lengths: list[int | None] = []
        for start in range(0, len(keys), BATCH):
            replies = self.ask_each((b"LLEN", key) for key in keys[start : start + BATCH])
            lengths.extend(map(_length, replies))
        return lengths

    def join(self, topics: Sequence[Topic], subscriber: Subscriber) -> None:
        """Subscribe, and return when Redis has confirmed all of it.

        Raises:
            CommandRefused: Redis does not allow one of them. Nothing stays subscribed.
        """
        try:
            self.call(self._join, topics, subscriber)
        except BaseException:  # an interrupt too: nobody listens from here on
            self.leave(subscriber)
            raise

    async def _join(self, topics: Sequence[Topic], subscriber: Subscriber) -> None:
        await asyncio.gather(*(self.hub.join(topic, subscriber) for topic in topics))

    def leave(self, subscriber: Subscriber) -> None:
        """Withdraw everything that a subscriber wants. Nothing is awaited."""
        self.hub.tell(self.hub.leave_all, subscriber)

    def group_channel(self, group: str) -> bytes:
        """Return the Redis channel of a group.

        Raises:
            TypeError: Channels does not allow the name.
        """
        return self._preparation.find_group(group)

    def queue_key(self, channel: str) -> bytes:
        """Return the key of a worker channel's queue.

        Raises:
            TypeError: Channels does not allow the name.
        """
        self._preparation.find_address(channel)
        return self.names.queue(channel)

    def send_to_group(self, group: str, message: Message) -> int:
        """Do what ``group_send`` does; return how many processes Redis gave the message to."""
        verb, args = self._preparation.group_send(group, message)
        receivers: int = self.call(verb, *args)
        return receivers

    def send(self, channel: str, message: Message) -> int | None:
        """Do what ``send`` does; return what `send_to_group` does, None for a worker channel."""
        verb, args = self._preparation.send(channel, message)
        receivers: int | None = self.call(verb, *args)
        return receivers

    def close(self) -> None:
        """Close the layer's connection."""
        self.hub.close()


def _length(reply: int | exceptions.CommandRefused) -> int | None:
    if not isinstance(reply, exceptions.CommandRefused):
        return reply
    if reply.code == "WRONGTYPE":
        return None
    raise reply
