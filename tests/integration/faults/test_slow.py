"""Consumers that do not read, messages that are large, loops that are blocked."""

from __future__ import annotations

import asyncio
import contextlib
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from channels_mpx import LinkUnavailable, MultiplexedChannelLayer, parking, pulse
from channels_mpx.mailbox import Mailbox
from channels_mpx.pulse import Pulse
from channels_mpx.traffic import Traffic
from tests.helpers import eventually
from tests.integration.faults.loads import MEGABYTE, Meter, flood, flood_now
from tests.layers import (
    QUICK,
    open_layer,
    receive,
)
from tests.sequences import NOTICES
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]

#: The default of ``channel_max_bytes``, and what may be held in all: 20 % more.
BOUND = 64 * MEGABYTE
MOST = BOUND * 1.2

#: Bytes that readers who are meant to keep up are behind at the most; Redis cuts them at 32 MB.
UNREAD = 8 * MEGABYTE


@pytest.fixture
def meter() -> Iterator[Callable[[], Meter]]:
    """A function that begins to measure memory."""
    tracemalloc.start()
    yield Meter
    tracemalloc.stop()


async def keep_up(layer: MultiplexedChannelLayer, channel: str, numbers: list[int]) -> None:
    """Read until cancelled."""
    while True:
        numbers.append((await layer.receive(channel))["number"])


@contextlib.asynccontextmanager
async def slow_and_quick(
    layer: MultiplexedChannelLayer,
) -> AsyncIterator[tuple[str, list[int]]]:
    """Yield a member of ``room`` that does not read, and what one beside it has read."""
    slow, quick = await layer.new_channel(), await layer.new_channel()
    for channel in (slow, quick):
        await layer.group_add("room", channel)
    numbers: list[int] = []
    reading = asyncio.ensure_future(keep_up(layer, quick, numbers))
    try:
        yield slow, numbers
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_consumer_that_does_not_read_has_bounded_memory(
    make_redis: MakeRedis, meter: Callable[[], Meter]
) -> None:
    """300 x 1 MB: within the configured bytes + 20 %, not cut by Redis, drops counted exactly.

    No faster than it is read: a sender on the same machine could outrun every reader, and then it is
    Redis that decides, see `test_flood_above_the_servers_limit_is_a_gap`.
    """
    server = make_redis()
    async with open_layer(server, channel_max_bytes=BOUND, capacity=1000) as layer:
        async with slow_and_quick(layer) as (slow, numbers):
            measured = meter()
            watching = asyncio.ensure_future(measured.watch_pages())
            await flood(server, 300, MEGABYTE, 150, UNREAD)
            await eventually(lambda: len(numbers) == 300 or layer.statistics().connection.epoch > 1)
            watching.cancel()
            print(
                f"{BOUND / MEGABYTE:.0f} MiB may wait: peak of what Python holds "
                f"{measured.peak / MEGABYTE:.1f}, of pages {measured.pages / MEGABYTE:+.1f}"
            )
            assert measured.peak <= MOST
            assert measured.pages <= MOST
            assert layer.statistics().dropped["full"] == 300 - layer.statistics().waiting
            assert [(await receive(layer, slow))["number"] for _ in range(60)] == list(range(60))
        assert numbers == list(range(300))
        assert layer.statistics().connection.epoch == 1


async def test_without_a_bound_in_bytes_memory_grows(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch, meter: Callable[[], Meter]
) -> None:
    """The control: a mailbox that only counts messages holds all of them."""
    put = Mailbox.put

    def put_any(self: Mailbox, item: Any) -> bool:
        self.max_bytes = 2**62
        return put(self, item)

    monkeypatch.setattr(Mailbox, "put", put_any)
    server = make_redis()
    async with open_layer(server, channel_max_bytes=BOUND, capacity=1000) as layer:
        measured = meter()
        async with slow_and_quick(layer) as (_, numbers):
            await flood(server, 120, MEGABYTE, 150, UNREAD)
            await eventually(lambda: len(numbers) == 120)
            measured.look()
            assert measured.peak > 115 * MEGABYTE > MOST
            assert measured.pages > MOST


async def test_loop_that_is_blocked_for_five_seconds(
    make_redis: MakeRedis, meter: Callable[[], Meter]
) -> None:
    """300 x 1 MB, and 1,000 small messages a second, with the default deadlines: both links stay.

    Of the large ones, all that do not fit are counted, and memory stays within the configured bytes
    + 20 %; of the small ones, none is missing.

    The server of the large ones has no limit for what a subscriber has not read: 5 s are too long
    for its default of 32 MB, whatever the subscriber does, see the control.
    """
    roomy = make_redis(config=["client-output-buffer-limit pubsub 0 0 0"])
    server = make_redis()
    async with (
        open_layer(roomy, channel_max_bytes=BOUND, capacity=1000) as large,
        open_layer(server, capacity=100_000) as small,
    ):
        channels = []
        for layer in (large, small):
            channels.append(await layer.new_channel())
            await layer.group_add("room", channels[-1])
        measured = meter()
        watching = asyncio.ensure_future(measured.watch_pages())
        floods = [asyncio.ensure_future(flood(server, 6000, 100, 1000))]
        await eventually(lambda: small.statistics().connection.received > 5)
        floods.append(asyncio.ensure_future(flood(roomy, 300, MEGABYTE)))
        await eventually(lambda: large.statistics().connection.received > 5)
        assert large.statistics().connection.received < 200  # much of it comes while we are blocked
        time.sleep(5.0)
        await asyncio.gather(*floods)
        await eventually(lambda: large.statistics().connection.received >= 300)
        watching.cancel()
        print(
            f"peak of what Python holds {measured.peak / MEGABYTE:.1f} MiB, "
            f"of pages {measured.pages / MEGABYTE:+.1f}"
        )
        assert measured.peak <= MOST
        assert measured.pages <= MOST
        assert large.statistics().dropped["full"] == 300 - large.statistics().waiting
        for number in range(6000):
            assert (await receive(small, channels[1]))["number"] == number
        for layer in (large, small):
            assert layer.statistics().connection.epoch == 1


async def test_flood_above_the_servers_limit_is_a_gap(make_redis: MakeRedis) -> None:
    """The control: 32 MB behind, by Redis's default limit, Redis cuts us, and that is told."""
    server = make_redis()
    async with open_layer(server, channel_max_bytes=BOUND, **NOTICES) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        with ThreadPoolExecutor(1) as pool:
            flooding = pool.submit(flood_now, server, 100, MEGABYTE)
            await eventually(lambda: layer.statistics().connection.received > 5)
            flooding.result()  # which blocks the loop for as long as it takes
        while (await receive(layer, channel)).get("type") != "gap.opened":
            pass
        # A PING that was written after the end is answered with a reset.
        assert list(layer.statistics().connection.reconnections) in (["closed"], ["network"])


def left_at_once(self: Pulse, link: Any) -> None:
    """Take a PING for written when it was decided on."""
    self._liveness.ping_left(self._liveness._pinged_at)


@pytest.mark.parametrize("is_protected", [True, False])
async def test_loop_that_is_blocked_at_the_worst_moment(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch, is_protected: bool
) -> None:
    """Blocked between deciding on a PING and writing it: the server is not to blame.

    The control: judging by the clock alone, a healthy link is given up.
    """
    if not is_protected:
        monkeypatch.setattr(Pulse, "_note_written", left_at_once)
        monkeypatch.setattr(pulse, "MOMENT", 0.0)
    ping = Pulse._ping

    def ping_and_block(self: Pulse, link: Any) -> None:
        if not blocked:
            blocked.append(True)
            server.freeze()  # the reply must not be there already when the loop looks again
            self._loop.call_soon(block, self._loop)  # which comes before the writing
        ping(self, link)

    def block(loop: asyncio.AbstractEventLoop) -> None:
        time.sleep(1.0)
        if is_protected:  # the server goes on when the loop has looked
            loop.call_later(0.05, server.thaw)

    blocked: list[bool] = []
    monkeypatch.setattr(Pulse, "_ping", ping_and_block)
    server = make_redis()
    async with open_layer(server, **QUICK, ping_interval=0.3, ping_timeout=0.3) as layer:
        await layer.new_channel()
        await eventually(lambda: blocked)
        channel = await layer.new_channel()
        if is_protected:
            await layer.send(channel, {"type": "a"})
            assert await receive(layer, channel) == {"type": "a"}
            assert layer.statistics().connection.reconnections == {}
        else:
            await eventually(lambda: layer.statistics().connection.reconnections == {"silent": 1})
            server.thaw()


async def small_beside_large(
    server: RedisServer, count: int, seconds: float, handled: Callable[[Any], None]
) -> list[float]:
    """Return how long small messages take through connections on which large ones pass.

    Args:
        server: The server.
        count: How many large ones.
        seconds: What their consumer needs for each.
        handled: Called with the layer when it has.
    """
    roomy = {"capacity": 1000, "channel_max_bytes": 2 * count * MEGABYTE}
    async with open_layer(server) as sender, open_layer(server, **roomy) as layer:
        large = await layer.new_channel()
        await layer.group_add("large", large)
        data = b"x" * MEGABYTE
        is_over = asyncio.Event()

        async def send_large() -> None:
            for number in range(count):
                await sender.group_send("large", {"number": number, "data": data})
            is_over.set()

        async def read_large() -> None:
            for number in range(count):
                assert (await receive(layer, large))["number"] == number
                await asyncio.sleep(seconds)
                handled(layer)

        tasks = [asyncio.ensure_future(work()) for work in (send_large, read_large)]
        took = []

        async def pass_small() -> None:
            channel = await layer.new_channel()
            while not is_over.is_set():
                start = time.perf_counter()
                await sender.send(channel, {"type": "small"})
                await receive(layer, channel)
                took.append(time.perf_counter() - start)

        await asyncio.gather(*tasks, *(pass_small() for _ in range(8)))
        assert layer.statistics().dropped["full"] == 0
        assert layer.statistics().connection.epoch == 1
        return sorted(took)


async def overtakes(server: RedisServer) -> None:
    """Fail unless a small message comes while 20 large ones, sent before it, are not yet handled."""
    roomy = {"capacity": 1000, "channel_max_bytes": 50 * MEGABYTE}
    async with open_layer(server) as sender, open_layer(server, **roomy) as layer:
        large, small = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("large", large)
        for number in range(20):
            await sender.group_send("large", {"number": number, "data": b"x" * MEGABYTE})
        await sender.send(small, {"type": "small"})
        assert await receive(layer, small) == {"type": "small"}
        assert layer.statistics().waiting == 20


async def test_small_messages_pass_beside_large_ones(make_redis: MakeRedis, is_full: bool) -> None:
    """Large ones wait for a slow consumer, and small ones on the same connections overtake them.

    At full size 99 of 100 also take 50 ms at most beside 100 x 1 MB, in one of three trials.
    """
    server = make_redis()
    await overtakes(server)
    for _ in range(3 if is_full else 0):
        took = await small_beside_large(server, 100, 0.01, lambda layer: None)
        p99 = took[int(len(took) * 0.99)]
        print(
            f"{len(took)} small messages: p50 {took[len(took) // 2] * 1000:.1f} ms, "
            f"p99 {p99 * 1000:.1f} ms"
        )
        if p99 <= 0.05:
            return
    assert not is_full, "in no trial were 99 of 100 small messages there within 50 ms"


async def test_a_reader_that_waits_for_consumers_would_be_found(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: if reading stopped while the large ones are handled, small ones would wait."""
    message = Traffic.message

    def wait(self: Traffic, channel: bytes, payload: bytes) -> None:
        message(self, channel, payload)
        if len(payload) > MEGABYTE:
            transport(self).pause_reading()

    def transport(traffic: Traffic) -> asyncio.ReadTransport:
        link: Any = traffic.link
        return link._transport

    monkeypatch.setattr(Traffic, "message", wait)
    server = make_redis(config=["client-output-buffer-limit pubsub 0 0 0"])
    took = await small_beside_large(
        server, 20, 0.1, lambda layer: transport(layer._hub.life.traffic).resume_reading()
    )
    assert took[int(len(took) * 0.99)] > 0.05
    with pytest.raises(asyncio.TimeoutError):
        await overtakes(server)


async def test_what_waits_for_a_link_is_bounded(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is no server, so many bytes and messages wait, and the next is told why not."""
    server = make_redis()
    async with open_layer(server, timeout=20) as layer:
        channel = await layer.new_channel()
        server.kill()
        await eventually(lambda: layer.statistics().connection.state == "connecting")
        data = b"x" * MEGABYTE
        sends = [asyncio.ensure_future(layer.group_send("a", {"data": data})) for _ in range(80)]
        done, waiting = await asyncio.wait(sends, timeout=0.2)
        assert len(waiting) == 63
        for send in done:
            with pytest.raises(LinkUnavailable, match=r"63 commands .* wait for it already"):
                send.result()
        monkeypatch.setattr(parking, "MAX_COMMANDS", 63)
        with pytest.raises(LinkUnavailable, match="63 commands"):
            await layer.send(channel, {"type": "a"})
        next(iter(waiting)).cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        last = asyncio.ensure_future(layer.send(channel, {"type": "b"}))
        server.start()
        await asyncio.gather(*waiting, return_exceptions=True)
        await last
        assert await receive(layer, channel) == {"type": "b"}


async def test_without_a_bound_everything_waits(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: 80 MB wait where 64 may."""
    monkeypatch.setattr(parking, "MAX_BYTES", 2**62)
    server = make_redis()
    async with open_layer(server, timeout=20) as layer:
        await layer.new_channel()
        server.kill()
        await eventually(lambda: layer.statistics().connection.state == "connecting")
        data = b"x" * MEGABYTE
        sends = [asyncio.ensure_future(layer.group_send("a", {"data": data})) for _ in range(80)]
        _, waiting = await asyncio.wait(sends, timeout=0.2)
        assert len(waiting) == 80
        for send in sends:
            send.cancel()
        await asyncio.gather(*sends, return_exceptions=True)
