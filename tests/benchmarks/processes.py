"""The other processes of a measurement: how they are started, heard from and ended."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of the benchmark."""
    return [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]


def ended(what: str, errors: bytes) -> RuntimeError:
    """Return the error for a process that has ended too early: its last line tells why."""
    last = errors.decode(errors="replace").strip().splitlines()[-1:]
    return RuntimeError(f"the {what} process ended: {last}")


@asynccontextmanager
async def running(
    module: str, *arguments: str, streams: int | None = PIPE
) -> AsyncIterator[Process]:
    """Run a module of the benchmark inside of the block, and kill what is left of it then.

    Args:
        module: Its name.
        arguments: Its command line.
        streams: What its input, output and errors are.
    """
    process = await asyncio.create_subprocess_exec(
        *command(module, *arguments), stdin=streams, stdout=streams, stderr=streams
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def next_line(process: Process, what: str) -> bytes:
    """Read one line from a process, within 30 s.

    Raises:
        RuntimeError: It ended instead.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    if not line:
        raise ended(what, await process.stderr.read())
    return line
