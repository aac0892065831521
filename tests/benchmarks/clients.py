"""WebSocket clients that do next to nothing, so that the server is what is measured.

They know one frame, compare what comes with repetitions of it, and count: no parser, no event
loop, no objects for messages.
"""

from __future__ import annotations

import base64
import selectors
import socket
import time

from tests.benchmarks.context import MESSAGE
from tests.benchmarks.feeder import DIGITS
from tests.servers import HOST

TEXT = MESSAGE["text"].encode()
FRAME = bytes([0x81, len(TEXT)]) + TEXT
"""An unmasked, unfragmented text frame of less than 126 bytes."""
CHUNK = 1 << 16
PATTERN = FRAME * (CHUNK // len(FRAME) + 2)

REQUEST = (
    f"GET / HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n"
    "Sec-WebSocket-Version: 13\r\n\r\n"
).encode()


class Client:
    """One connection that counts frames.

    Args:
        port: The server's.

    Attributes:
        socket: Its socket.
        received: Bytes of frames so far.

    Raises:
        RuntimeError: The server does not accept it.
    """

    def __init__(self, port: int) -> None:
        self.received = 0
        self.socket = socket.create_connection((HOST, port), timeout=20)
        self.socket.sendall(REQUEST)
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.socket.recv(CHUNK)
            head += data
            if not data:
                break
        if not head.startswith(b"HTTP/1.1 101") or not head.endswith(b"\r\n\r\n"):
            raise RuntimeError(f"the server answered {head[:80]!r}")
        self.socket.setblocking(False)

    @property
    def frames(self) -> int:
        """Whole frames so far."""
        return self.received // len(FRAME)

    def read(self) -> int:
        """Read what has come, and return how many bytes it is.

        Raises:
            RuntimeError: It is not what the server had to send.
        """
        data = self.socket.recv(CHUNK)
        self.check(data, self.received % len(FRAME))
        self.received += len(data)
        return len(data)

    def check(self, data: bytes, offset: int) -> None:
        """See that data are frames, the first of them from ``offset`` on."""
        if not data or data != PATTERN[offset : offset + len(data)]:
            raise RuntimeError(f"instead of frames a client got {data[:80]!r}")


class TimingClient(Client):
    """One connection that keeps how long stamped frames were on their way.

    Attributes:
        delays: Microseconds from the stamp until the frame was read, one for each frame.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.delays: list[float] = []
        self._rest = b""

    def check(self, data: bytes, offset: int) -> None:
        """Take the frames apart; all are of one length."""
        now = time.monotonic_ns()
        if not data:
            raise RuntimeError("the server closed the connection")
        data = self._rest + data
        whole = len(data) - len(data) % len(FRAME)
        for start in range(0, whole, len(FRAME)):
            frame = data[start : start + len(FRAME)]
            if frame[:2] != FRAME[:2] or frame[2 + DIGITS :] != FRAME[2 + DIGITS :]:
                raise RuntimeError(f"instead of a frame a client got {frame!r}")
            self.delays.append((now - int(frame[2 : 2 + DIGITS])) / 1000)
        self._rest = data[whole:]


class Clients:
    """Many connections, read by one thread.

    Args:
        port: The server's.
        count: How many.
        kind: What each of them is.
    """

    def __init__(self, port: int, count: int, kind: type[Client] = Client) -> None:
        self.all = [kind(port) for _ in range(count)]
        self._received = 0
        self._selector = selectors.DefaultSelector()
        for client in self.all:
            self._selector.register(client.socket, selectors.EVENT_READ, client)

    @property
    def frames(self) -> int:
        """Frames that all of them got."""
        return self._received // len(FRAME)

    def poll(self, timeout: float) -> None:
        """Read what there is, after waiting for it for at most ``timeout`` seconds."""
        for key, _ in self._selector.select(timeout):
            self._received += key.data.read()

    def require_equal(self) -> None:
        """See that all got the same number.

        Raises:
            RuntimeError: They did not.
        """
        counts = {client.frames for client in self.all}
        if len(counts) > 1:
            raise RuntimeError(f"clients got between {min(counts)} and {max(counts)} frames")

    def close(self) -> None:
        """Close the connections."""
        self._selector.close()
        for client in self.all:
            client.socket.close()
