"""What a process does for another one: the memberships of its own channels.

`group_add` may be called anywhere, and only the owner of a channel can make it a member. So it is a
request between processes like any other, but to the inbox itself, and answered there.

Anybody who may publish to the inbox can ask, as often as he likes, so what is under way is bounded.
What is beyond that waits in order, and what is beyond that too is sent back at once.
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

from . import exceptions
from .correlation import FULL, Correlation, ReceiverFull, failure
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
    """

    def __init__(self, hub: Hub, intake: Intake, correlation: Correlation) -> None:
        self._hub = hub
        self._intake = intake
        self._correlation = correlation
        self._backlog: Backlog | None = None
        self._last_refusal = -EPISODE
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
            logger.warning("! refusing requests of other processes: %d wait already", MAX_WAITING)
        self._last_refusal = now

    def _reject(self) -> None:
        problem = "a request between processes that nobody here understands"
        self._intake.reject("the inbox", exceptions.DecodingError(problem=problem))

    async def _obey(self, payload: bytes, header: Envelope) -> None:
        """Do what another process asks for, and tell it what came of it."""
        message = self._intake.open(
            self._intake.body(payload, header, self._hub.inbox.name), "the inbox"
        )
        if message is None:
            return
        back = parse_return(header[4])
        verb, group, channel = (message.get(key, "") for key in ("verb", "group", "channel"))
        are_names = all(
            isinstance(name, str) and name and name.isascii() for name in (group, channel)
        )
        handler = self.handlers.get(verb) if isinstance(verb, str) else None
        if back is None or handler is None or not are_names:
            self._reject()
            return
        form, answer = Form.REPLY, Message()
        try:
            await handler(group, channel)
        except exceptions.MPXError as error:
            form, answer = Form.FAILURE, failure(error)
        codec, inbox = self._intake.codec, self._hub.names.inbox(back.process)
        reply = enclose(codec, form, codec.serialize(answer), inbox, back.token)
        try:
            await self._correlation.answer(back, reply)
        except exceptions.LinkError as error:
            logger.info("could not answer process %s: %s", back.process, error)
