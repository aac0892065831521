"""Worker channels: names without ``!``, whose every message goes to exactly one reader.

The messages wait in a list in Redis, so they outlive a worker that restarts; nobody blocks on it.
Each push rings a bell (a PUBLISH), and a process in which somebody waits pops one message for each
bell and each reader. A message is popped only for a reader that waits, and if that reader goes
away before it gets the message, the message goes back to the head of the list.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from typing import Any

from . import exceptions
from .envelope import Form
from .escaping import escape
from .home import HandedOver, hide
from .hub import Hub
from .intake import Intake
from .queues import Job, Queue, Reader
from .scripts import POP, PUSH, UNPOP
from .serializers import Message

__all__ = ["Workers"]

logger = logging.getLogger("channels_mpx.layer")


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
