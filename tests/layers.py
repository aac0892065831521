"""Layers, other processes and scripts for tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from channels_mpx import LinkLost, MultiplexedChannelLayer
from tests.children import ROOT, Child, complaints, environment
from tests.servers import RedisServer

#: Options with which losses and expiries happen at the pace of a test.
QUICK: dict[str, Any] = {"timeout": 5, "max_reconnect_delay": 0.1}

#: Nothing but the loss of the TCP connection is noticed: the negative control of liveness tests.
UNWATCHED: dict[str, Any] = {"ping_interval": 3600, "ping_timeout": 3600, "probe_interval": 3600}


#: Requests that are under way at a time where there are many.
IN_FLIGHT = 64


@contextlib.asynccontextmanager
async def open_layer(hosts: Any, **config: Any) -> AsyncIterator[MultiplexedChannelLayer]:
    """Yield a layer on a server, a URL, or any other form of ``hosts``; close it afterwards."""
    if isinstance(hosts, RedisServer):
        hosts = [hosts.url]
    layer = MultiplexedChannelLayer(hosts=hosts, **config)
    try:
        yield layer
    finally:
        await layer.aclose()


async def receive(layer: Any, channel: str, timeout: float = 10) -> dict[str, Any]:
    """Return the next message of a channel; fail the test if there is none in time."""
    return await asyncio.wait_for(layer.receive(channel), timeout)


async def receive_all(layer: Any, channel: str, pause: float = 0.1) -> list[dict[str, Any]]:
    """Return what comes until nothing has come for ``pause`` seconds."""
    messages = []
    with contextlib.suppress(asyncio.TimeoutError):
        while True:
            messages.append(await asyncio.wait_for(layer.receive(channel), pause))
    return messages


@contextlib.asynccontextmanager
async def reading(
    layer: Any, channel: str, timeout: float = 10
) -> AsyncIterator[asyncio.Task[dict[str, Any]]]:
    """Have somebody wait for a message inside of the block; await the task to get it."""
    task = asyncio.ensure_future(receive(layer, channel, timeout))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def answering(
    layer: Any, channel: str, answer: Callable[[dict[str, Any]], dict[str, Any]]
) -> AsyncIterator[None]:
    """Answer the requests that come to a channel inside of the block.

    What ``answer`` raises goes to whoever has asked; a reply that the link loses is lost.
    """

    async def serve() -> None:
        while True:
            event = await layer.receive(channel)
            try:
                await layer.reply(event, answer(event))
            except ArithmeticError as error:
                await layer.reply_error(event, error)
            except LinkLost:
                continue

    task = asyncio.ensure_future(serve())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask_many(layer: Any, channel: str, total: int) -> dict[int, dict[str, Any]]:
    """Make so many requests, numbered from 0, `IN_FLIGHT` at a time; return each one's reply."""
    numbers = iter(range(total))
    replies: dict[int, dict[str, Any]] = {}

    async def ask() -> None:
        for number in numbers:
            replies[number] = await layer.request(channel, {"number": number})

    await asyncio.gather(*(ask() for _ in range(IN_FLIGHT)))
    return replies


async def settle(layer: MultiplexedChannelLayer, channel: str) -> list[dict[str, Any]]:
    """Return what a channel holds once everything sent to it before has arrived.

    A last message of our own tells that: one sender's messages arrive in order.
    """
    await layer.send(channel, {"type": "settle"})
    messages = []
    while (message := await receive(layer, channel))["type"] != "settle":
        messages.append(message)
    return messages


def is_active(layer: MultiplexedChannelLayer) -> bool:
    """Return whether Redis has confirmed all that is wanted."""
    numbers = layer.statistics().connection
    return numbers.state == "connected" and numbers.active == numbers.wanted


def subscriptions(server: RedisServer, prefix: str = "mpx") -> set[str]:
    """Return the channels under a prefix that anybody is subscribed to."""
    return set(server.command("PUBSUB", "CHANNELS", f"{prefix}:*"))


def group_subscriptions(server: RedisServer) -> set[str]:
    """Return the groups whose Redis channel anybody is subscribed to."""
    return {name.removeprefix("mpx:group:") for name in subscriptions(server, "mpx:group")}


def clients(server: RedisServer) -> list[dict[str, Any]]:
    """Return the rows of CLIENT LIST but the harness's own."""
    rows = server.command("CLIENT", "LIST")
    if isinstance(rows, str):
        rows = [dict(word.split("=", 1) for word in row.split()) for row in rows.splitlines()]
    return [row for row in rows if row["user"] != "harness"]


def kill_clients(server: RedisServer) -> int:
    """Have the server close every connection but the harness's own; return how many."""
    return sum(server.command("CLIENT", "KILL", "ID", row["id"]) for row in clients(server))


def calls(server: RedisServer, *ignored: str) -> dict[str, int]:
    """Return how often each command was called, by INFO commandstats."""
    stats = server.command("INFO", "commandstats")
    names = {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()}
    return {name: count for name, count in names.items() if name not in ("info", *ignored)}


def connections_received(server: RedisServer) -> int:
    """Return how many connections were ever made to the server."""
    return int(server.command("INFO", "stats")["total_connections_received"])


def resident_memory() -> int:
    """Return the bytes of memory that this process has now; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_script(
    source: str, *arguments: str, strict: bool = True, timeout: float = 60, **env: str
) -> str:
    """Run Python source in a process of its own and return what it prints.

    It must exit with 0 and, if ``strict``, have no `complaints` under ``-X dev -W error``.
    """
    flags = ["-X", "dev", "-W", "error"] if strict else []
    done = subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(source), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env=environment(**env),
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr[-4000:]}"
    assert not strict or not complaints(done.stderr), done.stderr[-4000:]
    return done.stdout


class Peer:
    """Another process with a layer, which carries out verbs; see ``tests/integration/peer.py``.

    Args:
        server: The server of its layer.
        config: Further options of its layer.
    """

    def __init__(self, server: RedisServer, **config: Any) -> None:
        config = {"hosts": [server.url], **config}
        self._child = Child("tests.integration.peer", config, "-X", "dev", "-W", "error")

    async def __aenter__(self) -> Peer:
        await self._child.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._child.is_running:
            status = await self._child.end()
            errors = self._child.errors
            assert not status, f"exit status {status}\n{errors}"
            assert not errors, errors
        self._child.close()

    async def call(self, verb: str, *arguments: Any) -> Any:
        """Have it call a verb; return what that returns.

        Raises:
            RuntimeError: The verb raised; the text begins with the error's class.
        """
        answer = await self._child.ask(verb, *arguments, timeout=60)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    async def kill(self) -> None:
        """End it at once, with SIGKILL."""
        await self._child.kill()
