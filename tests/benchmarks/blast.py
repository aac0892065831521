"""The other process of the bare row: publishes over a raw socket as fast as Redis takes it.

``python -m tests.benchmarks.blast HOST PORT CHANNEL COUNT`` publishes ``COUNT`` messages of 100
bytes, many commands in each write. Redis sends no replies, so it never waits for this process.
"""

from __future__ import annotations

import socket
import sys

PAYLOAD = b"x" * 100
BATCH = 500


def command(*parts: bytes) -> bytes:
    """Encode one command as Redis reads it."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


def main(host: str, port: int, channel: bytes, count: int) -> None:
    """Publish ``count`` messages, rounded up to whole batches."""
    batch = command(b"PUBLISH", channel, PAYLOAD) * BATCH
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(command(b"CLIENT", b"REPLY", b"OFF"))
        for _ in range(-(-count // BATCH)):
            connection.sendall(batch)
        connection.sendall(command(b"CLIENT", b"REPLY", b"ON"))
        connection.recv(64)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3].encode(), int(sys.argv[4]))
