"""Which event loop owns what: one home for the connection, and the way there from anywhere.

A process may run many event loops in many threads (a server's, a test's, the short ones that
``async_to_sync`` makes), yet it has one connection. So one loop is *home*, and everything about
the connection happens on it:

* a loop on which somebody receives, or that keeps sending, becomes home: a server's own loop, so
  that its consumers are reached without a change of thread;
* while there is no such loop, home is a loop of ours in a background thread. The first loop that
  qualifies takes over; nothing is lost, since the background loop finishes what it has begun;
* when the home loop ends, home is empty until the next call, or moves to the background at once
  if somebody in another loop still waits for messages.

Other loops and threads hand over *jobs* through a `Courier`. A child made by ``fork`` inherits no
running loop and starts with an empty `Residence`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

__all__ = ["Courier", "Home", "JobAbandoned", "LoopIsGone", "Residence"]

T = TypeVar("T")
Job = Callable[[], object]

#: Calls after which a loop that only sends is taken for a lasting one.
CALLS_OF_A_LASTING_LOOP = 64

#: Seconds that leaving a background loop may take: it has only our own code to finish.
PATIENCE = 5.0


class LoopIsGone(Exception):
    """The loop ended before it took the job; the job was not begun."""


class JobAbandoned(Exception):
    """The loop ended while the job was under way; what became of it is not known."""


class Courier:
    """Carries jobs to one event loop from any thread; those of one moment share one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: deque[tuple[Job, Job | None]] = deque()
        self._lock = threading.Lock()
        self._is_called = False
        self._is_closed = False

    def post(self, job: Job, refuse: Job | None = None) -> None:
        """Have ``job`` called on the loop, in order of posting.

        Args:
            job: Called on the loop.
            refuse: Called instead, on the loop, if the courier is closed before.

        Raises:
            LoopIsGone: The loop or the courier is closed; the job will not be called.
        """
        with self._lock:
            if self._is_closed:
                raise LoopIsGone
            self._jobs.append((job, refuse))
            if self._is_called:
                return
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError as error:  # the loop is closed
                self._is_closed = True
                self._jobs.pop()
                raise LoopIsGone from error
            self._is_called = True

    def close(self) -> None:
        """Take no more jobs and refuse those that have not been delivered yet."""
        with self._lock:
            self._is_closed = True
            jobs, self._jobs = self._jobs, deque()
        for _, refuse in jobs:
            if refuse is not None:
                refuse()

    def _deliver(self) -> None:
        with self._lock:
            self._is_called = False
            jobs, self._jobs = self._jobs, deque()
        for job, _ in jobs:
            job()


_couriers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Courier]
_couriers = weakref.WeakKeyDictionary()


def after_fork() -> None:
    """Forget the parent's loops: their couriers' locks may be held by threads that are gone."""
    _couriers.clear()


def _courier_to(loop: asyncio.AbstractEventLoop) -> Courier:
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
            TimeoutError: It is not known after ``timeout`` seconds.
        """
        if not self._lock.acquire(timeout=timeout):
            raise TimeoutError(f"no answer from the multiplexer's loop for {timeout} s")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


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
        back = _courier_to(loop)

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
            JobAbandoned: Home ended while the verb was under way.
            TimeoutError: It has not ended after ``timeout`` seconds.
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
        settle: Callable[[T | None, BaseException | None], None],
        begun: list[asyncio.Future[T]],
    ) -> None:
        """Start a verb on this loop and report its end, whatever that is."""

        def report(future: asyncio.Future[T]) -> None:
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
        future.add_done_callback(report)


def _settle(result: asyncio.Future[T], value: T | None, error: BaseException | None) -> None:
    if result.done():
        return
    if error is not None:
        result.set_exception(error)
    else:
        result.set_result(value)  # type: ignore[arg-type]


class Residence:
    """Decides which loop is home and moves the tenant there.

    Args:
        live: Called on a new home's loop, it takes note of the home at once; the coroutine that
            it returns is the tenant's life there. When that is cancelled it must end soon and
            leave nothing behind on that loop.
        leave: Called on the home loop to make ``live`` end in an orderly way.
        forsake: Called when a home's loop has stopped without ending ``live``, from whatever
            thread noticed: the tenant forgets what it has there.
        name: For the name of the background thread.
    """

    def __init__(
        self,
        live: Callable[[Home], Coroutine[Any, Any, None]],
        leave: Callable[[], None],
        forsake: Callable[[], None],
        name: str,
    ) -> None:
        self._live = live
        self._leave = leave
        self._forsake = forsake
        self._name = name
        self.reset()

    def reset(self) -> None:
        """Begin anew, as after a fork: no home, and locks that nobody holds."""
        self._lock = threading.RLock()
        self._calls: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, int]
        self._calls = weakref.WeakKeyDictionary()
        self.current: Home | None = None

    def home(self, receiving: bool) -> Home:
        """Return the home for a call from here.

        Args:
            receiving: Whether the caller's loop is going to wait for messages.
        """
        current = self.current
        here = asyncio._get_running_loop()
        if current is not None and current.loop is here:
            return current
        with self._lock:
            current = self.current
            if current is not None and current.thread is None and not current.loop.is_running():
                # Stopped for good or for now: nobody reads its socket, so life goes on elsewhere.
                current = self.current = None
                self._forsake()
            if here is not None and (receiving or self._is_lasting(here)):
                if current is None:
                    return self._settle_on(here)
                if current.thread is not None:
                    self._stop(current)
                    return self._settle_on(here)
            return self.current or self._settle_in_background()

    def vacate(self, home: Home, keep_alive: bool) -> None:
        """Note that the tenant's life at ``home`` has ended.

        Args:
            home: The home; nothing happens if the tenant has moved on already.
            keep_alive: Whether life must go on in the background.
        """
        home.courier.close()
        if self.current is not home:
            return
        with self._lock:
            if self.current is home:
                self.current = None
                if keep_alive:
                    self._settle_in_background()

    async def empty(self) -> None:
        """End the tenant's life, wherever it is, and wait for that. Callable from any loop."""
        home = self.current
        if home is None:
            return
        if home.loop is asyncio.get_running_loop():
            await self._leave_and_wait()
        elif home.thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._stop, home)
        elif home.loop.is_running():
            with contextlib.suppress(LoopIsGone):
                await home.call(self._leave_and_wait)

    def empty_sync(self) -> None:
        """End the tenant's life from a thread without a loop, and block until it has ended."""
        home = self.current
        if home is None:
            return
        if home.thread is not None:
            self._stop(home)
        elif home.loop.is_running():
            with contextlib.suppress(LoopIsGone):
                home.call_sync(PATIENCE, self._leave_and_wait)

    async def _leave_and_wait(self) -> None:
        self._leave()
        await asyncio.wait([self._task])

    def _is_lasting(self, loop: asyncio.AbstractEventLoop) -> bool:
        calls = self._calls[loop] = self._calls.get(loop, 0) + 1
        return calls > CALLS_OF_A_LASTING_LOOP

    def _settle_on(self, loop: asyncio.AbstractEventLoop) -> Home:
        home = self.current = Home(loop)
        self._task = loop.create_task(self._live(home), name=f"{self._name}.supervisor")
        return home

    def _settle_in_background(self) -> Home:
        ready = threading.Event()
        homes: list[Home] = []

        async def live() -> None:
            home = Home(asyncio.get_running_loop(), threading.current_thread())
            life = self._live(home)
            homes.append(home)
            ready.set()
            await life

        thread = threading.Thread(
            target=lambda: asyncio.run(live()), name=f"{self._name}.home", daemon=True
        )
        thread.start()
        ready.wait()
        self.current = homes[0]
        return homes[0]

    def _stop(self, home: Home) -> None:
        """Stop a background home and block until its thread has ended."""
        self.current = None
        with contextlib.suppress(LoopIsGone):
            home.courier.post(self._leave)
        assert home.thread is not None
        home.thread.join(PATIENCE)
