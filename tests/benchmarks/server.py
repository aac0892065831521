"""The benchmark's own ``redis-server``, and what it tells about itself."""

from __future__ import annotations

import shutil
from typing import Any

from tests.servers import RedisServer


def own_server() -> RedisServer:
    """Make a ``redis-server`` on a free port, a context manager with a ``url``.

    Buffers for subscribers are unlimited, so that a slow peer is slow and not disconnected.
    """
    if shutil.which("redis-server") is None:
        raise SystemExit("redis-server is missing; on Debian: apt install redis-server")
    return RedisServer(config=["client-output-buffer-limit pubsub 0 0 0"])


class ServerView:
    """One connection that reads the server's counters; a context manager."""

    def __init__(self, url: str) -> None:
        import redis

        self._redis: Any = redis.Redis.from_url(url)
        self._readings = 0

    def __enter__(self) -> ServerView:
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    def version(self) -> str:
        """Return the server's version."""
        return str(self._redis.info("server")["redis_version"])

    def flush(self) -> None:
        """Delete all keys."""
        self._redis.flushall()

    def commands(self) -> int:
        """Return how many commands the server has processed, this view's own left out.

        The server counts a reading when it has answered it, so the next one sees it.
        """
        seen = int(self._redis.info("stats")["total_commands_processed"])
        self._readings += 1
        return seen - self._readings + 1

    def connections(self) -> int:
        """Return how many connections the server has accepted so far."""
        return int(self._redis.info("stats")["total_connections_received"])

    def subscriptions(self) -> int:
        """Return how many channels and patterns are subscribed."""
        channels = self._redis.execute_command("PUBSUB", "CHANNELS")
        return len(channels) + int(self._redis.execute_command("PUBSUB", "NUMPAT"))

    def subscribers(self, channel: str) -> int:
        """Return how many clients are subscribed to ``channel``."""
        return int(self._redis.execute_command("PUBSUB", "NUMSUB", channel)[1])
