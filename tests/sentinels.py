"""Sentinels that watch a master and its replica, for tests of failovers."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import redis

from tests.helpers import eventually
from tests.servers import HOST, RedisServer, free_port

#: What the sentinels call the master.
MASTER = "ours"


class Sentinels:
    """A master, a replica, and sentinels that agree with two votes.

    Args:
        down_after: Seconds without an answer after which a server is down.
        count: How many sentinels.

    Attributes:
        master: The server that begins as the master.
        replica: The other one.
    """

    def __init__(self, down_after: float, count: int = 3) -> None:
        self.master = RedisServer(config=["repl-diskless-sync-delay 0"])
        self.replica = RedisServer()
        self.ports: list[int] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._down_after = down_after
        self._count = count
        self._files = contextlib.ExitStack()

    async def __aenter__(self) -> Sentinels:
        for server in (self.master, self.replica):
            self._files.enter_context(server)
        self.replica.command("REPLICAOF", self.master.host, self.master.port)
        await eventually(
            lambda: self.replica.command("INFO", "replication").get("master_link_status") == "up",
            10,
        )
        for _ in range(self._count):
            self._start()
        await eventually(self._is_ready, 20)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self._files.close()

    @property
    def host(self) -> dict[str, object]:
        """The entry for the setting ``hosts``."""
        return {"sentinels": [(HOST, port) for port in self.ports], "master_name": MASTER}

    def _start(self) -> None:
        directory = self._files.enter_context(tempfile.TemporaryDirectory(prefix="mpx-"))
        port, config = free_port(), Path(directory, "sentinel.conf")
        config.write_text(
            f"port {port}\n"
            f"bind {HOST}\n"
            f"dir {directory}\n"
            f"sentinel monitor {MASTER} {HOST} {self.master.port} 2\n"
            f"sentinel down-after-milliseconds {MASTER} {round(self._down_after * 1000)}\n"
            f"sentinel failover-timeout {MASTER} 5000\n"
        )
        self.ports.append(port)
        self.processes.append(
            subprocess.Popen(["redis-server", str(config), "--sentinel"], stdout=subprocess.DEVNULL)
        )

    async def _is_ready(self) -> bool:
        """Whether every sentinel knows the replica and all the other sentinels."""
        return all(
            await asyncio.gather(
                *(asyncio.to_thread(_knows, port, self._count) for port in self.ports)
            )
        )


def _knows(port: int, count: int) -> bool:
    try:
        with redis.Redis(HOST, port, socket_timeout=1, retry=None) as client:
            state = client.sentinel_master(MASTER)
    except redis.RedisError:
        return False
    return bool(state["num-slaves"] == 1 and state["num-other-sentinels"] == count - 1)
