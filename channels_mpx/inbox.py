"""The one Redis channel of a process: direct channels, and what processes ask of each other.

A direct channel is a number behind the process's inbox, so making one costs no I/O and ten
thousand consumers cost one subscription. It lives as long as its name: `ChannelName` is a string
that can be watched, the consumer holds it, and when the consumer is gone, however it ended, the
name is collected and the mailbox with it.

A consumer that lives but has not read for ``expiry`` seconds is *dormant*: it leaves its groups,
so that nothing is delivered to a reader that may never come back, and joins them again when it
does.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from . import envelope, exceptions
from .envelope import Form
from .hub import Hub
from .intake import Intake
from .mailbox import Item, Mailbox
from .names import Topic

__all__ = ["ChannelName", "DirectMailbox", "Inbox"]

logger = logging.getLogger("channels_mpx.layer")

Handler = Callable[[dict[str, Any]], Awaitable[None]]


class ChannelName(str):
    """The name of a direct channel; its channel lives as long as it does."""

    __slots__ = ("__weakref__",)


class _NameWatch(weakref.ref[ChannelName]):
    """Tells which channel's name is gone."""

    __slots__ = ("local",)

    local: bytes


class DirectMailbox(Mailbox):
    """The mailbox of a direct channel.

    Attributes:
        local: The channel's name behind the ``!``.
        loop: Where its consumer runs.
        is_dormant: Whether it has left its groups because nobody reads.
    """

    __slots__ = ("is_dormant", "local", "loop", "watch")

    local: bytes
    loop: asyncio.AbstractEventLoop
    watch: _NameWatch
    is_dormant: bool


class Inbox:
    """Makes direct channels and gives each its messages; asks other processes for things.

    Args:
        hub: The connection.
        intake: Reads what arrives.
        make_mailbox: Makes the mailbox for a channel's name.
    """

    def __init__(
        self, hub: Hub, intake: Intake, make_mailbox: Callable[[str], DirectMailbox]
    ) -> None:
        self._hub = hub
        self._intake = intake
        self._make_mailbox = make_mailbox
        self._numbers = itertools.count(1)
        self._tokens = itertools.count(1)
        self._by_local: dict[bytes, DirectMailbox] = {}
        #: Mailboxes by the full name of their channel.
        self.mailboxes: dict[str, DirectMailbox] = {}
        self._collected: deque[bytes] = deque()
        self._answers: dict[int, asyncio.Future[tuple[str | None, str]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_open = False
        #: What other processes may ask for, by name.
        self.handlers: dict[str, Handler] = {}
        #: Called with a mailbox that is dropped.
        self.dropped: Callable[[Mailbox], object] = lambda mailbox: None
        #: Called with a mailbox that goes dormant.
        self.went_dormant: Callable[[Mailbox], object] = lambda mailbox: None

    def __repr__(self) -> str:
        return f"<Inbox {self._hub.process} channels={len(self.mailboxes)}>"

    # Direct channels, on the home loop

    async def open(self, prefix: str, loop: asyncio.AbstractEventLoop) -> ChannelName:
        """Make a direct channel and return its name.

        Only the first one waits: until Redis has confirmed the inbox.

        Args:
            prefix: The beginning of the name.
            loop: Where its consumer runs.
        """
        if not self._is_open:
            await self._hub.join(self._hub.inbox, self)
            self._is_open = True
        number = b"%d" % next(self._numbers)
        text = f"{prefix}{self._hub.process}!{number.decode()}"
        name = ChannelName(text)
        mailbox = self._make_mailbox(text)
        mailbox.local = number
        mailbox.loop = loop
        mailbox.is_dormant = False
        mailbox.watch = _NameWatch(name, self._name_collected)
        mailbox.watch.local = number
        self._by_local[number] = self.mailboxes[text] = mailbox
        return name

    def find(self, channel: str) -> DirectMailbox:
        """Return the mailbox of a direct channel of this process.

        Raises:
            UnknownChannel: There is none.
        """
        try:
            return self.mailboxes[channel]
        except KeyError:
            raise exceptions.UnknownChannel(channel=str(channel)) from None

    def sweep(self) -> None:
        """Drop the channels whose names have been collected."""
        for _ in range(len(self._collected)):
            local = self._collected.popleft()
            mailbox = self._by_local.get(local)
            if mailbox is None:
                continue
            if mailbox.is_awaited:
                self._collected.append(local)  # by a copy of the name: see to it later
            else:
                self._drop(local)

    def reap(self, expiry: float) -> None:
        """Let go of channels that nobody has read for ``expiry`` seconds."""
        self.sweep()
        now, here = time.monotonic(), asyncio.get_running_loop()
        for mailbox in tuple(self._by_local.values()):
            if mailbox.loop.is_closed():
                self._drop(mailbox.local)
            elif mailbox.idle(now) > expiry:
                if mailbox.loop is here:
                    mailbox.expire(now)
                if not mailbox.is_dormant:
                    mailbox.is_dormant = True
                    self.went_dormant(mailbox)

    def drop_all(self, error: Exception) -> None:
        """End every channel; whoever waits for a message gets ``error``."""
        for local in tuple(self._by_local):
            mailbox = self._by_local[local]
            self._drop(local)
            mailbox.close(error)

    def put_to_all(self, item: Item) -> None:
        """Put one message into every mailbox."""
        for mailbox in self._by_local.values():
            mailbox.put(item)

    def clear(self) -> None:
        """Drop what waits in the mailboxes; the channels stay."""
        for mailbox in self._by_local.values():
            mailbox.clear()

    def forget_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Drop the channels of consumers on a loop that has ended."""
        for mailbox in tuple(self._by_local.values()):
            if mailbox.loop is loop:
                self._drop(mailbox.local)
                mailbox.close(exceptions.ClosedError(what="The event loop of the channel"))

    def _name_collected(self, watch: weakref.ref[ChannelName]) -> None:
        """Note that a name is gone. Any thread may collect, in the middle of anything: no locks."""
        assert isinstance(watch, _NameWatch)
        self._collected.append(watch.local)
        if len(self._collected) == 1:
            self._hub.wake(self.sweep)

    def _drop(self, local: bytes) -> None:
        mailbox = self._by_local.pop(local)
        del self.mailboxes[mailbox.name]
        self._intake.tally.delivered += mailbox.taken
        self.dropped(mailbox)

    # Messages, on the reader

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`."""
        header = self._intake.unwrap(payload, channel)
        if header is None:
            return
        form, _, local, _ = header
        if form is Form.DIRECT:
            mailbox = self._by_local.get(local)
            if mailbox is not None:
                mailbox.put(self._intake.body(payload, header))
            else:
                self._intake.tally.unknown += 1
        elif form is Form.CONTROL:
            request = self._intake.open(self._intake.body(payload, header), "the inbox")
            if request is not None:
                self._control(request)
        elif form is not Form.PROBE:
            self._intake.reject_form(form, channel)

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`."""

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`: the next channel asks again."""
        self._is_open = False

    # Requests between processes, on the home loop

    async def ask(self, channel: str, process: str, verb: str, **arguments: str) -> None:
        """Ask the owner of a channel to do something, and return when it has.

        Args:
            channel: A direct channel of another process.
            process: That process.
            verb: The name of the handler there.
            arguments: For the handler.

        Raises:
            UnknownChannel: The process, or the channel in it, is gone.
            MembershipFailed: The owner could not do it.
            NotConfirmed: It did not answer in time.
        """
        hub = self._hub
        await hub.join(hub.inbox, self)
        token = next(self._tokens)
        answer: asyncio.Future[tuple[str | None, str]]
        answer = asyncio.get_running_loop().create_future()
        self._answers[token] = answer
        request = {"verb": verb, "channel": channel, **arguments}
        try:
            heard = await self._tell(process, {**request, "token": token, "from": hub.process})
            if not heard:
                raise exceptions.UnknownChannel(channel=channel)
            await asyncio.wait([answer], timeout=hub.options.timeout)
            if not answer.done():
                raise exceptions.NotConfirmed(
                    address=hub.address,
                    what=f"through its owner that {channel!r} did {verb}",
                    seconds=hub.options.timeout,
                )
            error, text = answer.result()
            if error == "UnknownChannel":
                raise exceptions.UnknownChannel(channel=channel)
            if error is not None:
                raise exceptions.MembershipFailed(channel=channel, text=text)
        finally:
            del self._answers[token]
            answer.cancel()

    def _tell(self, process: str, message: dict[str, Any]) -> Awaitable[int]:
        codec = self._intake.codec
        payload = envelope.wrap(Form.CONTROL, codec.encode(message), codec.encrypts)
        return self._hub.publish(self._hub.names.inbox(process), payload)

    def _control(self, message: dict[str, Any]) -> None:
        verb, token = message.get("verb"), message.get("token")
        texts = [message.get(key, "") for key in ("verb", "from", "channel", "group")]
        if not isinstance(token, int) or not all(isinstance(t, str) and t.isascii() for t in texts):
            error = exceptions.DecodingError(problem="a request of another form")
            self._intake.reject("the inbox", error)
        elif verb == "answer":
            answer = self._answers.get(token)
            if answer is not None and not answer.done():  # else whoever asked has given up
                answer.set_result((message.get("error"), str(message.get("text"))))
        elif verb in self.handlers and {"from", "channel", "group"} <= message.keys():
            task = asyncio.ensure_future(self._obey(self.handlers[verb], message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            error = exceptions.DecodingError(problem=f"an unknown request {verb!r}")
            self._intake.reject("the inbox", error)

    async def _obey(self, handler: Handler, message: dict[str, Any]) -> None:
        """Do what another process asks for, and tell it what came of it."""
        answer: dict[str, Any] = {"verb": "answer", "token": message["token"], "error": None}
        try:
            await handler(message)
        except exceptions.MPXError as error:
            answer |= {"error": type(error).__name__, "text": str(error)}
        try:
            await self._tell(message["from"], answer)
        except exceptions.LinkError as error:
            logger.info("could not answer process %s: %s", message["from"], error)
