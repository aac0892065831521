"""The event loop that the connection lives on, as other loops and threads see it.

They hand over *jobs* through a `Courier`, and are told what became of each: what it returned or
raised, that it was not begun (`LoopIsGone`), or that nobody will ever know (`JobAbandoned`).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from .couriers import Courier, JobAbandoned, LoopIsGone, Outcome, courier_to

__all__ = ["Home"]

T = TypeVar("T")

#: Called with what a verb has returned, or with what it has raised.
Settle = Callable[[T | None, BaseException | None], None]

#: Seconds that jobs under way have to end when their home does.
GRACE = 0.5


class Home:
    """The loop that the connection lives on.

    Args:
        loop: The loop.
        thread: The thread that we started for it; None for a loop of somebody else's.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, thread: threading.Thread | None = None
    ) -> None:
        self.loop = loop
        self.thread = thread
        self.courier = Courier(loop)
        #: Whether an event loop that would take over has waited for a lull, in vain.
        self.has_been_waited_for = False
        #: How to tell the callers of what is under way what became of it.
        self._under_way: dict[asyncio.Future[Any], Settle[Any]] = {}

    def __repr__(self) -> str:
        where = "background" if self.thread else "shared"
        return f"<Home {where} loop at {id(self.loop):#x}>"

    async def call(self, verb: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call ``verb`` at home from another loop, and await what it returns.

        Cancelling the caller cancels the awaitable at home.

        Raises:
            LoopIsGone: Home ended first, the verb was not begun.
            JobAbandoned: Home ended while the verb was under way.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        begun: list[asyncio.Future[T]] = []
        back = courier_to(loop)

        def settle(value: T | None, error: BaseException | None) -> None:
            with contextlib.suppress(LoopIsGone):  # then nobody waits any more
                back.post(lambda: _settle(result, value, error))

        self.courier.post(
            lambda: self._begin(verb, args, settle, begun), lambda: settle(None, LoopIsGone())
        )
        try:
            return await result
        except asyncio.CancelledError:
            with contextlib.suppress(LoopIsGone):
                self.courier.post(lambda: [future.cancel() for future in begun])
            raise

    def call_sync(self, timeout: float, verb: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call ``verb`` at home from a thread without a loop, and block until it has ended.

        Raises:
            LoopIsGone: Home ended first, the verb was not begun.
            JobAbandoned: Home ended while the verb was under way, or it takes longer than
                ``timeout`` seconds.
        """
        outcome: Outcome[T] = Outcome()
        self.courier.post(
            lambda: self._begin(verb, args, outcome.settle, []),
            lambda: outcome.settle(None, LoopIsGone()),
        )
        return outcome.wait(timeout)

    def _begin(
        self,
        verb: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
        settle: Settle[T],
        begun: list[asyncio.Future[T]],
    ) -> None:
        """Start a verb on this loop and report its end, whatever that is."""

        def report(future: asyncio.Future[T]) -> None:
            if self._under_way.pop(future, None) is None:
                return  # the caller has given up on this home
            if future.cancelled():
                settle(None, JobAbandoned())
            else:
                error = future.exception()
                settle(None if error else future.result(), error)

        try:
            future = asyncio.ensure_future(verb(*args), loop=self.loop)
        except Exception as error:  # it belongs to the caller, whatever it is
            settle(None, error)
            return
        begun.append(future)
        self._under_way[future] = settle
        future.add_done_callback(report)

    @property
    def is_busy(self) -> bool:
        """Whether anything that was handed over is under way."""
        return self.courier.is_loaded or bool(self._under_way)

    def abandon(self) -> None:
        """The loop runs no more: let nobody wait for it. From any thread."""
        self.courier.close()
        while self._under_way:
            with contextlib.suppress(KeyError):  # the loop runs again, and was quicker
                self._under_way.popitem()[1](None, JobAbandoned())

    async def finish(self) -> None:
        """Let what was handed over, and can end soon, come to its end."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=GRACE)


def _settle(result: asyncio.Future[T], value: T | None, error: BaseException | None) -> None:
    if result.done():
        return
    if error is not None:
        result.set_exception(error)
    else:
        result.set_result(value)  # type: ignore[arg-type]
