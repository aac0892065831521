"""Readers of worker channels belong to their event loops, and end with them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from channels_mpx import MultiplexedChannelLayer, NoListener
from tests.helpers import eventually
from tests.layers import open_layer, reading, receive, run_script, subscriptions
from tests.servers import RedisServer


@contextlib.contextmanager
def home_elsewhere(layer: MultiplexedChannelLayer) -> Iterator[None]:
    """Have another thread's event loop own the connection inside of the block."""
    ready, loops = threading.Event(), []

    async def live() -> None:
        await layer.new_channel()
        loops.append((asyncio.get_running_loop(), ended := asyncio.Event()))
        ready.set()
        await ended.wait()
        await layer.aclose()

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    ready.wait(20)
    try:
        yield
    finally:
        ((loop, ended),) = loops
        loop.call_soon_threadsafe(ended.set)
        thread.join()


def wanted(layer: MultiplexedChannelLayer) -> int:
    """Return for how many readers nothing was popped yet."""
    return len(waiting_loops(layer))


def waiting_loops(layer: MultiplexedChannelLayer) -> list[asyncio.AbstractEventLoop]:
    """Return the loops of those readers."""
    queues = tuple(layer._process.workers._queues.values())
    return [reader.loop for queue in queues for reader in tuple(queue._waiting)]


CLOSED_WHILE_POPPING = """
    import asyncio
    import os
    import signal
    import sys

    from channels_mpx import MultiplexedChannelLayer
    from tests.helpers import eventually

    url, pid = sys.argv[1], int(sys.argv[2])
    layer = MultiplexedChannelLayer(hosts=[url], timeout=20)

    async def first():
        await layer.send("jobs", {"type": "a"})
        assert await layer.receive("jobs") == {"type": "a"}
        os.kill(pid, signal.SIGSTOP)
        reader = asyncio.ensure_future(layer.receive("jobs"))
        await eventually(lambda: layer.statistics().connection.in_flight)
        return reader

    async def second():
        await layer.send("jobs", {"type": "b"})
        print(await asyncio.wait_for(layer.receive("jobs"), 10))
        await layer.aclose()

    loop = asyncio.new_event_loop()
    kept = loop.run_until_complete(first())
    loop.close()
    os.kill(pid, signal.SIGCONT)
    asyncio.run(second())
"""


def test_channel_is_read_after_a_home_that_was_closed_while_popping(
    make_redis: Callable[..., RedisServer],
) -> None:
    """A pop ends with its loop, also if nobody ended its tasks; the next home pops again."""
    server = make_redis()
    arguments = (server.url, str(server.pid))
    assert run_script(CLOSED_WHILE_POPPING, *arguments, strict=False) == "{'type': 'b'}\n"


def test_readers_of_closed_loops_take_no_jobs(redis_server: RedisServer) -> None:
    """Those who live get all of them, in whatever process, and the dead are forgotten."""
    layer = MultiplexedChannelLayer(hosts=[redis_server.url], timeout=20)
    kept = []

    async def work() -> list[int]:
        async with open_layer(redis_server) as other, reading(other, "jobs") as first:
            await eventually(
                lambda: redis_server.command("PUBSUB", "NUMSUB", "mpx:bell:jobs")[1] == 2
            )
            got = []
            for number in range(10):
                await other.send("jobs", {"number": number})
                job = await first if not number else await receive(other, "jobs")
                got.append(job["number"])
            return got

    with home_elsewhere(layer):
        for _ in range(3):
            loop = asyncio.new_event_loop()
            kept.append(loop.create_task(layer.receive("jobs")))
            loop.run_until_complete(eventually(lambda loop=loop: loop in waiting_loops(layer)))
            loop.close()
        assert asyncio.run(work()) == list(range(10))
        layer.sync.send("jobs", {"type": "unread"})
        asyncio.run(eventually(lambda: not wanted(layer)))
        assert redis_server.command("LLEN", "mpx:queue:jobs") == 1
    for task in kept:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_job_given_to_a_loop_that_was_closed_goes_back(redis_server: RedisServer) -> None:
    """It was popped for somebody who never took it."""
    layer = MultiplexedChannelLayer(hosts=[redis_server.url], expiry=4, timeout=20)
    with home_elsewhere(layer):
        loop = asyncio.new_event_loop()
        task = loop.create_task(layer.receive("jobs"))
        loop.run_until_complete(eventually(lambda: wanted(layer) == 1))
        # The loop stands still: it is not dead, and gets the job.
        layer.sync.send("jobs", {"type": "a"})
        asyncio.run(eventually(lambda: "waiting=1" in repr(layer._process.workers)))
        assert redis_server.command("LLEN", "mpx:queue:jobs") == 0
        loop.close()
        asyncio.run(eventually(lambda: redis_server.command("LLEN", "mpx:queue:jobs") == 1))
        assert layer.statistics().dropped["unknown"] == 0
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_reader_on_a_loop_that_stood_still_goes_on(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: it is not dead, and nobody takes its job."""
    layer = MultiplexedChannelLayer(hosts=[redis_server.url], expiry=0.4, timeout=20)
    with home_elsewhere(layer):
        loop = asyncio.new_event_loop()
        task = loop.create_task(layer.receive("jobs"))
        loop.run_until_complete(eventually(lambda: wanted(layer) == 1))
        layer.sync.send("jobs", {"type": "a"})
        asyncio.run(eventually(lambda: "waiting=1" in repr(layer._process.workers)))
        ticks, workers = list[None](), layer._process.workers
        tick = workers.tick
        monkeypatch.setattr(workers, "tick", lambda: ticks.append(tick()))
        asyncio.run(eventually(lambda: len(ticks) > 2))
        assert loop.run_until_complete(task) == {"type": "a"}
        loop.close()


async def test_request_after_the_last_reader_has_ended_is_an_error(
    redis_server: RedisServer,
) -> None:
    """Whether it waited or was at work when it ended; no need to wait for any timeout."""
    async with open_layer(redis_server) as worker, open_layer(redis_server) as asker:
        begun = asyncio.Event()

        async def work() -> None:
            while True:
                await worker.receive("jobs")
                begun.set()
                await asyncio.sleep(3600)

        async def read() -> None:
            while True:
                await worker.reply(await worker.receive("jobs"), {"type": "done"})

        for run, is_at_work in ((read, False), (work, True)):
            task = asyncio.ensure_future(run())
            await eventually(lambda: subscriptions(redis_server, "mpx:bell"))
            if is_at_work:
                await asker.send("jobs", {"type": "a"})
                await begun.wait()
            else:
                assert await asker.request("jobs", {"type": "a"}) == {"type": "done"}
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await eventually(lambda: not subscriptions(redis_server, "mpx:bell"))
            with pytest.raises(NoListener):
                await asker.request("jobs", {"type": "a"}, timeout=3600)


async def test_worker_that_is_at_work_is_still_a_listener(redis_server: RedisServer) -> None:
    """Its process keeps listening between two jobs, so a request waits for it; no churn either."""
    async with open_layer(redis_server) as worker, open_layer(redis_server) as asker:
        is_free = asyncio.Event()

        async def work() -> None:
            while True:
                event = await worker.receive("jobs")
                if event["type"] == "long":
                    await is_free.wait()
                else:
                    await worker.reply(event, {"type": "done"})

        task = asyncio.ensure_future(work())
        await eventually(lambda: subscriptions(redis_server, "mpx:bell"))
        await asker.send("jobs", {"type": "long"})
        asking = asyncio.ensure_future(asker.request("jobs", {"type": "ask"}))
        redis_server.command("CONFIG", "RESETSTAT")
        await asyncio.sleep(0.3)  # longer than a queue lingers
        is_free.set()
        assert await asking == {"type": "done"}
        for _ in range(50):
            assert await asker.request("jobs", {"type": "ask"}) == {"type": "done"}
        calls = redis_server.command("INFO", "commandstats")
        assert "cmdstat_unsubscribe" not in calls
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "gone"])
async def test_what_is_popped_while_an_event_loop_ends_is_not_lost(
    redis_server: RedisServer, reads: bool
) -> None:
    """However many turns after the bell it ends, a job is for a reader of the next loop."""
    layer = MultiplexedChannelLayer(hosts=[redis_server.url], timeout=20)

    async def first(number: int) -> asyncio.Future[Any]:
        reader = asyncio.ensure_future(layer.receive("jobs"))
        await eventually(lambda: wanted(layer) == 1)
        await layer.send("jobs", {"type": "job", "number": number})
        if not reads:
            reader.cancel()
        for _ in range(number):
            await asyncio.sleep(0)
        return reader

    async def second(number: int) -> None:
        message = await receive(layer, "jobs")
        assert message["number"] == number

    def live() -> None:
        for number in range(12):
            if asyncio.run(first(number)).cancelled():
                asyncio.run(second(number))

    await asyncio.to_thread(live)
    assert sum(layer.statistics().dropped.values()) == 0
