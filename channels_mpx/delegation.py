"""What a process does for another one: the memberships of its own channels.

`group_add` may be called anywhere, and only the owner of a channel can make it a member. So it is a
request between processes like any other, but to the inbox itself, and answered there.

Anybody who may publish to the inbox can ask, as often as he likes, so what is under way is bounded.
What is beyond that waits in order, and what is beyond that too is sent back at once.

Anybody who may also subscribe can repeat what he has seen, which no key prevents. A request is worth
nothing after ``timeout`` seconds, when its asker has given up: an older one is refused, by the time
in its header, and of the younger ones each is done only once.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from . import envelope, exceptions
from .correlation import FULL, STALE, Correlation, ReceiverFull, failure
from .envelope import Envelope, Form
from .hub import Hub
from .intake import EPISODE, Intake
from .names import parse_return
from .sealing import enclose
from .serializers import Message

__all__ = ["Delegation"]

logger = logging.getLogger("channels_mpx.layer")

Handler = Callable[[str, str], Awaitable[object]]
"""Does something to a group and a channel of this process."""

#: Requests under way. Each waits for a round trip or two, so these are tens of thousands in a
#: second, and in one turn of the loop no more bodies than these are opened.
MAX_UNDER_WAY: Final = 128

#: Requests that wait for their turn: as many consumers as a process may well have, each of which
#: is put into a group from elsewhere at once, as after a deploy.
MAX_WAITING: Final = 10_000

#: Requests that are remembered so that they are done only once. They are those of twice ``timeout``
#: seconds; with its default that is more than a process can do in that time.
MAX_REMEMBERED: Final = 131_072

#: Bytes of a request. Two names of at most a hundred characters each need a fraction of it, also
#: encrypted; and all that may wait is 40 MB at most.
MAX_SIZE: Final = 4096


class Backlog:
    """What other processes ask for, on one home loop: some under way, the others in order.

    Args:
        loop: The home loop. It is not kept alive.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self.tasks: set[asyncio.Task[None]] = set()
        #: Payload, header, and when it came.
        self.waiting: deque[tuple[bytes, Envelope, float]] = deque()


class Delegation:
    """Has the owners of channels do things, and does them for others. For the home loop.

    Args:
        hub: The connection.
        intake: Reads what arrives.
        correlation: Brings the answers.
        require_group: Raises ``TypeError`` for what is no name of a group.
    """

    def __init__(
        self,
        hub: Hub,
        intake: Intake,
        correlation: Correlation,
        require_group: Callable[[str], object],
    ) -> None:
        self._hub = hub
        self._intake = intake
        self._correlation = correlation
        self._backlog: Backlog | None = None
        self._last_refusal = self._last_stale = -EPISODE
        self._require_group = require_group
        #: The return addresses of what was begun, and when that came; the oldest first.
        self._begun: dict[bytes, float] = {}
        #: What other processes may ask for, by name.
        self.handlers: dict[str, Handler] = {}

    def __repr__(self) -> str:
        under_way, waiting = self.load
        return f"<Delegation {self._hub.process} waiting={waiting} under_way={under_way}>"

    @property
    def load(self) -> tuple[int, int]:
        """How many requests of other processes are under way, and how many wait behind them."""
        backlog = self._backlog
        return (0, 0) if backlog is None else (len(backlog.tasks), len(backlog.waiting))

    async def ask(self, verb: str, group: str, channel: str, process: str) -> None:
        """Have the owner of a channel do something, and return when it has.

        Args:
            verb: The name of the handler there.
            group: For the handler.
            channel: For the handler; a direct channel of another process.
            process: That process.

        Raises:
            UnknownChannel: The process, or the channel in it, is gone.
            MembershipFailed: The owner could not do it, or too many such requests wait there.
            NotConfirmed: It did not answer in time.
            LinkLost: The link was lost meanwhile; it may have been done.
        """
        hub, codec = self._hub, self._intake.codec
        back = self._correlation.new_address()
        body = codec.serialize({"verb": verb, "group": group, "channel": channel})
        inbox = hub.names.inbox(process)
        payload = enclose(codec, Form.CONTROL, body, inbox, address=bytes(back))
        send = functools.partial(hub.publish, inbox, payload)
        try:
            await self._correlation.ask(channel, back.token, send, hub.options.timeout)
        except exceptions.NoListener as error:
            raise exceptions.UnknownChannel(channel=channel) from error
        except ReceiverFull as error:
            text = f"over {MAX_WAITING} such requests wait there; it was not begun"
            raise exceptions.MembershipFailed(channel=channel, text=text) from error
        except exceptions.RemoteError as error:
            if error.type == exceptions.UnknownChannel.__name__:
                raise exceptions.UnknownChannel(channel=channel) from error
            raise exceptions.MembershipFailed(channel=channel, text=error.text) from error
        except exceptions.RequestTimeout as error:
            what = f"through its owner that {channel!r} did {verb}"
            raise exceptions.NotConfirmed(
                address=hub.address, what=what, seconds=hub.options.timeout
            ) from error

    def asked(self, payload: bytes, header: Envelope) -> None:
        """Another process asks for something. For the reader: it is done in the background."""
        if not header[4] or len(payload) > MAX_SIZE:
            self._reject()
            return
        age = time.time() - envelope.sent_at(payload)
        if abs(age) > self._hub.options.timeout:
            self._refuse_stale(header, age)
            return
        backlog, loop = self._backlog, asyncio.get_running_loop()
        if backlog is None or backlog.loop() is not loop:
            # What was under way on the last home ended with it, and who asked it has a deadline.
            backlog = self._backlog = Backlog(loop)
        if len(backlog.tasks) < MAX_UNDER_WAY:
            self._start(backlog, payload, header)
        elif len(backlog.waiting) < MAX_WAITING:
            backlog.waiting.append((payload, header, time.monotonic()))
        else:
            self._refuse(header)

    def _start(self, backlog: Backlog, payload: bytes, header: Envelope) -> None:
        task = asyncio.ensure_future(self._obey(payload, header))
        backlog.tasks.add(task)
        task.add_done_callback(functools.partial(self._done, backlog))

    def _done(self, backlog: Backlog, task: asyncio.Task[None]) -> None:
        """One is done: begin the next one for which somebody still waits."""
        backlog.tasks.discard(task)
        if task.cancelled() or self._hub.life is None:
            backlog.waiting.clear()  # home ends
        oldest = time.monotonic() - self._hub.options.timeout
        while backlog.waiting:
            payload, header, arrived = backlog.waiting.popleft()
            if arrived >= oldest:
                self._start(backlog, payload, header)
                return
            self._intake.tally.expired += 1

    def _refuse(self, header: Envelope) -> None:
        """Send a request back for which there is no room."""
        self._intake.tally.full += 1
        self._correlation.bounce(header[4], FULL)
        now = time.monotonic()
        if now - self._last_refusal >= EPISODE:
            logger.warning(
                "channels_mpx: refusing membership requests of other processes: %d wait already",
                MAX_WAITING,
            )
        self._last_refusal = now

    def _refuse_stale(self, header: Envelope, age: float) -> None:
        """Send a request back whose asker does not wait any more, by the two clocks."""
        self._intake.tally.expired += 1
        self._correlation.bounce(header[4], STALE)
        now = time.monotonic()
        if now - self._last_stale >= EPISODE:
            logger.warning(
                "channels_mpx: refusing membership requests of other processes: one is %.0f s old by its sender's clock, "
                "timeout is %g s; the clocks differ, or somebody repeats old ones",
                age,
                self._hub.options.timeout,
            )
        self._last_stale = now

    def _reject(self, problem: str = "that nobody here understands") -> None:
        error = exceptions.DecodingError(problem=f"a request between processes {problem}")
        self._intake.reject("the inbox", error)

    def _is_group(self, name: object) -> bool:
        """Tell whether a name is one that `group_add` would take."""
        if not isinstance(name, str) or not name.isascii():
            return False
        try:
            self._require_group(name)
        except TypeError:
            return False
        return True

    def _begins(self, header: Envelope) -> bool:
        """Note that a request is begun; tell whether it may be: it is the first time."""
        begun, now, address = self._begun, time.monotonic(), header[4]
        # One from the future is valid for that much longer.
        oldest = now - 2 * self._hub.options.timeout
        while begun and begun[next(iter(begun))] < oldest:
            del begun[next(iter(begun))]
        if address in begun:
            self._reject("that came before")
            return False
        if len(begun) >= MAX_REMEMBERED:
            self._refuse(header)
            return False
        begun[address] = now
        return True

    async def _obey(self, payload: bytes, header: Envelope) -> None:
        """Do what another process asks for, and tell it what came of it."""
        message = self._intake.open(
            self._intake.body(payload, header, self._hub.inbox.name), "the inbox"
        )
        if message is None:
            return
        back = parse_return(header[4])
        verb, group, channel = (message.get(key, "") for key in ("verb", "group", "channel"))
        are_names = self._is_group(group) and isinstance(channel, str)
        handler = self.handlers.get(verb) if isinstance(verb, str) else None
        if back is None or handler is None or not are_names:
            self._reject()
            return
        if not self._begins(header):
            return
        form, answer = Form.REPLY, Message()
        try:
            await handler(group, channel)
        except exceptions.MembershipFailed as error:
            form, answer = Form.FAILURE, {"type": type(error).__name__, "text": error.text}
        except exceptions.MPXError as error:
            form, answer = Form.FAILURE, failure(error)
        codec, inbox = self._intake.codec, self._hub.names.inbox(back.process)
        reply = enclose(codec, form, codec.serialize(answer), inbox, back.token)
        try:
            await self._correlation.answer(back, reply)
        except exceptions.LinkError as error:
            logger.info(
                "channels_mpx: could not answer the membership request of process %s: %s",
                back.process,
                error,
            )
