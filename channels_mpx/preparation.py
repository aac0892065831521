"""Before a verb: its arguments are checked, and its message is encoded, where it was called.

What cannot work fails here, in the caller's own thread and before anything is sent. What is left
to do at home is returned: what to call there, and with what.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from . import envelope, exceptions
from .arguments import require_deadline
from .codec import Codec
from .correlation import ReceiverFull, Send, failure
from .envelope import Form
from .escaping import shorten
from .hub import Hub
from .names import REPLY_TO, ReturnAddress, parse_direct, parse_return
from .process import Process
from .sealing import enclose
from .serializers import Message

__all__ = ["Preparation", "Prepared", "Specification"]

logger = logging.getLogger("channels_mpx.layer")

#: What handlers of consumers get.
_HANDLED = frozenset({Form.GROUP, Form.DIRECT, Form.WORKER})

Prepared = tuple[Callable[..., Awaitable[Any]], tuple[Any, ...]]
"""What a verb needs at home: what to call there, and with what."""

#: Names whose check and whose place in Redis are remembered.
REMEMBERED_NAMES = 4096


class Specification(Protocol):
    """What Channels prescribes: names, errors and capacities. The layer is that."""

    ChannelFull: type[Exception]
    MessageTooLarge: type[Exception]
    expiry: float

    def get_capacity(self, channel: str) -> int:
        """Return how many messages may wait in a channel."""

    def require_valid_channel_name(self, name: Any) -> object:
        """Raise ``TypeError`` for what is no name of a channel."""

    def require_valid_group_name(self, name: Any) -> object:
        """Raise ``TypeError`` for what is no name of a group."""


class Preparation:
    """Checks and encodes for the verbs of a layer, and for those without an event loop.

    Args:
        rules: What Channels prescribes.
        hub: The connection.
        codec: Encodes.
    """

    #: The layer's life in this process; the layer sets it, anew after a fork.
    process: Process

    def __init__(self, rules: Specification, hub: Hub, codec: Codec) -> None:
        self._rules = rules
        self._hub = hub
        self._codec = codec
        self._has_warned = False
        #: `find_group` without what it says about bad names.
        self.group_channel = functools.lru_cache(REMEMBERED_NAMES)(self._check_group)
        self._address = functools.lru_cache(REMEMBERED_NAMES)(self._check_channel)

    # Verbs

    def send(self, channel: str, message: Message) -> Prepared:
        """Return what ``send`` calls at home."""
        process, local = self.find_address(channel)
        if local is None:
            return self._push, (channel, self._wrap_job(channel, message))
        inbox = self._hub.names.inbox(process)
        payload = self._wrap_direct(channel, inbox, local, message)
        return self._hub.publish, (inbox, payload)

    def group_send(self, group: str, message: Message) -> Prepared:
        """Return what ``group_send`` calls at home."""
        name = self.find_group(group)
        return self._hub.publish, (name, self.wrap(Form.GROUP, message, name))

    def membership(self, is_add: bool, group: str, channel: str) -> Prepared:
        """Return what ``group_add`` or ``group_discard`` calls at home."""
        self.find_group(group)
        process, local = self.find_address(channel)
        if local is None:
            raise exceptions.NotAGroupMember(channel=channel)
        here = self.process
        if process == self._hub.process:
            return (here.add if is_add else here.discard), (group, channel)
        elsewhere = here.add_elsewhere if is_add else here.discard_elsewhere
        return elsewhere, (group, channel, process)

    def request(self, channel: str, message: Message, timeout: float | None) -> Prepared:
        """Return what ``request`` calls at home."""
        seconds = self.deadline(timeout)
        if isinstance(message, dict) and REPLY_TO in message:
            problem = "this key is the layer's own, it tells where the reply goes"
            raise exceptions.EncodingError(path=f"message[{REPLY_TO!r}]", problem=problem)
        process, local = self.find_address(channel)
        back = self.process.correlation.new_address()
        send: Send
        if local is None:
            payload = self._wrap_job(channel, message, back)
            capacity, expiry = self._rules.get_capacity(channel), self._rules.expiry
            push = self.process.workers.push
            send = functools.partial(
                push, channel, payload, capacity, min(expiry, seconds), is_request=True
            )
        else:
            inbox = self._hub.names.inbox(process)
            payload = self._wrap_direct(channel, inbox, local, message, back)
            send = functools.partial(self._hub.publish, inbox, payload)
        # A copy of the name: waiting for the reply must not keep the channel alive.
        return self._ask, (str.__str__(channel), back.token, send, seconds)

    def reply(self, event: Message, message: Message) -> Prepared:
        """Return what ``reply`` calls at home."""
        return self._answer(Form.REPLY, event, message)

    def reply_error(self, event: Message, error: BaseException) -> Prepared:
        """Return what ``reply_error`` calls at home."""
        return self._answer(Form.FAILURE, event, failure(error))

    def deadline(self, timeout: float | None) -> float:
        """Return how many seconds a request may take.

        Raises:
            InvalidTimeout: ``timeout`` is no number of seconds.
        """
        return self._hub.options.timeout if timeout is None else require_deadline(timeout)

    # Names

    def find_group(self, group: str) -> bytes:
        """Return the Redis channel of a group; raise ``TypeError`` if that is no name."""
        try:
            return self.group_channel(group)
        except TypeError:
            return self._check_group(group)  # not hashable, or not valid: say which

    def find_address(self, channel: str) -> tuple[str, bytes | None]:
        """Return the process and the local part of a channel; no local part: a worker channel.

        It raises ``TypeError`` if that is no name.
        """
        try:
            # A copy of the name: what is remembered must not keep a channel alive.
            return self._address(str.__str__(channel))
        except TypeError:
            return self._check_channel(channel)

    def _check_group(self, group: str) -> bytes:
        self._rules.require_valid_group_name(group)
        return self._hub.names.group(group)

    def _check_channel(self, channel: str) -> tuple[str, bytes | None]:
        self._rules.require_valid_channel_name(channel)
        return parse_direct(channel) or ("", None)

    # Messages

    def wrap(
        self,
        form: Form,
        message: Message,
        name: bytes,
        target: bytes | None = None,
        back: ReturnAddress | None = None,
    ) -> bytes:
        """Return a message in its envelope; raise what is wrong with it.

        Args:
            form: What it is.
            message: The message.
            name: Where in Redis it is going; if it is encrypted, nobody takes it elsewhere.
            target: See `envelope.wrap`.
            back: Of a request: where the reply goes.
        """
        codec = self._codec
        body = codec.serialize(message)
        if "type" not in message and form in _HANDLED and not self._has_warned:
            self._warn(name)
        if back is None and not codec.encrypts:
            payload = envelope.wrap(form, body, False, target)
        else:
            address = b"" if back is None else bytes(back)
            payload = enclose(codec, form, body, name, target, address)
        if len(payload) > self._hub.options.max_message_size:
            raise self._rules.MessageTooLarge(
                f"the message is {len(payload)} bytes with its envelope, "
                f"max_message_size is {self._hub.options.max_message_size}"
            )
        self.process.intake.tally.sent[form] += 1
        return payload

    def _warn(self, name: bytes) -> None:
        """Say once that consumers cannot handle a message, which `receive` may well give."""
        self._has_warned = True
        logger.warning(
            "channels_mpx: a message without a 'type' was sent to %s: a consumer that gets it fails. Name its handler, as in "
            "{'type': 'chat.message'}",
            shorten(name),
        )

    def _wrap_job(self, channel: str, message: Message, back: ReturnAddress | None = None) -> bytes:
        return self.wrap(Form.WORKER, message, self._hub.names.queue(channel), None, back)

    def _wrap_direct(
        self,
        channel: str,
        inbox: bytes,
        local: bytes,
        message: Message,
        back: ReturnAddress | None = None,
    ) -> bytes:
        mailbox = self.process.inbox.mailboxes.get(channel)
        if mailbox is not None and mailbox.is_full:
            raise self._rules.ChannelFull(channel)
        return self.wrap(Form.DIRECT, message, inbox, local, back)

    def _answer(self, form: Form, event: Message, message: Message) -> Prepared:
        back = parse_return(event.get(REPLY_TO)) if isinstance(event, dict) else None
        if back is None:
            kind = event.get("type") if isinstance(event, dict) else type(event).__name__
            raise exceptions.NotARequest(type=kind)
        inbox = self._hub.names.inbox(back.process)
        return self.process.correlation.answer, (back, self.wrap(form, message, inbox, back.token))

    # At home

    async def _push(self, channel: str, payload: bytes) -> None:
        capacity = self._rules.get_capacity(channel)
        if await self.process.workers.push(channel, payload, capacity, self._rules.expiry) < 0:
            raise self._rules.ChannelFull(channel)

    async def _ask(self, channel: str, token: bytes, send: Send, seconds: float) -> Message:
        try:
            return await self.process.correlation.ask(channel, token, send, seconds)
        except ReceiverFull as error:
            raise self._rules.ChannelFull(channel) from error
