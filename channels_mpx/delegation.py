"""What a process does for another one: the memberships of its own channels.

`group_add` may be called anywhere, and only the owner of a channel can make it a member. So it is a
request between processes like any other, but to the inbox itself, and answered there.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable

from . import envelope, exceptions
from .correlation import Correlation, failure
from .envelope import Envelope, Form
from .hub import Hub
from .intake import Intake
from .names import parse_return
from .serializers import Message

__all__ = ["Delegation"]

logger = logging.getLogger("channels_mpx.layer")

Handler = Callable[[str, str], Awaitable[None]]
"""Does something to a group and a channel of this process."""


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
        self._tasks: set[asyncio.Task[None]] = set()
        #: What other processes may ask for, by name.
        self.handlers: dict[str, Handler] = {}

    def __repr__(self) -> str:
        return f"<Delegation {self._hub.process} under_way={len(self._tasks)}>"

    async def ask(self, verb: str, group: str, channel: str, process: str) -> None:
        """Have the owner of a channel do something, and return when it has.

        Args:
            verb: The name of the handler there.
            group: For the handler.
            channel: For the handler; a direct channel of another process.
            process: That process.

        Raises:
            UnknownChannel: The process, or the channel in it, is gone.
            MembershipFailed: The owner could not do it.
            NotConfirmed: It did not answer in time.
            LinkLost: The link was lost meanwhile; it may have been done.
        """
        hub, codec = self._hub, self._intake.codec
        back = self._correlation.new_address()
        body = codec.encode({"verb": verb, "group": group, "channel": channel})
        payload = envelope.wrap_request(Form.CONTROL, body, codec.encrypts, None, bytes(back))
        send = functools.partial(hub.publish, hub.names.inbox(process), payload)
        try:
            await self._correlation.ask(channel, back.token, send, hub.options.timeout)
        except exceptions.NoListener as error:
            raise exceptions.UnknownChannel(channel=channel) from error
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
        task = asyncio.ensure_future(self._obey(payload, header))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _obey(self, payload: bytes, header: Envelope) -> None:
        """Do what another process asks for, and tell it what came of it."""
        message = self._intake.open(self._intake.body(payload, header), "the inbox")
        if message is None:
            return
        back = parse_return(header[4])
        verb, group, channel = (message.get(key, "") for key in ("verb", "group", "channel"))
        are_names = all(
            isinstance(name, str) and name and name.isascii() for name in (group, channel)
        )
        handler = self.handlers.get(verb) if isinstance(verb, str) else None
        if back is None or handler is None or not are_names:
            problem = "a request between processes that nobody here understands"
            self._intake.reject("the inbox", exceptions.DecodingError(problem=problem))
            return
        form, answer = Form.REPLY, Message()
        try:
            await handler(group, channel)
        except exceptions.MPXError as error:
            form, answer = Form.FAILURE, failure(error)
        codec = self._intake.codec
        reply = envelope.wrap(form, codec.encode(answer), codec.encrypts, back.token)
        try:
            await self._correlation.answer(back, reply)
        except exceptions.LinkError as error:
            logger.info("could not answer process %s: %s", back.process, error)
