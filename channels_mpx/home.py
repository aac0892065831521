"""The event loop that the connection lives on, as other loops and threads see it.

They hand over *jobs* through a `Courier`, and are told what became of each: what it returned or
raised, that it was not begun or nothing of it was sent (`LoopIsGone`), or that nobody will ever know
(`JobAbandoned`).

When the loop ends in order, home hands over: it takes no more jobs, the link gets a moment for the
replies that are under way, and a job that still waits for a link goes to the next home.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from asyncio.tasks import _unregister_task
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar, copy_context
from time import monotonic
from typing import Any, TypeVar

from . import exceptions
from .couriers import Courier, JobAbandoned, LoopIsGone, Outcome, courier_to

__all__ = ["HandedOver", "Home", "continued", "hide", "left_of"]

T = TypeVar("T")

#: When the call began that a job belongs to, in seconds of `time.monotonic`, if it comes from an
#: earlier home.
_began: ContextVar[float | None] = ContextVar("channels_mpx_began", default=None)

#: Called with what a verb has returned, or with what it has raised.
Settle = Callable[[T | None, BaseException | None], None]

#: Seconds that jobs under way have to end when their home does.
GRACE = 0.5


class HandedOver(exceptions.LinkUnavailable):
    """The event loop of the connection to {address} ended; nothing was sent."""


@contextlib.contextmanager
def continued(began: float) -> Iterator[None]:
    """Let `left_of` count from when a call began, in seconds of `time.monotonic`."""
    token = _began.set(began)
    try:
        yield
    finally:
        _began.reset(token)


def left_of(seconds: float) -> float:
    """Return what is left of a time limit for the running job: it counts from its first home on."""
    began = _began.get()
    return seconds if began is None else max(0.0, began + seconds - monotonic())


def hide(task: asyncio.Task[T]) -> asyncio.Task[T]:
    """Have nobody cancel a task who ends all tasks of its loop, and does not mean it; return it."""
    _unregister_task(task)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


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
        #: The thread that the loop runs in; a home is made there.
        self.ident = threading.get_ident()
        #: The life there; None for a loop of ours, which ends with its thread.
        self.task: asyncio.Task[None] | None = None
        #: Whether an event loop that would take over has waited for a lull, in vain.
        self.has_been_waited_for = False
        #: Whether it takes no more jobs; the next home begins when this one has ended.
        self.is_ending = False
        #: Whether somebody waits, with the residence's lock, until it has ended.
        self.is_awaited = False
        #: How to tell the callers of what is under way what became of it.
        self._under_way: dict[asyncio.Future[Any], Settle[Any]] = {}

    def __repr__(self) -> str:
        where = "background" if self.thread else "shared"
        return f"<Home {where} loop at {id(self.loop):#x}>"

    @property
    def is_running(self) -> bool:
        """Whether the loop runs: one of ours always does."""
        return self.thread is not None or self.loop.is_running()

    @property
    def may_run_again(self) -> bool:
        """Whether the loop stands still and may go on by itself: not in the thread that asks."""
        is_still = not self.is_running and not self.loop.is_closed()
        return is_still and self.ident != threading.get_ident()

    async def call(
        self,
        verb: Callable[..., Awaitable[T]],
        *args: Any,
        began: float | None = None,
        undo: Callable[[T], object] | None = None,
        tell: Callable[[Callable[[], object]], object],
    ) -> T:
        """Call ``verb`` at home from another loop, and await what it returns.

        Cancelling the caller cancels the awaitable at home.

        Args:
            verb: Takes ``args`` and returns an awaitable.
            args: For the verb.
            began: When the call began, if an earlier home has handed it over.
            undo: Called at home with what the verb has returned, if its caller was cancelled
                meanwhile.
            tell: Has something called at home, also if that is elsewhere by then.

        Raises:
            LoopIsGone: Home ended first, nothing was sent.
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
            lambda: self._begin(verb, args, settle, begun, began),
            lambda: settle(None, LoopIsGone()),
        )
        try:
            return await result
        except asyncio.CancelledError:
            tell(lambda: _give_up(begun, undo))
            raise

    def call_sync(
        self,
        timeout: float,
        verb: Callable[..., Awaitable[T]],
        *args: Any,
        began: float | None = None,
    ) -> T:
        """Call ``verb`` at home from a thread without a loop, and block until it has ended.

        Raises:
            LoopIsGone: Home ended first, nothing was sent.
            JobAbandoned: Home ended while the verb was under way, or it takes longer than
                ``timeout`` seconds.
        """
        outcome: Outcome[T] = Outcome()
        self.courier.post(
            lambda: self._begin(verb, args, outcome.settle, [], began),
            lambda: outcome.settle(None, LoopIsGone()),
        )
        return outcome.wait(timeout)

    def _begin(
        self,
        verb: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
        settle: Settle[T],
        begun: list[asyncio.Future[T]],
        began: float | None,
    ) -> None:
        """Start a verb on this loop and report its end, whatever that is."""

        def report(future: asyncio.Future[T]) -> None:
            if self._under_way.pop(future, None) is None:
                return  # the caller has given up on this home
            if future.cancelled():
                settle(None, JobAbandoned())
                return
            error = future.exception()
            if isinstance(error, HandedOver):
                error = LoopIsGone()
            settle(None if error else future.result(), error)

        try:
            if began is None:
                future = asyncio.ensure_future(verb(*args), loop=self.loop)
            else:
                context = copy_context()
                context.run(_began.set, began)
                future = context.run(lambda: asyncio.ensure_future(verb(*args), loop=self.loop))
        except Exception as error:  # it belongs to the caller, whatever it is
            settle(None, error)
            return
        if isinstance(future, asyncio.Task):
            hide(future)  # it belongs to another thread
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

    def refuse(self) -> None:
        """Take no more jobs: the next home will."""
        self.is_ending = True
        self.courier.close()

    async def finish(self) -> None:
        """Let what was handed over, and can end soon, come to its end."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=GRACE)

    async def cancel(self) -> None:
        """Cancel what is still under way, and let it come to its end."""
        under_way = tuple(self._under_way)
        for future in under_way:
            future.cancel()
        if under_way:
            await asyncio.wait(under_way, timeout=GRACE)


def _settle(result: asyncio.Future[T], value: T | None, error: BaseException | None) -> None:
    if result.done():
        return
    if error is not None:
        result.set_exception(error)
    else:
        result.set_result(value)  # type: ignore[arg-type]


def _give_up(begun: list[asyncio.Future[T]], undo: Callable[[T], object] | None) -> None:
    """The caller was cancelled: cancel what has not ended yet, undo what was done."""
    for future in begun:
        if not future.done():
            if (
                future.get_loop() is asyncio._get_running_loop()
            ):  # else home stood still and was left
                future.cancel()
            continue
        is_done = not future.cancelled() and future.exception() is None
        if is_done and undo is not None:
            undo(future.result())
