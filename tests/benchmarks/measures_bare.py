"""The row below the layers: how fast raw messages come out of a subscription."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from tests.benchmarks.context import Context, Result, level
from tests.benchmarks.processes import running
from tests.benchmarks.server import ServerView

CHANNEL = "bench.bare"
WARM_UP = 5000


class Counter:
    """Counts messages; the clock runs from the end of the warm-up to the last one."""

    def __init__(self, count: int) -> None:
        self._first = WARM_UP
        self._last = WARM_UP + count
        self.seen = 0
        self.started = 0.0
        self.seconds = 0.0
        self.done = asyncio.Event()

    def one(self) -> None:
        """Count one message."""
        self.seen += 1
        if self.seen == self._first:
            self.started = time.perf_counter()
        elif self.seen == self._last:
            self.seconds = time.perf_counter() - self.started
            self.done.set()


async def _measure(context: Context, count: int, counter: Counter) -> Result:
    """Wait for the subscription, let the other process publish, wait for the messages.

    Raises:
        RuntimeError: The subscription did not come, or messages were missing.
    """
    with ServerView(context.url) as view:
        for _ in range(200):
            if view.subscribers(CHANNEL) == 1:
                break
            await asyncio.sleep(0.02)
        else:
            raise RuntimeError(f"{CHANNEL} was not subscribed within 4 s")
    level()
    address = urlsplit(context.url)
    arguments = [str(address.hostname), str(address.port), CHANNEL, str(WARM_UP + count)]
    async with running("blast", *arguments, streams=None):
        try:
            await asyncio.wait_for(counter.done.wait(), 40)
        except asyncio.TimeoutError:
            raise RuntimeError(f"{counter.seen} of {WARM_UP + count} messages came") from None
    return {"value": count / counter.seconds, "messages": count}


async def _multiplexer(url: str, counter: Counter) -> Callable[[], Awaitable[None]]:
    """Subscribe through ``channels_mpx.Multiplexer`` with a callback."""
    multiplexer: Any = importlib.import_module("channels_mpx").Multiplexer(url)

    def on_message(channel: bytes, message: bytes) -> None:
        counter.one()

    subscription = multiplexer.new_channel_subscription(on_message)
    added = subscription.add(CHANNEL)
    if inspect.isawaitable(added):
        await added

    async def close() -> None:
        await multiplexer.aclose()

    return close


async def _redis_py(url: str, counter: Counter, listen: bool) -> Callable[[], Awaitable[None]]:
    """Subscribe through redis-py and count in a task, with ``listen()`` or ``get_message()``."""
    client: Any = importlib.import_module("redis.asyncio").from_url(url)
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    await pubsub.subscribe(CHANNEL)

    async def listening() -> None:
        async for message in pubsub.listen():
            if message is not None:
                counter.one()

    async def getting() -> None:
        while True:
            if await pubsub.get_message(timeout=0.1) is not None:
                counter.one()

    task = asyncio.ensure_future(listening() if listen else getting())

    async def close() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await pubsub.aclose()
        await client.aclose()

    return close


async def bare(context: Context) -> Result:
    """Another process publishes messages of 100 bytes, pipelined, to one channel.

    Each peer has one subscription and counts what it gets: a callback of ``Multiplexer``, a loop
    over redis-py's ``listen()``, a loop around its ``get_message()``.
    """
    count = context.count(200_000, 10_000)
    counter = Counter(count)
    if context.peer == "channels_mpx":
        close = await _multiplexer(context.url, counter)
    else:
        close = await _redis_py(context.url, counter, context.peer == "redis-py listen()")
    try:
        return await _measure(context, count, counter)
    finally:
        await close()
