"""Worker channels: names without ``!``, whose every message goes to exactly one reader.

The messages wait in a list in Redis, so they outlive a worker that restarts; nobody blocks on it.
Each push rings a bell (a PUBLISH), and a process in which somebody waits pops one message for each
bell and each reader. A message is popped only for a reader that waits, and if that reader goes
away before it gets the message, the message goes back to the head of the list.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from . import exceptions
from .envelope import Form
from .hub import Hub
from .intake import Intake
from .mailbox import Item, Mailbox
from .names import Kind, Topic
from .scripts import DEADLINE_DIGITS, POP, PUSH, UNPOP
from .serializers import Message
from .wire import PASSING

__all__ = ["Job", "Queue", "Workers"]

logger = logging.getLogger("channels_mpx.layer")

#: Seconds before a queue is asked again whose server could not answer until a command's deadline.
PAUSE = 1.0


class Job:
    """What a reader of a worker channel gets: an entry of the queue, or why there is none."""

    __slots__ = ("arrived", "entry", "error", "size")

    def __init__(self, entry: bytes = b"", error: Exception | None = None) -> None:
        self.arrived = time.monotonic()
        self.entry = entry
        self.error = error
        self.size = len(entry)

    @property
    def payload(self) -> bytes:
        """The envelope."""
        return self.entry[DEADLINE_DIGITS:]


class Queue:
    """One worker channel as this process sees it; subscribed to its bell.

    Attributes:
        mailbox: Where popped entries wait for the reader for whom they were popped.
        demand: How many readers wait for whom nothing was popped yet.
        loop: Where the last reader runs; None if that loop has ended.
    """

    loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, workers: Workers, channel: str, mailbox: Mailbox) -> None:
        self._workers = workers
        self.channel = channel
        self.mailbox = mailbox
        self.topic = Topic(Kind.CHANNEL, workers.hub.names.bell(channel))
        self.demand = 0
        self._is_popping = False
        self._has_rung = False
        self._is_active = False

    def __repr__(self) -> str:
        return f"<Queue {self.channel} demand={self.demand} waiting={len(self.mailbox)}>"

    def pump(self) -> None:
        """Pop if somebody waits and nobody pops yet."""
        if self.demand > 0 and self._is_active and not self._is_popping:
            self._is_popping = True
            self._workers.start(self._pop())

    async def _pop(self) -> None:
        """Pop until nobody waits or nothing is there."""
        try:
            while self.demand > 0 and self._is_active:
                self._has_rung = False
                entry = await self._workers.pop(self.channel)
                if entry is not None:
                    self._hand_over(Job(entry))
                elif not self._has_rung:
                    return
        except exceptions.CommandRefused as error:
            if error.code in PASSING:
                # Scripts are tried again until their deadline, but a reader has none.
                asyncio.get_running_loop().call_later(PAUSE, self.pump)
            else:
                self._fail(error)
        except exceptions.LinkError as error:
            # A message may have been popped and lost with the link: at most once.
            logger.info("popping from %s: %s", self.channel, error)
        finally:
            self._is_popping = False

    def _hand_over(self, job: Job) -> None:
        if self.demand > 0 and self.mailbox.put(job):
            self.demand -= 1
        elif job.error is None:
            self._workers.give_back(self.channel, job)

    def _fail(self, error: Exception) -> None:
        for _ in range(self.demand):
            self._hand_over(Job(error=error))

    def ask(self) -> None:
        """Somebody waits for a message: the mailbox will get one."""
        self.demand += 1
        self.pump()

    def withdraw(self) -> None:
        """One reader has gone away without a message."""
        if self.demand > 0:
            self.demand -= 1
            return
        job = self.mailbox.take()
        if isinstance(job, Job) and job.error is None:
            self.mailbox.taken -= 1
            self._workers.give_back(self.channel, job)

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


class Workers:
    """The worker channels that somebody in this process reads, and sending to any.

    Everything here is for the home loop.

    Args:
        hub: The connection.
        intake: Reads what arrives.
        make_mailbox: Makes the mailbox for a channel's name.
    """

    def __init__(self, hub: Hub, intake: Intake, make_mailbox: Callable[[str], Mailbox]) -> None:
        self.hub = hub
        self._intake = intake
        self._make_mailbox = make_mailbox
        self._queues: dict[str, Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()

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

    async def open(self, channel: str, loop: asyncio.AbstractEventLoop) -> Queue:
        """Return the queue of a channel, listening to its bell.

        Args:
            channel: The worker channel.
            loop: Where its reader runs.

        Raises:
            LinkError: This process has never been connected, and cannot be.
        """
        queue = self._queues.get(channel)
        if queue is None:
            queue = self._queues[channel] = Queue(self, channel, self._make_mailbox(channel))
        queue.loop = loop
        self.hub.want(queue.topic, queue)
        if not self.hub.has_been_linked:
            await self.hub.join(queue.topic, queue)
        return queue

    def give_back(self, channel: str, job: Job) -> None:
        """Put an entry back to the head of its queue, in the background."""
        names = self.hub.names

        async def unpop() -> None:
            try:
                arguments = (names.bell(channel), job.entry)
                if await self.hub.run(UNPOP, (names.queue(channel),), arguments) < 0:
                    self._intake.tally.expired += 1
            except exceptions.LinkError as error:
                self._intake.tally.unknown += 1
                logger.warning("! a message for %s could not be given back: %s", channel, error)

        self.start(unpop())

    def reap(self, expiry: float) -> None:
        """Unsubscribe from the bells that nobody has listened to for ``expiry`` seconds."""
        now = time.monotonic()
        for queue in tuple(self._queues.values()):
            mailbox = queue.mailbox
            if not queue.demand and not len(mailbox) and mailbox.idle(now) > expiry:
                self._forget(queue)

    @property
    def taken(self) -> int:
        """How many messages the readers of the present queues have got."""
        return sum(queue.mailbox.taken for queue in tuple(self._queues.values()))

    def is_awaited(self) -> bool:
        """Tell whether anybody reads from any queue: waits, or works on what it has got."""
        return any(queue.loop is not None for queue in tuple(self._queues.values()))

    def forget_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that the readers on a loop have ended with it."""
        for queue in tuple(self._queues.values()):
            if queue.loop is loop:
                queue.loop = None

    def drop_all(self, error: Exception) -> None:
        """Stop listening to any queue; whoever waits gets ``error``."""
        for queue in tuple(self._queues.values()):
            self._forget(queue)
            queue.demand = 0
            queue.mailbox.close(error)

    def _forget(self, queue: Queue) -> None:
        del self._queues[queue.channel]
        self._intake.tally.delivered += queue.mailbox.taken
        self.hub.leave(queue.topic, queue)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background, and keep it from being collected."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def read(self, job: Item, queue: Queue) -> Message | None:
        """Return the message in a job that was taken from a queue's mailbox; None if it is garbage.

        Raises:
            CommandRefused: There is no message, and there will be none.
        """
        assert isinstance(job, Job)
        message = self._open(job, queue.channel) if job.error is None else None
        if message is None:
            queue.mailbox.taken -= 1  # nobody gets anything
        if job.error is not None:
            raise job.error
        return message

    def _open(self, job: Job, channel: str) -> Message | None:
        name = self.hub.names.queue(channel)
        header = self._intake.unwrap(job.payload, name)
        if header is None:
            return None
        if header[0] is not Form.WORKER:
            self._intake.reject_form(header[0], name)
            return None
        return self._intake.open(self._intake.body(job.payload, header, name), channel)
