"""Callbacks: in every form that Python calls, and what goes wrong in them stays with them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Generator
from typing import Any

import pytest

from channels_mpx import NotCallable
from channels_mpx.callbacks import Callbacks, call

OWNER = "<the owner>"


class Called:
    """Objects whose call, or method, is a coroutine function, and some others."""

    def __init__(self, got: list[Any]) -> None:
        self._got = got

    async def __call__(self, *args: Any) -> None:
        await asyncio.sleep(0)
        self._got.append(args)

    async def method(self, *args: Any) -> None:
        await self(*args)

    def plain(self, *args: Any) -> int:
        self._got.append(args)
        return 7


class Awaitable:
    """Something that can be awaited and is no coroutine."""

    def __init__(self, then: Callable[[], object]) -> None:
        self._then = then

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.sleep(0).__await__()
        self._then()


FORMS: dict[str, Callable[[list[Any]], Any]] = {
    "function": lambda got: lambda *args: got.append(args),
    "method": lambda got: Called(got).plain,
    "async method": lambda got: Called(got).method,
    "object": Called,
    "partial": lambda got: functools.partial(Called(got).method, b"one"),
    "partial of an object": lambda got: functools.partial(Called(got), b"one"),
    "lambda that returns a coroutine": lambda got: lambda *args: Called(got)(*args),
    "task": lambda got: lambda *args: asyncio.ensure_future(Called(got)(*args)),
    "awaitable": lambda got: lambda *args: Awaitable(lambda: got.append(args)),
}


@pytest.mark.parametrize("form", FORMS)
async def test_call_and_await_whatever_can_be(form: str) -> None:
    """How Python spells it makes no difference: it is done when `call` returns."""
    got: list[Any] = []
    args = (b"1",) if form.startswith("partial") else (b"one", b"1")
    await call(OWNER, FORMS[form](got), *args)
    assert got == [(b"one", b"1")]


async def test_what_a_callback_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With the traceback and the owner, at once or when it is awaited, and never what it got."""

    def fail(payload: bytes) -> None:
        raise ZeroDivisionError("sync")

    async def fail_later(payload: bytes) -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError("async")

    for callback in (fail, fail_later):
        await call(OWNER, callback, b"secret")
    assert [record.getMessage() for record in caplog.records] == [
        "channels_mpx: a callback of '<the owner>' failed"
    ] * 2
    assert "ZeroDivisionError: sync" in caplog.text
    assert "ZeroDivisionError: async" in caplog.text
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert "secret" not in "".join(record.getMessage() for record in caplog.records)


async def test_wrong_number_of_arguments_is_the_callback_s_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged like any other."""
    await call(OWNER, lambda: None, b"one", b"1")
    assert "TypeError" in caplog.text


async def test_callback_that_awaited_what_was_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody has cancelled the task that calls, so it goes on."""
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()

    async def on_message() -> None:
        await cancelled

    await call(OWNER, on_message)
    assert [record.getMessage() for record in caplog.records] == [
        "channels_mpx: a callback of '<the owner>' awaited what was cancelled"
    ]


async def test_cancelling_the_task_that_calls() -> None:
    """Ends the callback, and the task."""
    ended = asyncio.Event()

    async def on_message() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(call(OWNER, on_message))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), 5)


def test_callbacks_know_which_events_somebody_cares_for() -> None:
    """The end is always told."""
    assert Callbacks().events == {"on_end"}
    assert Callbacks(print, on_gap=print).events == {"on_message", "on_gap", "on_end"}


@pytest.mark.parametrize("name", ["on_message", "on_disconnect", "on_activation", "on_gap"])
def test_callbacks_must_be_callable(name: str) -> None:
    """Each is checked, and named."""
    with pytest.raises(NotCallable, match=f"^{name} must be"):
        Callbacks(**{name: "print"})  # type: ignore[arg-type]
