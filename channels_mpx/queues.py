"""One worker channel as this process sees it: who waits there, and what each of them was given."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from . import exceptions
from .escaping import escape
from .hub import Hub
from .names import Kind, Topic
from .scripts import DEADLINE_DIGITS
from .wire import PASSING

__all__ = ["Job", "Queue", "Reader"]

logger = logging.getLogger("channels_mpx.layer")

#: Seconds before a queue is asked again whose server could not answer until a command's deadline.
PAUSE = 1.0

#: Seconds for which a queue is kept after its last reader has ended: the next may just be coming.
LINGER = 0.1


class Job:
    """What a reader of a worker channel gets: an entry of the queue, or why there is none."""

    __slots__ = ("entry", "error")

    def __init__(self, entry: bytes = b"", error: Exception | None = None) -> None:
        self.entry = entry
        self.error = error

    @property
    def payload(self) -> bytes:
        """The envelope."""
        return self.entry[DEADLINE_DIGITS:]


class Reader:
    """Somebody who waits for one message of a worker channel; it ends with its event loop.

    Made on its own loop; `give` is for the home loop, all else for the reader's own.

    Attributes:
        job: What it was given.
        queue: Where it waits, as soon as it does.
    """

    __slots__ = ("_waiter", "job", "loop", "queue", "task")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.task = asyncio.current_task()
        self.job: Job | None = None
        self.queue: Queue | None = None
        self._waiter: asyncio.Future[None] = self.loop.create_future()

    @property
    def is_dead(self) -> bool:
        """Whether its loop was closed; one that is only stopped may run again."""
        return self.loop.is_closed()

    def give(self, job: Job) -> bool:
        """Hand a job over; return whether there is still a loop to take it."""
        self.job = job
        if self.loop is asyncio._get_running_loop():
            self._release()
            return True
        try:
            self.loop.call_soon_threadsafe(self._release)
        except RuntimeError:  # the loop is closed
            self.job = None
            return False
        return True

    async def wait(self) -> Job:
        """Return the job, waiting for it."""
        await self._waiter
        assert self.job is not None
        return self.job

    def _release(self) -> None:
        if not self._waiter.done():
            self._waiter.set_result(None)


class Popping(Protocol):
    """What a queue asks of `Workers`."""

    hub: Hub

    @property
    def is_home(self) -> bool:
        """See `Workers.is_home`."""

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """See `Workers.start`."""

    async def pop(self, channel: str) -> bytes | None:
        """See `Workers.pop`."""

    def give_back(self, channel: str, job: Job) -> None:
        """See `Workers.give_back`."""

    def leave(self, queue: Queue) -> None:
        """See `Workers.leave`."""


class Queue:
    """One worker channel as this process sees it; subscribed to its bell.

    Attributes:
        taken: Messages that readers got.
        joining: How many are about to read, and wait for the first connection of the process.
    """

    def __init__(self, workers: Popping, channel: str) -> None:
        self._workers = workers
        self.channel = channel
        self.topic = Topic(Kind.CHANNEL, workers.hub.names.bell(channel))
        self.taken = self.joining = 0
        #: Those for whom nothing was popped yet.
        self._waiting: deque[Reader] = deque()
        #: Those who were given a job, until they have taken it.
        self._given: set[Reader] = set()
        #: Tasks that have received here and live; they may be at work, and come again.
        self._tasks: set[asyncio.Task[Any]] = set()
        #: How many have gone off with a message whose task ended with `receive`.
        self._at_work = 0
        self._last_taken = -math.inf
        #: Where the last message was taken.
        self._last_loop: Callable[[], asyncio.AbstractEventLoop | None] = lambda: None
        self._popper: asyncio.Task[None] | None = None
        #: The home on which a timer is about to look for readers.
        self._lingering: asyncio.AbstractEventLoop | None = None
        self._has_rung = False
        self._is_active = False

    def __repr__(self) -> str:
        return f"<Queue {self.channel} demand={len(self._waiting)} waiting={len(self._given)}>"

    @property
    def demand(self) -> int:
        """How many readers wait for whom nothing was popped yet."""
        self._bury()
        return len(self._waiting)

    # Popping

    def pump(self) -> None:
        """Pop if somebody waits and nobody pops yet on this loop."""
        if not self._is_active or not self.demand or not self._workers.is_home:
            return
        popper = self._popper
        if popper is not None and popper.get_loop() is not asyncio.get_running_loop():
            # Its home ended without ending it: what it may have popped went with the connection.
            logger.info(
                "channels_mpx: stopped taking messages from worker channel %s: %s",
                escape(self.channel),
                "its event loop ended",
            )
            popper = None
        if popper is None:
            self._popper = self._workers.start(self._pop())

    async def _pop(self) -> None:
        """Pop until nobody waits or nothing is there."""
        try:
            while self._is_active and self.demand:
                self._has_rung = False
                entry = await self._workers.pop(self.channel)
                if entry is not None:
                    self._workers.hub.tell(self._hand_over, Job(entry))
                elif not self._has_rung:
                    return
                if not self._workers.is_home or self._popper is not asyncio.current_task():
                    return  # home ends, or this loop stood still, and home is elsewhere now
        except exceptions.CommandRefused as error:
            if error.code in PASSING:
                # Scripts are tried again until their deadline, but a reader has none.
                asyncio.get_running_loop().call_later(PAUSE, self.pump)
            else:
                self._fail(error)
        except exceptions.LinkError as error:
            # A message may have been popped and lost with the link: at most once.
            logger.info(
                "channels_mpx: stopped taking messages from worker channel %s: %s",
                escape(self.channel),
                error,
            )
        finally:
            if self._popper is asyncio.current_task():
                self._popper = None

    def _bury(self) -> None:
        """Let go of those in front whose loops were closed."""
        while self._waiting and self._waiting[0].is_dead:
            self._waiting.popleft()

    def _hand_over(self, job: Job) -> None:
        while self._waiting:
            reader = self._waiting.popleft()
            self._given.add(reader)
            if reader.give(job):
                return
            self._given.discard(reader)
        if job.error is None:
            self._workers.give_back(self.channel, job)

    def _fail(self, error: Exception) -> None:
        while self._waiting:
            self._hand_over(Job(error=error))

    # Readers

    def ask(self, reader: Reader) -> None:
        """Somebody waits for a message, and will be given one."""
        if self._at_work and reader.task not in self._tasks:
            self._at_work -= 1
        reader.queue = self
        self._waiting.append(reader)
        self.pump()

    def withdraw(self, reader: Reader) -> None:
        """A reader has gone away without a message."""
        if reader in self._given:
            self._given.discard(reader)
            if reader.job is not None and reader.job.error is None:
                self._workers.give_back(self.channel, reader.job)
        else:
            with contextlib.suppress(ValueError):
                self._waiting.remove(reader)
        self._linger()

    def took(self, reader: Reader) -> None:
        """A reader has its job; on the reader's loop. Its task is at work now."""
        self._given.discard(reader)
        self._last_taken = time.monotonic()
        self._last_loop = weakref.ref(reader.loop)
        task = reader.task
        if task is None or task not in self._tasks:
            reader.loop.call_soon(self._goes_off, task)

    def _goes_off(self, task: asyncio.Task[Any] | None) -> None:
        """On the reader's loop, after its task has gone on, or ended with ``receive``."""
        if task is None or task.done():
            # Somebody awaited `receive` in a task of its own: nobody can tell where it works now.
            self._workers.hub.tell(self._went_off)
        elif task not in self._tasks:
            self._tasks.add(task)
            task.add_done_callback(self._task_ended)

    def _went_off(self) -> None:
        self._at_work += 1

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._workers.hub.tell(self._linger)

    # Leaving

    def is_attended(self, expiry: float) -> bool:
        """Tell whether anybody reads, or is at work, for ``expiry`` seconds at most."""
        if self._waiting or self._given or self.joining:
            return True
        if time.monotonic() - self._last_taken > expiry:
            self._at_work = 0
            return False
        return self._at_work > 0 or bool(self._tasks)

    def is_attended_outside(self, ended: asyncio.AbstractEventLoop) -> bool:
        """Tell whether anybody reads, or is at work, on another loop than this, which has ended."""
        loops = [reader.loop for reader in (*self._waiting, *self._given)]
        loops += [task.get_loop() for task in tuple(self._tasks)]
        if self._at_work and (last := self._last_loop()) is not None:
            loops.append(last)
        return any(loop is not ended and not loop.is_closed() for loop in loops)

    def sweep(self) -> None:
        """Take back what was given to those whose loops were closed, and forget them."""
        self._waiting = deque(reader for reader in self._waiting if not reader.is_dead)
        for reader in tuple(self._given):
            if reader.is_dead:
                self._given.discard(reader)
                if reader.job is not None and reader.job.error is None:
                    self._workers.give_back(self.channel, reader.job)
        for task in tuple(self._tasks):  # in place: readers' own loops change it too
            if task.done() or task.get_loop().is_closed():
                self._tasks.discard(task)

    def _linger(self) -> None:
        """See soon whether that was the last reader: a request must not wait for nobody."""
        life = self._workers.hub.life
        if self._waiting or life is None or life.loop is self._lingering:
            return
        if life.loop is asyncio._get_running_loop():
            self._lingering = life.loop
            life.loop.call_later(LINGER, self._leave)

    def _leave(self) -> None:
        self._lingering = None
        self.sweep()
        self._workers.leave(self)

    # As a subscriber

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`: the bell. What it carries means nothing."""
        self._has_rung = True
        self.pump()

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`: what was pushed before is found by looking."""
        self._is_active = True
        self.pump()

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`."""
        self._is_active = False

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`."""
        self._is_active = False
        self._fail(error)

    def close(self, error: Exception) -> None:
        """Tell whoever waits that there will be nothing."""
        self._fail(error)
