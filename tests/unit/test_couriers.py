"""Couriers carry jobs in order, and say so when they cannot."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from channels_mpx.couriers import Courier, JobAbandoned, LoopIsGone, Outcome
from tests.helpers import eventually


async def test_jobs_of_one_moment_are_delivered_in_order() -> None:
    """Jobs posted from a thread are called on the loop, in the order of posting."""
    courier, got = Courier(asyncio.get_running_loop()), list[int]()
    done = asyncio.Event()

    def post() -> None:
        for number in range(3):
            courier.post(lambda number=number: got.append(number))  # type: ignore[misc]
        courier.post(done.set)

    await asyncio.to_thread(post)
    await done.wait()
    assert got == [0, 1, 2]
    assert not courier.is_loaded


async def test_post_that_interrupts_a_post_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may post in the middle of a post, before that one has woken the loop."""
    loop = asyncio.get_running_loop()
    courier, got = Courier(loop), list[str]()
    wake, interruptions = loop.call_soon_threadsafe, [1, 2]

    def interrupted(*arguments: Any) -> Any:
        if interruptions:
            number = interruptions.pop()
            courier.post(lambda: got.append(f"handler {number}"))
            if number == 1:
                return None  # this very wake-up never comes, as if it were late
        return wake(*arguments)

    monkeypatch.setattr(loop, "call_soon_threadsafe", interrupted)
    courier.post(lambda: got.append("main"))
    await eventually(lambda: len(got) == 3)
    assert got == ["main", "handler 2", "handler 1"]
    assert not courier.is_loaded


async def test_post_that_a_signal_handler_cuts_short_does_not_silence_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C may come between the note that the loop is called and the call."""
    loop = asyncio.get_running_loop()
    courier, got = Courier(loop), list[str]()

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_soon_threadsafe", interrupted)
        with pytest.raises(KeyboardInterrupt):
            courier.post(lambda: got.append("first"))
    courier.post(lambda: got.append("second"))
    await eventually(lambda: got == ["first", "second"])


async def test_handler_that_raises_in_a_post_costs_other_threads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread that posts meanwhile relies on the interrupted call, and need not post again."""
    loop = asyncio.get_running_loop()
    courier, got, wake = Courier(loop), list[str](), loop.call_soon_threadsafe
    threads = [threading.Thread(target=courier.post, args=(lambda: got.append("other"),))]

    def interrupted(*arguments: Any) -> Any:
        if not threads:
            return wake(*arguments)
        thread = threads.pop()
        thread.start()
        thread.join()
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        courier.post(lambda: got.append("mine"))
    await eventually(lambda: got == ["mine", "other"])


def test_closed_loop_takes_no_jobs() -> None:
    """A courier to a loop that is closed says so, every time, and keeps nothing."""
    loop = asyncio.new_event_loop()
    loop.close()
    courier = Courier(loop)
    for _ in range(2):
        with pytest.raises(LoopIsGone):
            courier.post(print)
    assert not courier.is_loaded


async def test_close_refuses_what_was_not_delivered() -> None:
    """Whoever posted in vain is told, if he can be."""
    courier, got = Courier(asyncio.get_running_loop()), list[str]()
    courier.post(lambda: got.append("done"), lambda: got.append("refused"))
    courier.post(lambda: got.append("done"))
    courier.close()
    assert got == ["refused"]
    await asyncio.sleep(0)
    assert got == ["refused"]
    with pytest.raises(LoopIsGone):
        courier.post(print)


def test_outcome_is_abandoned_after_the_deadline() -> None:
    """A thread does not wait for ever."""
    outcome: Outcome[int] = Outcome()
    with pytest.raises(JobAbandoned):
        outcome.wait(0.01)
    threading.Timer(0.01, outcome.settle, (5, None)).start()
    assert outcome.wait(5) == 5


async def test_courier_is_loaded_until_its_jobs_have_ended() -> None:
    """A home must not be left between the taking of a job and its beginning."""
    courier = Courier(asyncio.get_running_loop())
    seen: list[bool] = []
    courier.post(lambda: seen.append(courier.is_loaded))
    assert courier.is_loaded
    await eventually(lambda: seen)
    assert seen == [True]
    assert not courier.is_loaded


async def test_job_that_fails_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback, and the next one has its turn."""
    courier, done = Courier(asyncio.get_running_loop()), asyncio.Event()
    courier.post(lambda: 1 / 0)
    courier.post(done.set)
    await asyncio.wait_for(done.wait(), 5)
    assert "channels_mpx: internal error in a call handed over by another thread" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert not courier.is_loaded


def test_collected_loop_takes_no_jobs() -> None:
    """A courier does not keep its loop."""
    loop = asyncio.new_event_loop()
    courier = Courier(loop)
    loop.close()
    del loop
    gc.collect()
    with pytest.raises(LoopIsGone):
        courier.post(print)
