"""Requests that wait for their replies, and which reply belongs to whom.

A request carries a *return address*: the asker's process, and a random token of its own.
The reply comes to the inbox of that process with the token in its header, so a process subscribes
to nothing for its requests, and an inbox that cannot hand a request over sends it back without
looking into it.

Whatever comes first decides: the reply, an error in its place, the news that nobody listens, the
loss of the link on which the reply would have come, or the deadline. A reply that comes later is
counted and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Final

from . import exceptions
from .body import Body
from .codec import Codec
from .envelope import Form
from .frames import Subscriber
from .home import left_of
from .hub import Hub
from .intake import Intake
from .names import ReturnAddress, parse_return
from .sealing import enclose
from .serializers import Message

__all__ = ["FULL", "GONE", "STALE", "Correlation", "ReceiverFull", "failure"]

#: What an inbox says about a request that it sends back.
GONE: Final = "gone"
FULL: Final = "full"
STALE: Final = "stale"

#: What the asker is told of that; it passes on what it does not know as the error of the receiver.
STALE_TEXT: Final = (
    "by the clock there the request is older than the timeout, or from the future; set the clocks "
    "of the machines (NTP)"
)

#: Random bytes of a token: no two requests that wait for replies ever share one.
TOKEN_SIZE: Final = 8

#: Characters of an error's text that an asker gets.
MAX_TEXT: Final = 4096

Send = Callable[[], Awaitable[int]]
"""Sends a request; tells how many processes have heard it, or a negative number: there is no room."""


class ReceiverFull(Exception):
    """There is no room for the request where it should wait for its receiver."""


class Pending:
    """One request that waits for its reply.

    Attributes:
        channel: Where it goes.
        answer: The reply, or what comes in its place.
        sending: What becomes of the request itself.
        is_sent: Whether it may have left: then the loss of the link concerns its reply.
    """

    __slots__ = ("answer", "channel", "is_sent", "sending")

    def __init__(self, channel: str, sending: asyncio.Future[int], is_sent: bool) -> None:
        self.channel = channel
        self.answer: asyncio.Future[tuple[Form, Body]] = sending.get_loop().create_future()
        self.sending = sending
        self.is_sent = is_sent

    def sent(self, sending: asyncio.Future[int]) -> None:
        """The request has been sent, to nobody perhaps, or could not be."""
        if sending.cancelled():
            return
        error = sending.exception()
        if error is None:
            heard = sending.result()
            if heard > 0:
                return
            error = exceptions.NoListener(channel=self.channel) if heard == 0 else ReceiverFull()
        self._fail(error)

    def fail(self, error: Exception) -> None:
        """There will be no reply. Any thread may find that out."""
        loop = self.answer.get_loop()
        if loop is not asyncio._get_running_loop():
            with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits
                loop.call_soon_threadsafe(self._fail, error)
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Correlation:
    """The requests of one process that wait, and the replies that it gives.

    Everything but `new_address` is for the home loop.

    Args:
        hub: The connection.
        intake: Reads what arrives.
        inbox: Subscribed to the process's inbox; passes replies to `settle`.
    """

    def __init__(self, hub: Hub, intake: Intake, inbox: Subscriber) -> None:
        self._hub = hub
        self._intake = intake
        self._inbox = inbox
        self._pending: dict[bytes, Pending] = {}
        self._bounces = _bounces(intake.codec)

    def __repr__(self) -> str:
        return f"<Correlation {self._hub.process} pending={len(self._pending)}>"

    def __len__(self) -> int:
        return len(self._pending)

    def new_address(self) -> ReturnAddress:
        """Return the return address of a request to come; for any thread.

        Nobody can tell its token from those before it, so nobody can reply who has not seen it.
        """
        token = int.from_bytes(os.urandom(TOKEN_SIZE), "big")
        return ReturnAddress(self._hub.process, b"%d" % token)

    # Asking

    async def ask(self, channel: str, token: bytes, send: Send, seconds: float) -> Message:
        """Send a request and return the reply. Cancelling leaves nothing behind.

        Args:
            channel: Where it goes, for errors.
            token: That of its return address.
            send: Sends it.
            seconds: How long the whole may take.

        Raises:
            NoListener: Nobody is there.
            ReceiverFull: There is no room for it.
            RemoteError: Whoever handled it has failed.
            RequestTimeout: There was no reply in time.
            LinkUnavailable: There was no link in time; nothing was sent.
            LinkLost: The link was lost meanwhile, and with it the reply perhaps.
            LinkError: Redis refused it, or the subscription to the inbox.
        """
        loop, hears = asyncio.get_running_loop(), self._hub.want(self._hub.inbox, self._inbox)
        sending = asyncio.ensure_future(send() if hears else self._send_when_heard(token, send))
        pending = self._pending[token] = Pending(channel, sending, hears)
        timer = loop.call_later(left_of(seconds), self._expire, pending, seconds)
        try:
            sending.add_done_callback(pending.sent)
            while True:
                form, body = await pending.answer
                message = self._intake.open(body, "the inbox")
                if message is not None:
                    break
                pending.answer = loop.create_future()  # garbage is no reply
        finally:
            timer.cancel()
            self._pending.pop(token, None)
            with contextlib.suppress(RuntimeError):  # the loop is closed, nothing runs there
                sending.cancel()
        if form is Form.REPLY:
            return message
        raise _error(channel, message)

    async def _send_when_heard(self, token: bytes, send: Send) -> int:
        await self._hub.join(self._hub.inbox, self._inbox)
        self._pending[token].is_sent = True
        return await send()

    def _expire(self, pending: Pending, seconds: float) -> None:
        sending, hub = pending.sending, self._hub
        if sending.done():
            pending.sent(sending)  # it may be due in this very turn of the loop
        elif hub.state != "connected":
            reason = hub.statistics().last_error or "still connecting"
            pending.fail(
                exceptions.LinkUnavailable(address=hub.address, seconds=seconds, reason=reason)
            )
        pending.fail(exceptions.RequestTimeout(channel=pending.channel, seconds=seconds))

    # What comes for those who wait

    def settle(self, form: Form, token: bytes, body: Body) -> None:
        """A reply, or a failure, has come. For the reader: the body stays as it is."""
        pending = self._pending.get(token)
        if pending is None or pending.answer.done():
            self._intake.tally.late += 1
        else:
            pending.answer.set_result((form, body))

    def interrupted(self, reason: str) -> None:
        """The link is lost: replies may be missed. Who has sent nothing yet waits on."""
        error = exceptions.LinkLost(address=self._hub.address, reason=reason)
        for pending in tuple(self._pending.values()):
            if pending.is_sent:
                pending.fail(error)

    def drop_all(self, error: Exception) -> None:
        """Whoever waits for a reply gets ``error``."""
        dropped, self._pending = self._pending, {}
        for pending in dropped.values():
            pending.fail(error)

    # Answering

    async def answer(self, to: ReturnAddress, payload: bytes) -> None:
        """Send a reply; it is counted if nobody is there any more.

        Raises:
            LinkError: See `Hub.command`.
        """
        if not await self._hub.publish(self._hub.names.inbox(to.process), payload):
            self._intake.tally.late += 1

    def bounce(self, address: bytes, problem: str) -> None:
        """Send a request back that cannot be handed over. For the reader: nothing is awaited.

        Args:
            address: The request's return address.
            problem: `GONE`, `FULL` or `STALE`.
        """
        to, body = parse_return(address), self._bounces.get(problem)
        assert to is not None
        if body is None:
            return
        inbox = self._hub.names.inbox(to.process)
        payload = enclose(self._intake.codec, Form.FAILURE, body, inbox, to.token)
        with contextlib.suppress(exceptions.LinkLost):  # no home: the asker has its deadline
            sending = self._hub.publish(inbox, payload)
            sending.add_done_callback(lambda sent: sent.cancelled() or sent.exception())


def _bounces(codec: Codec) -> dict[str, bytes]:
    """Return the bodies of bounces in the clear, encoded once: the reader runs no serializer of a user's."""
    bodies: dict[str, bytes] = {}
    with contextlib.suppress(exceptions.EncodingError):  # a serializer that takes only its own
        for problem in (GONE, FULL):
            bodies[problem] = codec.serialize({"bounced": problem})
        stale = {"bounced": STALE, "type": "StaleRequest", "text": STALE_TEXT}
        bodies[STALE] = codec.serialize(stale)
    return bodies


def failure(error: BaseException) -> Message:
    """Return what tells an asker about an error: its class and its text, nothing else."""
    try:
        text = str(error)
    except Exception:  # the error is a user's, and so is its text
        text = ""
    text = text.encode("utf-8", "backslashreplace").decode()
    return {"type": type(error).__name__, "text": text[:MAX_TEXT]}


def _error(channel: str, message: Message) -> Exception:
    problem = message.get("bounced")
    if problem == GONE:
        return exceptions.NoListener(channel=channel)
    if problem == FULL:
        return ReceiverFull()
    kind, text = str(message.get("type")), str(message.get("text"))
    return exceptions.RemoteError(channel=channel, type=kind, text=text)
