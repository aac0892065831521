"""Which event loop owns what: one home for the connection, and the way there from anywhere.

A process may run many event loops in many threads (a server's, a test's, the short ones that
``async_to_sync`` makes), yet it has one connection. So one loop is *home*, and everything about
the connection happens on it:

* a loop on which somebody receives, or that keeps sending, becomes home: a server's own loop, so
  that its consumers are reached without a change of thread;
* while there is no such loop, home is a loop of ours in a background thread. The first loop that
  qualifies takes over, if nobody loses anything by that;
* when the home loop ends, home is empty until the next call, or moves to the background at once
  if anybody is still there who can miss something. Whoever calls meanwhile waits for the end of
  the old home, a moment as a rule: there is one connection at a time.

A signal handler may call in the middle of all this, in the very thread that it interrupts: so what
it waits for goes on in another thread, and never for ever.

Other loops and threads hand over *jobs*, see `Home`. A child made by ``fork`` inherits no
running loop and starts with an empty `Residence`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from .couriers import LoopIsGone, courier_to
from .home import Home

__all__ = ["NoHome", "Residence"]

#: Calls, and seconds, after which a loop that only sends is taken for a lasting one.
CALLS_OF_A_LASTING_LOOP = 64
LASTING = 0.1

#: Seconds that leaving a background loop may take: it has only our own code to finish.
PATIENCE = 5.0

#: Seconds for which an event loop that is about to receive waits for a lull on a background loop.
LULL = 0.05

#: Seconds of that for which an event loop that takes over may be blocked, and for which a loop may
#: stand still before it is taken to be gone.
TAKEOVER = 0.25

#: Seconds for which callers wait for a home that is ending, before they take its loop to be gone. It
#: must be well above what an orderly end may take: `supervisor.HANDOVER` and `home.GRACE`.
ENDING = 2.0

#: Seconds that a background loop may take to start.
START = 10.0

#: Seconds between two looks at what another thread is doing.
LOOK = 0.0001


logger = logging.getLogger("channels_mpx.multiplexer")


class NoHome(Exception):
    """No background loop can be started; says why."""


class _Start:
    """A background loop that is being started; a signal handler may find it half done."""

    def __init__(self) -> None:
        self.is_begun = False
        self.by = threading.get_ident()
        self.thread: threading.Thread | None = None
        self.home: Home | None = None
        self.error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is a home, or will be none."""
        return self.home is not None or self.error is not None


class Residence:
    """Decides which loop is home and moves the tenant there.

    Args:
        live: Called on a new home's loop, it takes note of the home at once; the coroutine that
            it returns is the tenant's life there. When that is cancelled it must end soon and
            leave nothing behind on that loop.
        leave: Called on a home's loop to make ``live`` end there in an orderly way.
        is_missed: Tells whether that would cost anybody anything, from whatever thread asks.
        is_busy: Tells whether anything is under way there, from whatever thread asks.
        forsake: Called when a home's loop has stopped without ending ``live``, from whatever
            thread noticed: the tenant forgets what it has there.
        name: For the name of the background thread.
    """

    def __init__(
        self,
        live: Callable[[Home], Coroutine[Any, Any, None]],
        leave: Callable[[Home], None],
        is_missed: Callable[[], bool],
        is_busy: Callable[[], bool],
        forsake: Callable[[], None],
        name: str,
    ) -> None:
        self._live = live
        self._leave = leave
        self._is_missed = is_missed
        self._is_busy = is_busy
        self._forsake = forsake
        self._name = name
        self.reset()

    def reset(self) -> None:
        """Begin anew, as after a fork: no home, and locks that nobody holds."""
        self._lock = threading.RLock()
        self._calls: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, float]]
        self._calls = weakref.WeakKeyDictionary()
        self._start: _Start | None = None
        #: Whether a loop is about to take over: whoever looks for home waits for our lock.
        self._is_moving = False
        self.current: Home | None = None

    def home(self, receiving: bool) -> Home:
        """Return the home for a call from here.

        Args:
            receiving: Whether the caller's loop is going to wait for messages.
        """
        here = asyncio._get_running_loop()
        while True:
            current = self.current
            if current is not None:
                if current.loop is here:
                    return current
                if current.is_ending:
                    self.await_end(current)
                    continue
                if current.may_run_again:
                    self._await_stir(current)
                if here is None and not self._is_moving and current.is_running:
                    return current
            start = self._start
            if start is not None and start.thread is threading.current_thread():
                # A destructor, called by the collector in the very thread that it would wait for.
                raise NoHome("called by a destructor in its own thread, which is just starting")
            found = self._find(here, receiving)
            if found is not None:
                return found

    def _find(self, here: asyncio.AbstractEventLoop | None, receiving: bool) -> Home | None:
        """Return the home, a new one if need be; None if the present one is just ending."""
        with self._lock:
            current = self.current
            if current is not None and current.is_ending:
                return None
            if current is not None and not current.is_running:
                # Stopped for good or for now: nobody reads its socket, so life goes on elsewhere.
                self._desert(current)
                current = None
            if here is not None and (receiving or self._is_lasting(here)):
                if current is None:
                    return self._settle_on(here)
                if current.thread is not None and self._may_leave(current, receiving):
                    self._stop(current, TAKEOVER)
                    return self._settle_on(here)
            return current or self._settle_in_background()

    def _await_stir(self, home: Home) -> None:
        """Give a loop that stands still a moment: `asyncio.run` does before it ends the tasks."""
        until = time.monotonic() + TAKEOVER
        while self.current is home and home.may_run_again and time.monotonic() < until:
            time.sleep(LOOK)

    def await_end(self, home: Home) -> None:
        """Block until a home that is ending has ended, or must be taken to be gone."""
        until = time.monotonic() + ENDING
        while self.current is home and time.monotonic() < until:
            time.sleep(LOOK)
        if self.current is home:
            with self._lock:
                if self.current is home:
                    self._desert(home)

    def _desert(self, home: Home) -> None:
        """Leave a home whose loop does not answer."""
        home.abandon()
        self.current = None
        self._forsake()

    def _may_leave(self, home: Home, is_urgent: bool) -> bool:
        """Tell whether a background home can be left at no cost.

        Args:
            home: The home.
            is_urgent: Whether to wait a moment, once, for what is under way there. Nothing new
                comes to it meanwhile: whoever looks for home waits for our lock.
        """
        until, self._is_moving = time.monotonic() + LULL, True
        try:
            while not self._is_missed():
                if not self._is_busy():
                    return True
                if not is_urgent or home.has_been_waited_for or time.monotonic() > until:
                    home.has_been_waited_for |= is_urgent
                    break
                time.sleep(LULL / 100)
            return False
        finally:
            self._is_moving = False

    def vacate(self, home: Home, keep_alive: bool) -> None:
        """Note that the tenant's life at ``home`` has ended.

        Args:
            home: The home; nothing happens if the tenant has moved on already.
            keep_alive: Whether life must go on in the background.
        """
        home.refuse()
        while self.current is home:
            if home.is_awaited:  # with the lock
                self.current = None
            elif self._lock.acquire(timeout=LOOK):
                try:
                    if self.current is home:
                        self.current = None
                        if keep_alive:
                            self._settle_in_background()
                except NoHome as error:  # the next call will find one
                    logger.warning(
                        "channels_mpx: no thread for the Redis connection (%s); the next call tries again",
                        error,
                    )
                finally:
                    self._lock.release()

    async def empty(self) -> None:
        """End the tenant's life, wherever it is, and wait for that. Callable from any loop."""
        home = self.current
        if home is None:
            return
        loop = asyncio.get_running_loop()
        if home.loop is loop:
            self._leave(home)
            if home.task is not None:
                await asyncio.wait([home.task])
        elif home.thread is not None:
            await loop.run_in_executor(None, self._stop, home, PATIENCE)
        elif home.loop.is_running():
            ended, back = loop.create_future(), courier_to(loop)
            self._leave_and_tell(home, lambda: back.post(ended.cancel))
            await asyncio.wait([ended], timeout=PATIENCE)

    def empty_sync(self) -> None:
        """End the tenant's life from a thread without a loop, and block until it has ended."""
        home = self.current
        if home is None:
            return
        if home.thread is not None:
            self._stop(home, PATIENCE)
        elif home.loop.is_running():
            ended = threading.Event()
            self._leave_and_tell(home, ended.set)
            ended.wait(PATIENCE)

    def _leave_and_tell(self, home: Home, tell: Callable[[], object]) -> None:
        """End life at ``home`` from elsewhere, and call ``tell`` when it is over."""

        def tell_if_anybody_waits(_: object = None) -> None:
            with contextlib.suppress(LoopIsGone):
                tell()

        def leave() -> None:
            # No job that life would wait for: it would wait for its own end.
            self._leave(home)
            if home.task is not None:
                home.task.add_done_callback(tell_if_anybody_waits)

        try:
            home.courier.post(leave, tell_if_anybody_waits)
        except LoopIsGone:
            tell_if_anybody_waits()

    def _is_lasting(self, loop: asyncio.AbstractEventLoop) -> bool:
        calls, since = self._calls.get(loop, (0, time.monotonic()))
        self._calls[loop] = (calls + 1, since)
        return calls >= CALLS_OF_A_LASTING_LOOP and time.monotonic() - since >= LASTING

    def _settle_on(self, loop: asyncio.AbstractEventLoop) -> Home:
        home = self.current = Home(loop)
        life = self._live(home)
        # A context of its own: the life of the process is not part of whatever called first.
        home.task = contextvars.Context().run(
            lambda: loop.create_task(life, name=f"{self._name}.supervisor")
        )
        # A loop may be closed without ending its tasks: `Supervisor.end` sees to that, in silence.
        home.task._log_destroy_pending = False  # type: ignore[attr-defined]
        return home

    def _settle_in_background(self) -> Home:
        start = self._start
        if start is None:
            start = self._start = _Start()
        elif start.by == threading.get_ident() and start.thread is not None and not start.is_over:
            if start.thread.ident is None:
                # A signal handler, in the very line that starts the thread: it would wait for itself.
                raise NoHome("called by a signal handler while its thread is just being started")
        if not start.is_begun:
            start.is_begun = True
            name = f"{self._name}.home"
            start.thread = threading.Thread(target=self._run, args=(start,), name=name, daemon=True)
            try:
                start.thread.start()
            except RuntimeError as error:  # the process has as many as it may
                start.error = error
        until = time.monotonic() + START
        while not start.is_over and time.monotonic() < until:
            time.sleep(LOOK)
        if self._start is start:
            self._start = None
        if start.home is None:
            why = start.error or TimeoutError("its thread did not start")
            raise NoHome(why) from why
        return start.home

    def _run(self, start: _Start) -> None:
        """Live on a loop of this thread's own."""

        async def live() -> None:
            home = Home(asyncio.get_running_loop(), threading.current_thread())
            life = self._live(home)
            self.current = start.home = home
            await life

        try:
            asyncio.run(live())
        except BaseException as error:  # also what keeps a loop from being made at all
            if start.home is not None:
                raise
            start.error = error

    def _stop(self, home: Home, patience: float) -> None:
        """Stop a background home and block until its thread has ended, or patience has."""
        assert home.thread is not None
        with self._lock:
            home.is_awaited = home.is_ending = True
            with contextlib.suppress(LoopIsGone):
                home.courier.post(lambda: self._leave(home))
            home.thread.join(patience)
            if home.thread.is_alive():
                self._desert(home)
            elif self.current is home:
                self.current = None
