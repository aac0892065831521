"""Ways between threads: jobs carried to an event loop, and outcomes awaited without one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Generic, TypeVar

from . import exceptions

__all__ = [
    "Courier",
    "JobAbandoned",
    "LoopIsGone",
    "Outcome",
    "after_fork",
    "courier_to",
    "require_no_loop",
]

logger = logging.getLogger("channels_mpx.multiplexer")

T = TypeVar("T")
Job = Callable[[], object]

#: A job, and what to call if it will not be called.
_Entry = tuple[Job, Job | None]


class LoopIsGone(Exception):
    """The loop ended before it took the job; the job was not begun."""


class JobAbandoned(Exception):
    """The loop ended while the job was under way; what became of it is not known."""


def require_no_loop(verb: str) -> None:
    """Refuse to block a thread that runs an event loop.

    Raises:
        SyncCallFromAsync: It does.
    """
    if asyncio._get_running_loop() is not None:
        raise exceptions.SyncCallFromAsync(verb=verb)


class Courier:
    """Carries jobs to one event loop from any thread; those of one moment share one wake-up.

    It takes no lock: a signal handler or a destructor may post in the middle of a `post` of the
    very thread that it interrupts, and a child made by fork inherits nothing that is held.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Whoever keeps a courier must not keep its loop: there is a new one for each call of
        # ``async_to_sync``.
        self._loop = weakref.ref(loop)
        self._jobs: deque[_Entry] = deque()
        #: Whether the loop has been woken, or a thread is about to do it.
        self._is_called = False
        #: The threads that are about to wake the loop. One that is interrupted meanwhile cannot do
        #: it for whatever interrupts it.
        self._calling: list[int] = []
        self._is_closed = False
        self._is_delivering = False

    def post(self, job: Job, refuse: Job | None = None) -> None:
        """Have ``job`` called on the loop, in order of posting.

        Args:
            job: Called on the loop.
            refuse: Called instead, in whatever thread, if the courier is closed before.

        Raises:
            LoopIsGone: The loop or the courier is closed; the job will not be called.
        """
        if self._is_closed:
            raise LoopIsGone
        entry = (job, refuse)
        self._jobs.append(entry)
        me = get_ident()
        if not self._is_called or me in self._calling:
            self._calling.append(me)
            try:
                self._is_called = True
                self._wake()
            except BaseException:  # a signal handler has raised
                self._is_called = False
                self._wake()  # others have posted meanwhile and rely on this call
                raise
            finally:
                self._calling.remove(me)
        self._require_open(entry)  # it may have been closed since

    def _wake(self) -> None:
        loop = self._loop()
        try:
            if loop is None:
                raise RuntimeError("the loop is collected")
            loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # or it is closed
            self._is_closed = True

    def _require_open(self, entry: _Entry) -> None:
        """Take an entry back that nobody is going to take.

        Raises:
            LoopIsGone: So it is.
        """
        if self._is_closed:
            with contextlib.suppress(ValueError):  # it was delivered, or refused by `close`
                self._jobs.remove(entry)
                raise LoopIsGone

    @property
    def is_loaded(self) -> bool:
        """Whether jobs have been posted whose delivery has not ended yet."""
        return self._is_delivering or bool(self._jobs)

    def close(self) -> None:
        """Take no more jobs and refuse those that have not been delivered yet."""
        self._is_closed = True
        while self._jobs:
            try:
                _, refuse = self._jobs.popleft()
            except IndexError:  # another thread was quicker
                break
            if refuse is not None:
                refuse()

    def _deliver(self) -> None:
        # Before the look at the jobs: one that is posted after it wakes the loop again.
        self._is_called = False
        self._is_delivering = True
        try:
            for _ in range(len(self._jobs)):
                try:
                    job, _ = self._jobs.popleft()
                except IndexError:  # taken back, or refused
                    break
                try:
                    job()
                except Exception:  # one job must not cost the others their turn
                    logger.exception(
                        "channels_mpx: internal error in a call handed over by another thread"
                    )
        finally:
            self._is_delivering = False


_couriers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Courier]
_couriers = weakref.WeakKeyDictionary()


def after_fork() -> None:
    """Forget the parent's loops, which do not run here."""
    _couriers.clear()


def courier_to(loop: asyncio.AbstractEventLoop) -> Courier:
    """Return the courier that brings results back to a loop that is not home."""
    courier = _couriers.get(loop)
    if courier is None:
        courier = _couriers[loop] = Courier(loop)
    return courier


class Outcome(Generic[T]):
    """What became of a job, for a thread that blocks until it is known."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._value: T | None = None
        self._error: BaseException | None = None

    def settle(self, value: T | None, error: BaseException | None) -> None:
        """Let the waiting thread go on."""
        self._value, self._error = value, error
        self._lock.release()

    def wait(self, timeout: float) -> T:
        """Return the value or raise the error.

        Raises:
            JobAbandoned: It is not known after ``timeout`` seconds.
        """
        if not self._lock.acquire(timeout=timeout):
            raise JobAbandoned
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]
