"""Worker channels: names without ``!``, whose every message goes to exactly one reader.

The messages wait in a list in Redis, so they outlive a worker that restarts; nobody blocks on it.
Each push rings a bell (a PUBLISH), and a process in which somebody waits pops one message for each
bell and each reader. A message is popped only for a reader that waits, and if that reader goes
away before it gets the message, the message goes back to the head of the list.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from . import exceptions
from .envelope import Form
from .escaping import escape
from .home import HandedOver, hide
from .hub import Hub
from .intake import Intake
from .names import Kind, Topic
from .scripts import DEADLINE_DIGITS, POP, PUSH, UNPOP
from .serializers import Message
from .wire import PASSING

__all__ = ["Job", "Queue", "Reader", "Workers"]

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


class Queue:
    """One worker channel as this process sees it; subscribed to its bell.

    Attributes:
        taken: Messages that readers got.
        joining: How many are about to read, and wait for the first connection of the process.
    """

    def __init__(self, workers: Workers, channel: str) -> None:
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


class Workers:
    """The worker channels that somebody in this process reads, and sending to any.

    Everything here is for the home loop.

    Args:
        hub: The connection.
        intake: Reads what arrives.
    """

    def __init__(self, hub: Hub, intake: Intake) -> None:
        self.hub = hub
        self._intake = intake
        self._queues: dict[str, Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: What is to be given back, and what is just given back, and where.
        self._returns: deque[tuple[str, Job]] = deque()
        self._returning: tuple[str, asyncio.AbstractEventLoop] | None = None

    def __repr__(self) -> str:
        return f"<Workers {self._queues}>"

    def __len__(self) -> int:
        return len(self._queues)

    async def push(
        self,
        channel: str,
        payload: bytes,
        capacity: int,
        expiry: float,
        is_request: bool = False,
    ) -> int:
        """Put a message at the end of a queue.

        Args:
            channel: The worker channel.
            payload: The envelope.
            capacity: How many messages may wait.
            expiry: Seconds that this one may wait.
            is_request: Whether it is of no use unless somebody listens now.

        Returns:
            How many processes have heard the bell, -1 if there was no room. A request that nobody
            has heard is not in the queue.
        """
        names, milliseconds = self.hub.names, max(1, round(expiry * 1000))
        arguments = (names.bell(channel), payload, capacity, milliseconds, int(is_request))
        heard: int
        heard, expired = await self.hub.run(PUSH, (names.queue(channel),), arguments)
        self._intake.tally.expired += expired
        return heard

    async def pop(self, channel: str) -> bytes | None:
        """Take the oldest entry from a queue; None if there is none."""
        entry: bytes | None
        entry, expired = await self.hub.run(POP, (self.hub.names.queue(channel),), ())
        self._intake.tally.expired += expired
        return entry

    async def open(self, channel: str) -> None:
        """Listen to the bell of a channel.

        Raises:
            LinkError: This process has never been connected, and cannot be.
        """
        queue = self._queue(channel)
        if not self.hub.has_been_linked:
            queue.joining += 1
            try:
                await self.hub.join(queue.topic, queue)
            finally:
                queue.joining -= 1

    def _queue(self, channel: str) -> Queue:
        queue = self._queues.get(channel)
        if queue is None:
            queue = self._queues[channel] = Queue(self, channel)
        self.hub.want(queue.topic, queue)
        return queue

    def give_back(self, channel: str, job: Job) -> None:
        """Put an entry back to the head of its queue, in the background."""
        self._returns.append((channel, job))
        self._give_back_all()

    def _give_back_all(self) -> None:
        """Begin, unless it is under way here; without a home the next one does it."""
        life = self.hub.life
        if life is None or life.loop is not asyncio._get_running_loop():
            return
        if self._returning is not None and self._returning[1] is not life.loop:
            channel, self._returning = self._returning[0], None
            if channel:  # else it had not begun
                self._count_lost(channel, "its event loop ended")
        if self._returns and self._returning is None:
            self._returning = ("", life.loop)
            self.start(self._return(life.loop))

    async def _return(self, loop: asyncio.AbstractEventLoop) -> None:
        names = self.hub.names
        if self._returning == ("", loop):
            self._returning = None
        while self._returns and self._is_on(loop):  # what is left is for the next home
            channel, job = self._returns.popleft()
            self._returning = mine = (channel, loop)
            arguments = (names.bell(channel), job.entry)
            reason: object = None
            try:
                if await self.hub.run(UNPOP, (names.queue(channel),), arguments) < 0:
                    self._intake.tally.expired += 1
            except HandedOver:  # nothing was sent
                self._returns.appendleft((channel, job))
                return
            except exceptions.LinkError as error:
                reason = error
            except asyncio.CancelledError:
                reason = "its event loop ended"
                raise
            finally:
                if self._returning is mine:
                    self._returning = None
                    if reason is not None:
                        self._count_lost(channel, reason)

    def _count_lost(self, channel: str, reason: object) -> None:
        self._intake.tally.unknown += 1
        logger.warning(
            "channels_mpx: a message for worker channel %s could not be given back and is lost: %s",
            escape(channel),
            reason,
        )

    def tick(self) -> None:
        """Take back what the dead were given, and leave the queues that nobody reads any more.

        One that may be at work has ``expiry`` seconds to come again.
        """
        for queue in tuple(self._queues.values()):
            queue.sweep()
            self.leave(queue)
        self._give_back_all()

    def leave(self, queue: Queue) -> None:
        """Stop listening to a queue that nobody attends."""
        is_here = self._queues.get(queue.channel) is queue
        if is_here and not queue.is_attended(self.hub.options.expiry):
            self._forget(queue)

    @property
    def taken(self) -> int:
        """How many messages the readers of the present queues have got."""
        return sum(queue.taken for queue in tuple(self._queues.values()))

    def is_attended_outside(self, ended: asyncio.AbstractEventLoop) -> bool:
        """Tell whether a queue has a reader on another loop than this, which has ended."""
        queues = tuple(self._queues.values())
        return any(queue.is_attended_outside(ended) for queue in queues)

    def is_awaited(self) -> bool:
        """Tell whether anybody reads from any queue: waits, or works on what it has got."""
        expiry = self.hub.options.expiry
        return any(queue.is_attended(expiry) for queue in tuple(self._queues.values()))

    def drop_all(self, error: Exception) -> None:
        """Stop listening to any queue; whoever waits gets ``error``."""
        for queue in tuple(self._queues.values()):
            self._forget(queue)
            queue.close(error)

    def _forget(self, queue: Queue) -> None:
        del self._queues[queue.channel]
        self._intake.tally.delivered += queue.taken
        self.hub.leave(queue.topic, queue)

    @property
    def is_home(self) -> bool:
        """Whether the running loop is home and goes on being it: a home that ends pops no more."""
        life = self.hub.life
        return life is not None and not life.is_ending and self._is_on(asyncio._get_running_loop())

    def _is_on(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        life = self.hub.life
        return life is not None and life.loop is loop

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in the background, and keep it from being collected.

        It ends with the connection: whoever ends all tasks of this loop must not cancel it while
        what it has popped is on its way.
        """
        task = hide(asyncio.ensure_future(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def receive(self, channel: str) -> Message:
        """Return the next message of a worker channel, waiting for it. On any loop.

        Raises:
            ClosedError, CommandRefused: There is no message, and there will be none.
            LinkError: This process has never been connected, and cannot be.
        """
        while True:
            await self.hub.call(self.open, channel, receiving=True)
            reader = Reader()
            self.hub.post(self._ask, channel, reader, receiving=True)
            try:
                job = await reader.wait()
            except BaseException:  # cancellation too: nothing may be popped for who has gone
                self.hub.tell(self._withdraw, reader)
                raise
            queue = reader.queue
            assert queue is not None
            queue.took(reader)
            if job.error is not None:
                raise job.error
            message = self._open(job, channel)
            if message is not None:
                if self._queues.get(channel) is queue:
                    queue.taken += 1
                else:
                    self._intake.tally.delivered += 1
                return message

    def _ask(self, channel: str, reader: Reader) -> None:
        self._queue(channel).ask(reader)

    def _withdraw(self, reader: Reader) -> None:
        if reader.queue is not None:  # else it asked on a loop that has ended meanwhile
            reader.queue.withdraw(reader)

    def _open(self, job: Job, channel: str) -> Message | None:
        name = self.hub.names.queue(channel)
        header = self._intake.unwrap(job.payload, name)
        if header is None:
            return None
        if header[0] is not Form.WORKER:
            self._intake.reject_form(header[0], name)
            return None
        return self._intake.open(self._intake.body(job.payload, header, name), channel)
