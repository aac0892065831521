"""The rows that send from plain threads, as WSGI views and management commands do."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

from asgiref.sync import async_to_sync

from tests.benchmarks.context import MESSAGE, Context, Result, level
from tests.benchmarks.server import ServerView

WARM_UP = 20


def _sender(context: Context) -> Callable[[], None]:
    """Return what sends one message: through ``async_to_sync``, or the layer's own sync face."""
    layer = context.layer()
    if context.peer.endswith(".sync"):
        face = layer.sync
        return lambda: face.group_send("bench", MESSAGE)
    group_send = async_to_sync(layer.group_send)
    return lambda: group_send("bench", MESSAGE)


def _run(threads: int, count: int, send: Callable[[], None], window: float) -> tuple[float, int]:
    """Send ``count`` times from each of ``threads`` threads.

    Returns:
        Seconds, and how many were sent before the window ended.

    Raises:
        Exception: The first that a thread ended with.
    """
    barrier = threading.Barrier(threads + 1)
    errors: list[Exception] = []
    sent: list[int] = []

    def work() -> None:
        barrier.wait(10)
        deadline = time.perf_counter() + window
        done = 0
        try:
            while done < count and time.perf_counter() < deadline:
                send()
                done += 1
        except Exception as error:
            errors.append(error)
        sent.append(done)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait(10)
    started = time.perf_counter()
    for worker in workers:
        worker.join(window + 30)
    seconds = time.perf_counter() - started
    if errors:
        raise errors[0]
    return seconds, sum(sent)


def _sync(context: Context, threads: int, rounds: int) -> Result:
    """Send in ``rounds`` of 400 from each thread; the rate is the median of the rounds."""
    rates, sent = [], WARM_UP
    with ServerView(context.url) as view:
        before = view.connections()
        send = _sender(context)
        _run(1, WARM_UP, send, context.window)
        level()
        for _ in range(context.count(rounds, 1)):
            seconds, done = _run(threads, context.count(400, 40), send, context.window)
            rates.append(done / seconds)
            sent += done
        connections = view.connections() - before
    return {"value": statistics.median(rates), "TCP connects per send": connections / sent}


def sync_sends(context: Context) -> Result:
    """Five rounds of 400 sends to a group, each from a plain thread.

    Connects include those of 20 warm-up sends.
    """
    return _sync(context, 1, 5)


def sync_sends_8(context: Context) -> Result:
    """400 sends to a group from each of eight plain threads at once."""
    return _sync(context, 8, 1)
