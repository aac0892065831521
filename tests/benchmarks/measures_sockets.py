"""The rows of real WebSocket clients at real servers, Daphne and uvicorn."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

from tests.benchmarks.clients import Clients, TimingClient
from tests.benchmarks.context import STALL, Context, Result, level, percentile
from tests.benchmarks.feed import Feed, Watch
from tests.benchmarks.webserver import WebServer

WARM_UP = 1.0
"""Seconds of flood or stream before what is measured."""
SETTLE = 0.3
"""Seconds for subscriptions that a layer does not wait for."""
PAUSE = 0.002
"""Seconds between two readings in a flood: clients that take more at a time need less processor."""
RATE = 200
"""Messages per second of the paced stream."""


def _settle(clients: Clients, expected: int) -> None:
    """Read until everything has come, or nothing comes any more."""
    last = time.monotonic()
    while clients.frames < expected and time.monotonic() - last < STALL:
        before = clients.frames
        clients.poll(0.1)
        if clients.frames != before:
            last = time.monotonic()
    clients.poll(0)


def flooded(name: str) -> Callable[[Context], Result]:
    """Return the measure of one server's throughput."""

    def measure(context: Context) -> Result:
        """200 clients whose consumers are in one group, which another process floods.

        Frames are counted where the clients read them, in a third process.
        """
        count = context.count(200, 20)
        with WebServer(name, context) as server, Feed(context, count) as feed:
            server.wait()
            with closing(Clients(server.port, count)) as clients:
                time.sleep(SETTLE)

                def read_for(seconds: float) -> None:
                    end = time.perf_counter() + seconds
                    while time.perf_counter() < end:
                        clients.poll(0.1)
                        feed.follow(clients.frames)
                        time.sleep(PAUSE)

                feed.open()
                read_for(WARM_UP)
                level()
                watch, cpu, own = Watch(), server.cpu_seconds(), time.process_time()
                watch.read(clients.frames)
                read_for(context.span)
                watch.read(clients.frames)
                cpu, own = server.cpu_seconds() - cpu, time.process_time() - own
                feed.stop()
                _settle(clients, feed.expected)
                result = watch.result(clients.frames, feed.expected)
                if not result["dropped"]:
                    clients.require_equal()
            feed.finish()
        return {
            **result,
            "server's cores": cpu / context.span,
            "clients' cores": own / context.span,
        }

    return measure


def paced(name: str) -> Callable[[Context], Result]:
    """Return the measure of one server's latency."""

    def measure(context: Context) -> Result:
        """200 messages a second to 20 clients, far from saturation.

        Each message carries the time before its ``group_send``; the clients' process reads the
        frame and then the same clock.
        """
        with WebServer(name, context) as server, Feed(context, 20, stamped=True) as feed:
            server.wait()
            with closing(Clients(server.port, 20, TimingClient)) as clients:
                time.sleep(SETTLE)
                level()
                warm, count = int(WARM_UP * RATE), int((WARM_UP + context.span) * RATE)
                started = time.perf_counter()
                while feed.sent < count:
                    left = started + feed.sent / RATE - time.perf_counter()
                    if left > 0:
                        clients.poll(left)
                    else:
                        feed.allow(1)
                _settle(clients, feed.expected)
                seconds = time.perf_counter() - started
                delays = [delay for client in clients.all for delay in client.delays[warm:]]
                dropped = feed.expected - clients.frames
            feed.finish()
        if not delays or seconds > 2 * count / RATE:
            raise RuntimeError(f"{clients.frames} frames in {seconds:.1f} s: not {RATE} a second")
        return {
            "value": percentile(delays, 0.5),
            "p99 µs": percentile(delays, 0.99),
            "deliveries": len(delays),
            "dropped": dropped,
        }

    return measure


daphne, uvicorn = flooded("daphne"), flooded("uvicorn")
daphne_latency, uvicorn_latency = paced("daphne"), paced("uvicorn")
