"""A TCP proxy with which tests spoil the connection between a client and its server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Literal

CHUNK = 65536
Direction = Literal["up", "down"]  # to the server, to the client


class Proxy:
    """Forward a free loopback port to a server, and misbehave on request.

    It lives on the running event loop. What a method changes holds for the open connections and for
    those that come later, until it is changed back; only `cut` and `close` act once.

    Attributes:
        port: where the proxy listens.
        accepted: number of connections that clients have made so far.
        bytes_up: number of bytes forwarded to the server so far.
        bytes_down: number of bytes forwarded to clients so far.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        self.accepted = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self._delay = 0.0
        self._piece = CHUNK
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._hole: set[str] = set()
        self._swallowed: set[tuple[asyncio.StreamWriter, str]] = set()
        self._left_down: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut()
        await self._server.wait_closed()

    @property
    def open(self) -> int:
        """The number of clients that are connected now."""
        return len(self._tasks)

    def cut(self) -> None:
        """Reset all connections, on both sides (RST)."""
        for writer in list(self._writers):
            reset(writer)

    def close(self) -> None:
        """Close all connections in order, on both sides (FIN)."""
        for writer in list(self._writers):
            writer.close()

    def stall(self) -> None:
        """Forward nothing and read nothing, but keep connections open and accept new ones."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward again, beginning with what was held back; end `swallow`."""
        self._hole = set()
        self._flowing.set()

    def swallow(self, direction: Direction | None = None) -> None:
        """Be a black hole: take bytes and drop them, for open connections and for new ones.

        `resume` ends it for new connections only: nobody knows what the old ones have missed.

        Args:
            direction: Only those that go to the server, or to the client; all by default.
        """
        self._hole = {"up", "down"} if direction is None else {direction}
        for way in self._hole:
            self._swallowed |= {(writer, way) for writer in self._writers}

    def end_after(self, size: int) -> None:
        """Forward so many more bytes to clients, and then close all connections in order (FIN)."""
        self._left_down = size

    def say(self, data: bytes) -> None:
        """Tell all clients something that the server has not said."""
        for writer in self._clients:
            writer.write(data)

    def delay(self, seconds: float) -> None:
        """Forward each chunk this much later, in both directions; throughput stays."""
        self._delay = seconds

    def split(self, size: int | None) -> None:
        """Forward in writes of at most so many bytes; None ends it."""
        self._piece = size or CHUNK

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Run one connection until either side ends it; then end the other side alike."""
        self._adopt(writer)
        self._clients.add(writer)
        ends = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            await self._flowing.wait()
            server_reader, server_writer = await asyncio.open_connection(*self.target)
            self._adopt(server_writer)
            ends.append(server_writer)
            pumps = [
                asyncio.create_task(self._pump(reader, server_writer, "up")),
                asyncio.create_task(self._pump(server_reader, writer, "down")),
            ]
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
        except OSError:  # refused by the server, or reset by either side
            for end in ends:
                reset(end)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in ends:
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()
                self._writers.discard(end)
                self._swallowed -= {(end, "up"), (end, "down")}
                self._clients.discard(end)

    def _adopt(self, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._swallowed |= {(writer, way) for way in self._hole}

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        """Forward one direction until its end has been forwarded too."""
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        feeding = asyncio.create_task(self._feed(reader, chunks))
        try:
            while not (feeding.done() and chunks.empty()):
                due, data = await chunks.get()
                await asyncio.sleep(due - asyncio.get_running_loop().time())
                await self._flowing.wait()
                if not data:
                    break
                await self._forward(data, writer, direction)
            await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def _feed(
        self, reader: asyncio.StreamReader, chunks: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        """Read until the end, and note when each chunk is due."""
        data = b"more"
        try:
            while data:
                await self._flowing.wait()
                data = await reader.read(CHUNK)
                await chunks.put((asyncio.get_running_loop().time() + self._delay, data))
        except OSError:
            await chunks.put((0, b""))
            raise

    async def _forward(
        self, data: bytes, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        size = self._piece  # which may change meanwhile
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            if (writer, direction) in self._swallowed or writer.transport.is_closing():
                return
            if direction == "down" and self._left_down is not None:
                piece = piece[: self._left_down]
                self._left_down -= len(piece)
            writer.write(piece)
            if direction == "down" and self._left_down == 0:
                self._left_down = None
                self.close()
                return
            await writer.drain()
            for _ in range(2):  # so that a reader in this loop gets this piece alone
                await asyncio.sleep(0)
            if direction == "up":
                self.bytes_up += len(piece)
            else:
                self.bytes_down += len(piece)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that its peer sees RST."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def without_messages(data: bytes) -> bytes:
    """Take the messages out of what a server says, all of them being there as a whole."""
    head = b">3\r\n$7\r\nmessage\r\n"
    while (start := data.find(head)) >= 0:
        end = start + len(head)
        for _ in range(2):  # the channel and the payload
            line = data.index(b"\r\n", end)
            end = line + 2 + int(data[end + 1 : line]) + 2
        data = data[:start] + data[end:]
    return data
