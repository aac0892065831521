"""Small things that many tests use."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(predicate: Callable[[], T | Awaitable[T]], timeout: float = 20.0) -> T:
    """Wait until a predicate holds and return its value; use this instead of a sleep.

    Args:
        predicate: a function, or a coroutine function, that is asked every 5 ms.
        timeout: seconds after which the test fails; it only ends a test that would hang.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if loop.time() >= deadline:
            raise AssertionError(f"not true within {timeout} s: {inspect.getsource(predicate)}")
        await asyncio.sleep(0.005)


def wait_until(predicate: Callable[[], bool]) -> None:
    """Wait for something from a thread without a loop."""
    asyncio.run(eventually(predicate))
