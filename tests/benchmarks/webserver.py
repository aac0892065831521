"""A real ASGI server, Daphne or uvicorn, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time

from tests.benchmarks.context import Context
from tests.servers import HOST, free_port

APPLICATION = "tests.benchmarks.served:application"
NEVER = "3600"
"""Seconds between pings, so that no client has to answer one."""


class WebServer:
    """A server on a free port, a context manager that ends it.

    It runs as from the command line, quiet and with its defaults, but for pings.

    Args:
        name: ``daphne`` or ``uvicorn``.
        context: The cell's circumstances; Daphne runs on asyncio, whatever they say.
    """

    def __init__(self, name: str, context: Context) -> None:
        self.port = free_port()
        options = ["--port", str(self.port), "--verbosity", "0", "--ping-interval", NEVER]
        if name == "uvicorn":
            options = ["--port", str(self.port), "--loop", context.loop, "--ws", "auto",
                       "--log-level", "warning", "--ws-ping-interval", NEVER]  # fmt: skip
        self._output = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", name, *options, APPLICATION],
            env={**os.environ, "PEER": context.peer, "URL": context.url},
            stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
        )  # fmt: skip

    def __enter__(self) -> WebServer:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._process.kill()
        self._process.wait()
        if error is not None:
            print(f"the server's output: {self._last_words()}", file=sys.stderr)
        self._output.close()

    def wait(self) -> None:
        """Wait until it accepts connections.

        Raises:
            RuntimeError: It does not, within 20 s.
        """
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((HOST, self.port), timeout=5).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start: {self._last_words()}") from None
            time.sleep(0.05)

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used; 0 where ``/proc`` is missing."""
        try:
            with open(f"/proc/{self._process.pid}/stat", encoding="ascii") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _last_words(self) -> str:
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:])
