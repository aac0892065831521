"""The rows that drive a channel layer from an event loop."""

from __future__ import annotations

import asyncio
import time

from tests.benchmarks.context import (
    MESSAGE,
    ChannelLayer,
    Context,
    Result,
    level,
    percentile,
    resident_bytes,
    settle,
)
from tests.benchmarks.processes import next_line, running
from tests.benchmarks.receivers import Receivers, members
from tests.benchmarks.server import ServerView

CONCURRENT = 200

#: Seconds of sending before the clock starts, for every peer: a server has been running for a while.
WARM_UP = 0.5


async def latency(context: Context) -> Result:
    """From before ``send`` until ``receive`` has returned, one message at a time.

    Sender and receiver are two tasks of one process; the receiver waits already.
    """
    layer: ChannelLayer = context.layer()
    channel = await layer.new_channel()
    arrived = asyncio.Event()
    at = 0.0

    async def read() -> None:
        nonlocal at
        while True:
            await layer.receive(channel)
            at = time.perf_counter()
            arrived.set()

    async def rounds(count: int) -> list[float]:
        samples = []
        for _ in range(count):
            arrived.clear()
            before = time.perf_counter()
            await layer.send(channel, MESSAGE)
            await asyncio.wait_for(arrived.wait(), 10)
            samples.append((at - before) * 1e6)
        return samples

    reader = asyncio.ensure_future(read())
    await settle()
    await rounds(200)
    level()
    samples = await rounds(context.count(5000, 300))
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    return {"value": percentile(samples, 0.5), "p99 µs": percentile(samples, 0.99)}


async def _send_rounds(context: Context, layer: ChannelLayer, receivers: Receivers) -> Result:
    """Send in rounds of 200 at once, until all is sent or the window ends."""

    async def one_round() -> None:
        await asyncio.gather(*(layer.group_send("bench", MESSAGE) for _ in range(CONCURRENT)))

    await settle()
    warm = time.perf_counter() + WARM_UP
    while time.perf_counter() < warm:
        await one_round()
    level()
    receivers.expect(1 << 60)
    rounds = context.count(200, 10)
    started = time.perf_counter()
    done = 0
    for _ in range(rounds):
        await one_round()
        done += 1
        if time.perf_counter() - started > context.window:
            break
    seconds = time.perf_counter() - started
    await receivers.close()
    return {"value": done * CONCURRENT / seconds, "sends": done * CONCURRENT}


async def sends(context: Context) -> Result:
    """200 concurrent ``group_send`` to a group that nobody is in, repeated.

    A layer that looks the members up first (``channels_redis.core``, in-memory) sends nothing then.
    """
    layer: ChannelLayer = context.layer()
    return await _send_rounds(context, layer, Receivers(layer, []))


async def sends_members(context: Context) -> Result:
    """200 concurrent ``group_send`` to a group of three, whose members receive meanwhile."""
    layer: ChannelLayer = context.layer()
    receivers = Receivers(layer, await members(layer, "bench", 3))
    return await _send_rounds(context, layer, receivers)


def _rate(receivers: Receivers, started: float, expected: int) -> Result:
    """Put deliveries per second and what is missing into a result."""
    seconds = receivers.finished - started
    missing = expected - receivers.delivered
    return {
        "value": receivers.delivered / seconds,
        "deliveries": receivers.delivered,
        "dropped": missing if receivers.stalled else 0,
        "left at the end of the window": 0 if receivers.stalled else missing,
    }


async def group_1000(context: Context) -> Result:
    """One sender, one message after the other, to a group of 1,000 in the same process."""
    layer: ChannelLayer = context.layer()
    count = context.count(100, 5)
    receivers = Receivers(layer, await members(layer, "bench", 1000))
    await settle()

    async def round_of(messages: int) -> float:
        receivers.expect(messages * 1000)
        started = time.perf_counter()
        for _ in range(messages):
            await layer.group_send("bench", MESSAGE)
            if time.perf_counter() - started > context.window:
                break
        await receivers.wait(started + context.window - time.perf_counter())
        return started

    await round_of(2)
    level()
    started = await round_of(count)
    result = _rate(receivers, started, count * 1000)
    await receivers.close()
    return result


async def flood(context: Context) -> Result:
    """Another process, with the same layer, floods a group of ten in this one.

    64 tasks there send a fixed number of messages; ten tasks here receive. The clock runs from the
    word to start until the last delivery.
    """
    layer: ChannelLayer = context.layer()
    count, warm_up = context.count(30_000, 1000), 500
    receivers = Receivers(layer, await members(layer, "bench", 10))
    await settle()
    receivers.expect(warm_up * 10)
    arguments = [context.peer, context.loop, context.url, "bench", str(warm_up), str(count)]
    async with running("flood", *arguments) as process:
        await next_line(process, "flooding")
        await receivers.wait(10)
        assert process.stdin is not None
        receivers.expect(count * 10)
        level()
        started = time.perf_counter()
        process.stdin.write(b"go\n")
        await receivers.wait(context.window)
        result = _rate(receivers, started, count * 10)
        if receivers.stalled:
            await next_line(process, "flooding")
    await receivers.close()
    return result


async def connects(context: Context) -> Result:
    """``new_channel`` and ``group_add``, one after the other, for 2,000 consumers in 50 groups.

    The layer is connected already, and the names are kept, as consumers keep theirs. Commands are
    the difference of what Redis counts.
    """
    layer: ChannelLayer = context.layer()
    kept = await members(layer, "warm", 20)
    await settle()
    consumers = context.count(2000, 200)
    with ServerView(context.url) as view:
        before = view.commands()
        started = time.perf_counter()
        for number in range(consumers):
            name = await layer.new_channel()
            await layer.group_add(f"bench.{number % 50}", name)
            kept.append(name)
        seconds = time.perf_counter() - started
        await asyncio.sleep(0.1)
        commands = view.commands() - before
    return {"value": consumers / seconds, "Redis commands each": commands / consumers}


async def memory(context: Context) -> Result:
    """Growth of the process for 5,000 consumers that wait in groups of ten.

    Each has a channel, one group and a task that waits in ``receive``.
    """
    layer: ChannelLayer = context.layer()
    warm = Receivers(layer, await members(layer, "warm", 100))
    await settle()
    consumers = context.count(5000, 500)
    with ServerView(context.url) as view:
        subscribed = view.subscriptions()
        before = resident_bytes()
        names = []
        for number in range(consumers):
            name = await layer.new_channel()
            await layer.group_add(f"bench.{number // 10}", name)
            names.append(name)
        receivers = Receivers(layer, names)
        del names
        await settle()
        grown = resident_bytes() - before
        subscribed = view.subscriptions() - subscribed
    await receivers.close()
    await warm.close()
    return {"value": grown / consumers, "Redis subscriptions each": subscribed / consumers}
