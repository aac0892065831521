"""Other Python processes that answer each line of JSON with one: both ends of them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

#: Bytes of the longest answer.
LIMIT = 2**27


def environment(**extra: str) -> dict[str, str]:
    """Return the environment for another Python process that runs our code."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **extra}


#: What asyncio reports in development mode of a callback that took a tenth of a second. On a machine
#: that is busy every callback may.
SLOW_CALLBACK = re.compile(r"^.*\bExecuting <.*> took \d+\.\d+ seconds\n?", re.MULTILINE)

#: What the layer says once of messages that no consumer of Channels could handle: tests receive them.
UNTYPED = re.compile(r"^.*\bwithout a 'type'.*\n?", re.MULTILINE)


def complaints(errors: str) -> str:
    """Return what a process wrote to stderr but for what tests do on purpose, and slow callbacks."""
    return UNTYPED.sub("", SLOW_CALLBACK.sub("", errors))


class Child:
    """Such a process, from outside.

    Args:
        module: What it runs; it calls `serve`.
        config: What it finds as JSON on its command line.
        flags: Of its interpreter.
    """

    def __init__(self, module: str, config: dict[str, Any], *flags: str) -> None:
        self._command = [sys.executable, *flags, "-m", module, json.dumps(config)]
        self._stderr = tempfile.TemporaryFile()
        self._process: asyncio.subprocess.Process

    @property
    def is_running(self) -> bool:
        """Whether it is there still."""
        return self._process.returncode is None

    @property
    def errors(self) -> str:
        """What it wrote to stderr, see `complaints`."""
        self._stderr.seek(0)
        return complaints(self._stderr.read().decode())

    async def start(self) -> None:
        """Start the process."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._stderr,
            cwd=ROOT,
            env=environment(),
            limit=LIMIT,
        )

    async def ask(self, *request: Any, timeout: float) -> Any:
        """Have it do something; return its answer.

        Raises:
            AssertionError: It has died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        line = await asyncio.wait_for(self._process.stdout.readline(), timeout)
        if not line:
            process = " ".join(self._command[-2:])
            raise AssertionError(f"{process} has died: {self.errors[-4000:]}")
        return json.loads(line)

    async def end(self) -> int:
        """End it by closing its input, or at once after 20 s; return its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            return await asyncio.wait_for(self._process.wait(), 20)
        except asyncio.TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """End it at once, with SIGKILL; return its exit status."""
        self._process.kill()
        return await self._process.wait()

    def close(self) -> None:
        """Forget what it wrote to stderr."""
        self._stderr.close()


async def serve(answer: Callable[..., Awaitable[Any]]) -> None:
    """Be such a process, until stdin ends.

    Args:
        answer: Is given the items of a line, one line after the other; what it returns is written.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, daemon=True).start()
    while line := await lines.get():
        sys.stdout.write(json.dumps(await answer(*json.loads(line))) + "\n")
        sys.stdout.flush()
