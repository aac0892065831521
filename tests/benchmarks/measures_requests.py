"""The rows of requests: a consumer of another process is asked, and answers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from tests.benchmarks.context import MESSAGE, Context, Result, level, percentile, settle
from tests.benchmarks.processes import ended, next_line, running

TIMEOUT = 10.0
IN_FLIGHT = 64
WARM_UP = 0.5
"""Seconds of requests before the clock starts."""


class Asker(Protocol):
    """Whatever asks."""

    async def request(
        self, channel: str, message: dict[str, Any], *, timeout: float
    ) -> dict[str, Any]:
        """Send a message to a channel and return what its consumer answers."""


class HandAsker:
    """What users of channels_redis write: their own channel and an id go along.

    One task reads the channel and hands each answer to whoever waits for its id. Whoever gives up
    takes the id with him.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._channel = ""
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to read answers."""
        self._channel = await self._layer.new_channel()
        self._task = asyncio.ensure_future(self._read())

    async def close(self) -> None:
        """Stop."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def request(
        self, channel: str, message: dict[str, Any], *, timeout: float
    ) -> dict[str, Any]:
        """See `Asker.request`."""
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await self._layer.send(channel, {**message, "reply_to": self._channel, "id": number})
            return await asyncio.wait_for(answer, timeout)
        finally:
            del self._waiting[number]

    async def _read(self) -> None:
        while True:
            message = await self._layer.receive(self._channel)
            answer = self._waiting.get(message["id"])
            if answer is not None and not answer.done():
                answer.set_result(message)


@asynccontextmanager
async def _asker(context: Context) -> AsyncIterator[Asker]:
    layer = context.layer()
    if context.peer.startswith("channels_mpx"):
        yield layer
        return
    asker = HandAsker(layer)
    await asker.open()
    try:
        yield asker
    finally:
        await asker.close()


@asynccontextmanager
async def _replier(context: Context) -> AsyncIterator[str]:
    """Run the other process; yield its consumer's channel.

    Raises:
        RuntimeError: It ended too early, or failed at its end.
    """
    async with running("replier", context.peer, context.loop, context.url) as process:
        yield (await next_line(process, "answering")).decode().strip()
        _, errors = await asyncio.wait_for(process.communicate(b""), 20)
        if process.returncode:
            raise ended("answering", errors)


async def _ask(asker: Asker, channel: str, number: int) -> None:
    """Ask once, and see that the answer belongs to the question.

    Raises:
        RuntimeError: It does not.
    """
    question = {"type": "question", "text": MESSAGE["text"], "number": number}
    answer = await asker.request(channel, question, timeout=TIMEOUT)
    if answer["number"] != number or answer["text"] != MESSAGE["text"]:
        raise RuntimeError(f"question {number} was answered with {answer!r}")


async def request(context: Context) -> Result:
    """One request at a time: from before `request` until it has returned."""
    async with _asker(context) as asker, _replier(context) as channel:
        await settle()
        numbers = itertools.count()

        async def ask_for(seconds: float) -> list[float]:
            samples, end = [], time.perf_counter() + seconds
            while (before := time.perf_counter()) < end:
                await _ask(asker, channel, next(numbers))
                samples.append((time.perf_counter() - before) * 1e6)
            return samples

        await ask_for(WARM_UP)
        level()
        samples = await ask_for(context.span / 2)
    return {
        "value": percentile(samples, 0.5),
        "p99 µs": percentile(samples, 0.99),
        "messages": len(samples),
    }


async def requests(context: Context) -> Result:
    """64 tasks that each make one request after the other."""
    async with _asker(context) as asker, _replier(context) as channel:
        await settle()
        numbers = itertools.count()

        async def ask_until(end: float) -> int:
            done = 0
            while time.perf_counter() < end:
                await _ask(asker, channel, next(numbers))
                done += 1
            return done

        async def round_of(seconds: float) -> tuple[int, float]:
            started = time.perf_counter()
            end = started + seconds
            done = await asyncio.gather(*(ask_until(end) for _ in range(IN_FLIGHT)))
            return sum(done), time.perf_counter() - started

        await round_of(WARM_UP)
        level()
        done, seconds = await round_of(context.span / 2)
    return {"value": done / seconds, "messages": done}
