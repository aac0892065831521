"""One RESP3 connection, from the end of its handshake to its loss.

Commands and pushes share the connection, the commands of one loop turn leave in one write, and
replies are matched to them in order.

What keeps the order exact: a command has one reply, and SUBSCRIBE has either one push for each
name or, if any name is refused, a single error. Redis carries commands out in the order they
came, so when the first push of a SUBSCRIBE or its error arrives, every earlier reply has.

A link is never repaired. It ends once, with a reason, and tells its receiver so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis

from . import exceptions
from .names import Kind, Topic
from .packing import describe, pack
from .scripts import Script
from .wire import PASSING, Argument, Command, Loss, Pending, Receiver, size_of

__all__ = ["RedisLink"]

#: Messages that the reader hands out before the loop's other work gets its turn. It is below the
#: default capacity of a mailbox, so a burst does not overflow a consumer that keeps up.
SLICE = 64

#: Bytes of commands that may wait while Redis does not read.
MAX_BACKLOG = 64 * 2**20

_SUBSCRIBE = {Kind.CHANNEL: b"SUBSCRIBE", Kind.PATTERN: b"PSUBSCRIBE"}
_UNSUBSCRIBE = {Kind.CHANNEL: b"UNSUBSCRIBE", Kind.PATTERN: b"PUNSUBSCRIBE"}
_ACKNOWLEDGED = {
    b"subscribe": (Kind.CHANNEL, True),
    b"psubscribe": (Kind.PATTERN, True),
    b"unsubscribe": (Kind.CHANNEL, False),
    b"punsubscribe": (Kind.PATTERN, False),
}


class _Batch:
    """The place of one SUBSCRIBE or UNSUBSCRIBE in the order of replies."""

    __slots__ = ("kind", "left", "names", "subscribed")

    def __init__(self, kind: Kind, names: Sequence[bytes], subscribed: bool) -> None:
        self.kind = kind
        self.names = names
        self.left = len(names)
        self.subscribed = subscribed


_Slot = tuple[Command, "asyncio.Future[Any] | _Batch"]


class RedisLink(asyncio.Protocol):
    """A link over a transport whose handshake is done.

    Args:
        transport: Connected, authenticated, RESP3.
        receiver: Told what is read.
        address: For error texts.
        keep: Kept alive as long as the link, because it would close the transport otherwise.
    """

    def __init__(
        self, transport: asyncio.Transport, receiver: Receiver, address: str, keep: object = None
    ) -> None:
        self.address = address
        self.bytes_read = 0
        self.bytes_written = 0
        self._loop = asyncio.get_running_loop()
        self.last_read = self.last_parsed = self._loop.time()
        self._transport = transport
        self._receiver = receiver
        self._keep = keep
        self._parser = hiredis.Reader()
        #: What awaits a reply, in order; a command is kept until then, for it may be sent again.
        self._slots: deque[_Slot] = deque()
        #: The last of them, which the transport has not been given.
        self._out: list[_Slot] = []
        self._backlog = 0
        self._flush_handle: asyncio.Handle | None = None
        self._may_write = True
        self._is_slicing = False
        self._reason = ""
        self.is_lost = False
        self.loss = Loss.CLOSED
        self._scripts: set[bytes] = set()

    def __repr__(self) -> str:
        state = f"lost: {self._reason}" if self.is_lost else f"in_flight={self.in_flight}"
        return f"<RedisLink {self.address} {state}>"

    @property
    def in_flight(self) -> int:
        """How many replies are awaited."""
        return len(self._slots)

    @property
    def is_written(self) -> bool:
        """See `Link.is_written`."""
        return not self._out and not self._transport.get_write_buffer_size()

    # Writing

    def send(self, command: Command, future: asyncio.Future[Any]) -> None:
        """See `Link.send`."""
        if not self._may_write or self.is_lost:
            error = self._why_not(command)
            if error is not None:
                future.set_exception(error)
                return
        slot = (command, future)
        self._slots.append(slot)
        self._out.append(slot)
        if self._flush_handle is None and self._may_write:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _why_not(self, command: Command) -> exceptions.LinkError | None:
        """Return why a command cannot even wait to be written; count it if it can."""
        if self.is_lost:
            return exceptions.LinkLost(address=self.address, reason=self._reason)
        size = size_of(command)
        if self._backlog + size > MAX_BACKLOG:
            reason = "too much waits to be written"
            return exceptions.LinkUnavailable(address=self.address, seconds=0, reason=reason)
        self._backlog += size
        return None

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[Argument]) -> Any:
        """See `Link.run`. The text travels once for each link, or when Redis has forgotten it."""
        tail = (len(keys), *keys, *args)
        if script.sha in self._scripts:
            try:
                return await self._ask((b"EVALSHA", script.sha, *tail))
            except exceptions.CommandRefused as error:
                if error.code != "NOSCRIPT":
                    raise
        self._scripts.add(script.sha)
        return await self._ask((b"EVAL", script.text, *tail))

    def subscribe(self, kind: Kind, names: Sequence[bytes]) -> None:
        """See `Link.subscribe`."""
        self._write((_SUBSCRIBE[kind], *names), _Batch(kind, names, True))

    def unsubscribe(self, kind: Kind, names: Sequence[bytes]) -> None:
        """See `Link.unsubscribe`."""
        self._write((_UNSUBSCRIBE[kind], *names), _Batch(kind, names, False))

    def _ask(self, command: Command) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self.send(command, future)
        return future

    def _write(self, command: Command, batch: _Batch) -> None:
        slot = (command, batch)
        self._slots.append(slot)
        self._out.append(slot)
        if self._flush_handle is None and self._may_write:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what has gathered in this turn of the loop, in one go."""
        self._flush_handle = None
        if self.is_lost or not self._out:
            return
        data = b"".join([pack(command) for command, _ in self._out])
        self._out.clear()
        self._backlog = 0
        self.bytes_written += len(data)
        self._transport.write(data)

    def pause_writing(self) -> None:
        """The transport holds enough: what comes now waits here, where it can still be taken back."""
        self._may_write = False
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None

    def resume_writing(self) -> None:
        """The transport has room again."""
        self._may_write = True
        self._flush()

    # Reading

    def data_received(self, data: bytes) -> None:
        """Any byte is a sign of life. Parse what is complete."""
        self.last_read = self._loop.time()
        self.bytes_read += len(data)
        self._parser.feed(data)
        if not self._is_slicing:
            self._read_slice()

    def _read_slice(self) -> None:
        """Hand out at most a slice of messages, then let the loop's other work have its turn."""
        gets, push = self._parser.gets, hiredis.PushNotification
        receiver, slots, unsent = self._receiver, self._slots, self._out
        left, is_parsed = SLICE, False
        try:
            while left and (reply := gets()) is not False:
                is_parsed = True
                if type(reply) is not push:
                    if len(slots) <= len(unsent):
                        self._desync("a reply that nobody waits for")
                        return
                    command, slot = slots.popleft()
                    if type(reply) is not int or isinstance(slot, _Batch):
                        self._reply(command, slot, reply)
                    elif not slot.done():
                        slot.set_result(reply)
                elif reply[0] == b"message":
                    receiver.message(reply[1], reply[2])
                    left -= 1
                elif reply[0] == b"pmessage":
                    receiver.pattern_message(reply[1], reply[2], reply[3])
                    left -= 1
                else:
                    self._push(reply)
                if self.is_lost:
                    return
        except (hiredis.ProtocolError, MemoryError) as error:
            self._desync(str(error) or "a length out of reason")
            return
        except Exception as error:  # whatever ends the reader must not leave a deaf link behind
            self.lose(f"{type(error).__name__}: {error}", Loss.INTERNAL)
            raise
        if is_parsed:
            self.last_parsed = self.last_read
        if not left:
            self._slice_later()
        elif self._is_slicing:
            self.last_read = self.last_parsed = self._loop.time()  # until now nobody looked
            self._is_slicing = False
            self._transport.resume_reading()

    def _slice_later(self) -> None:
        self.last_read = self.last_parsed = self._loop.time()
        if not self._is_slicing:
            self._is_slicing = True
            self._transport.pause_reading()
        self._loop.call_soon(self._read_next_slice)

    def _read_next_slice(self) -> None:
        if not self.is_lost:
            self._read_slice()

    def _reply(self, command: Command, slot: asyncio.Future[Any] | _Batch, reply: Any) -> None:
        if isinstance(slot, _Batch):
            self._batch_refused(slot, reply)
        elif slot.done():
            pass  # whoever waited has gone
        elif isinstance(reply, hiredis.ReplyError):
            self._receiver.failed(command, slot, self._refusal(describe(command), reply))
        else:
            slot.set_result(reply)

    def _push(self, reply: Sequence[Any]) -> None:
        meaning = _ACKNOWLEDGED.get(reply[0])
        if meaning is None:
            return  # invalidations, maintenance: nothing that we asked for
        batch = self._slots[0][1] if len(self._slots) > len(self._out) else None
        if not isinstance(batch, _Batch) or batch.subscribed is not meaning[1]:
            self._desync(f"{reply[0]!r} out of order")
            return
        batch.left -= 1
        if not batch.left:
            self._slots.popleft()
        self._receiver.acknowledged(Topic(meaning[0], reply[1]), meaning[1])

    def _batch_refused(self, batch: _Batch, reply: Any) -> None:
        """One name was refused and with it all: ask for each by itself, so that it hits only one.

        Errors that pass are about no name.
        """
        if not isinstance(reply, hiredis.ReplyError) or not batch.subscribed:
            self._desync(f"{reply!r} for (UN)SUBSCRIBE")
        elif len(batch.names) == 1 or str(reply).partition(" ")[0] in PASSING:
            verb = _SUBSCRIBE[batch.kind].decode()
            for name in batch.names:
                error = self._refusal(f"{verb} {name!r}", reply)
                self._receiver.refused(Topic(batch.kind, name), error)
        else:
            for name in batch.names:
                self.subscribe(batch.kind, (name,))

    def _refusal(self, command: str, reply: Exception) -> exceptions.CommandRefused:
        return exceptions.CommandRefused(address=self.address, command=command, text=str(reply))

    # Ending

    def lose(self, reason: str, loss: Loss = Loss.CLOSED) -> None:
        """See `Link.lose`."""
        if self.is_lost:
            return
        self.is_lost, self.loss = True, loss
        self._reason = reason
        unsent = self._take_back()
        error = exceptions.LinkLost(address=self.address, reason=reason)
        while self._slots:
            _, slot = self._slots.popleft()
            if isinstance(slot, asyncio.Future) and not slot.done():
                slot.set_exception(error)
        self._transport.abort()
        self._receiver.lost(self, reason, unsent)

    def discard(self) -> None:
        """See `Link.discard`."""
        with contextlib.suppress(OSError, AttributeError):  # it is broken or closed already
            number = os.dup(self._transport.get_extra_info("socket").fileno())
            with socket.socket(fileno=number) as twin:
                twin.shutdown(socket.SHUT_RDWR)
        if self._loop.is_closed():
            self.is_lost = True
            _close_without_loop(self._transport)

    def disown(self) -> None:
        """See `Link.disown`.

        Closing the transport would take the socket from the parent's epoll set, which the child
        shares; so its descriptor is made to lead nowhere instead.
        """
        self.is_lost = True
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, self._transport.get_extra_info("socket").fileno())
        os.close(nowhere)

    def connection_lost(self, error: Exception | None) -> None:
        """The transport is closed; by Redis, unless the link is lost already."""
        if error is None:
            self.lose("Redis closed the connection")
        else:
            self.lose(f"{type(error).__name__}: {error}", Loss.NETWORK)
        self._keep = None

    def _desync(self, problem: str) -> None:
        self.lose(str(exceptions.Desync(address=self.address, problem=problem)), Loss.DESYNC)

    def _take_back(self) -> list[Pending]:
        """Return the commands that the transport has not been given, with their futures."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        for _ in self._out:
            self._slots.pop()
        out, self._out = self._out, []
        return [(command, slot) for command, slot in out if not isinstance(slot, _Batch)]


def _close_without_loop(transport: Any) -> None:
    """Close the socket of a transport whose loop is closed, or Python would complain of both."""
    with contextlib.suppress(RuntimeError):  # it wants the loop, after it has noted its end
        transport.abort()
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    close = getattr(below or transport, "_call_connection_lost", None)
    if close is not None:  # a transport of asyncio itself; uvloop's are closed with their loop
        with contextlib.suppress(RuntimeError):
            close(None)
