"""The channel layer: Channels' specification in terms of the floors below.

Every verb checks its arguments and encodes its message where it is called, and then does the rest
at home (see `loops`), which costs nothing when the caller is there already.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
from collections.abc import Callable
from typing import Any

from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer

from . import envelope, exceptions
from .codec import Body, Codec
from .envelope import Form
from .hub import Hub
from .names import parse_direct
from .options import Options
from .process import Process
from .serializers import Message, find_serializer
from .statistics import LayerStatistics
from .sync import Prepared, SyncVerbs

__all__ = ["MultiplexedChannelLayer"]

# Channels 4.3 gave its name checks new names and deprecated the old ones.
_require_channel_name: Callable[[BaseChannelLayer, Any], object] = getattr(
    BaseChannelLayer, "require_valid_channel_name", BaseChannelLayer.valid_channel_name
)
_require_group_name: Callable[[BaseChannelLayer, Any], object] = getattr(
    BaseChannelLayer, "require_valid_group_name", BaseChannelLayer.valid_group_name
)

#: Names whose check and whose place in Redis are remembered.
REMEMBERED_NAMES = 4096


class MultiplexedChannelLayer(BaseChannelLayer):  # type: ignore[misc]
    """A channel layer in which one process holds one connection to Redis.

    It is configured by the ``CONFIG`` of ``CHANNEL_LAYERS``; see `Options` for every name, its
    meaning and its default. Nothing is connected before the first verb.

    Promises (Channels' specification, Channel Semantics):

    * a message is delivered at most once; a verb that raises `LinkLost` may have succeeded;
    * a direct channel and a worker channel give messages in the order in which one sender sent
      them; the members of a group in one process all see one order;
    * what does not fit into a consumer's mailbox is dropped, counted and logged;
    * cancelling a verb loses neither a message nor a channel.

    Every verb may be awaited on any event loop of the process, raises `LinkError` if Redis does
    not do its part within ``timeout`` seconds, and raises ``TypeError`` for names that Channels
    does not allow. For code without an event loop there is `sync`.

    Raises:
        ConfigurationError: The settings are wrong.
    """

    extensions = ("groups", "flush")
    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge

    def __init__(self, **config: Any) -> None:
        self.options = options = Options.parse(config)
        super().__init__(options.expiry, options.capacity)
        self.channel_capacity = self.compile_capacities(options.channel_capacity)
        self.group_expiry = options.group_expiry
        #: Turns messages into bytes and back.
        self.codec = Codec(
            find_serializer(options.serializer_format), options.symmetric_encryption_keys
        )
        self._hub = Hub(options, _project_name())
        #: The verbs for code without an event loop: ``layer.sync.group_send(group, message)``.
        self.sync = SyncVerbs(self, self._hub)
        self._hub.after_fork = self._begin
        self._group_channel = functools.lru_cache(REMEMBERED_NAMES)(self._check_group)
        self._address = functools.lru_cache(REMEMBERED_NAMES)(self._check_channel)
        self._begin()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._hub.address} {self._hub.state}>"

    def _begin(self) -> None:
        """Set the state of a process in which nothing has happened yet."""
        self._process = process = Process(self._hub, self.codec, self.get_capacity)
        self._mailboxes = process.inbox.mailboxes
        self._hub.listener = process

    # Sending

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to one channel, direct or worker.

        Returns when Redis has taken the message. Whether somebody reads it is not known.

        Raises:
            ChannelFull: ``capacity`` messages wait there already. For a direct channel only a
                sender in its own process can know; elsewhere the message is dropped and counted.
            MessageTooLarge: It is over ``max_message_size``; nothing was sent.
            EncodingError: It holds something that cannot travel; nothing was sent.
        """
        verb, args = self.prepare_send(channel, message)
        await self._hub.call(verb, *args)

    async def group_send(self, group: str, message: Message) -> None:
        """Send a message to every member of a group, in all processes.

        Returns when Redis has taken the message. Never raises ``ChannelFull``.

        Raises:
            MessageTooLarge: It is over ``max_message_size``; nothing was sent.
            EncodingError: It holds something that cannot travel; nothing was sent.
        """
        try:
            channel = self._group_channel(group)
        except TypeError:
            channel = self._check_group(group)
        payload = self._wrap(Form.GROUP, message)
        life = self._hub.life
        if life is not None and life.loop is asyncio.get_running_loop():
            await life.traffic.publish(channel, payload)
        else:
            await self._hub.call(self._hub.publish, channel, payload)

    # Receiving

    async def new_channel(self, prefix: str = "specific.") -> str:
        """Return the name of a new direct channel of this process.

        Only the first one of a process waits, for the connection. The channel lives as long as
        the returned string and the running event loop do: keep that very object for as long as
        the consumer lives.

        Args:
            prefix: The beginning of the name.
        """
        _require_channel_name(self, f"{prefix}{self._hub.process}!0000000000")
        loop = asyncio.get_running_loop()
        return await self._hub.call(self._process.inbox.open, prefix, loop, receiving=True)

    async def receive(self, channel: str) -> Message:
        """Return the next message of a channel, waiting for it.

        Several may wait on one channel; each message goes to one of them.

        Args:
            channel: A direct channel of this process, or a worker channel.

        Raises:
            ForeignChannel: It is a direct channel of another process.
            UnknownChannel: It is a direct channel that does not exist.
            ClosedError: The layer was closed while waiting.
        """
        mailbox = self._mailboxes.get(channel) if isinstance(channel, str) else None
        if mailbox is None:
            return await self._receive_job(channel)
        if mailbox.is_dormant:
            await self._hub.call(self._process.wake, mailbox, receiving=True)
        while True:
            # `Mailbox.get`, written out: this is the path of every message of every consumer.
            item = mailbox.take()
            if item is None:
                if self._hub.life is None:
                    self._hub.keep_alive()
                waiter = mailbox.arrival()
                try:
                    item = await waiter
                except BaseException:  # cancellation too: a message in hand goes back
                    mailbox.abandon(waiter)
                    raise
                if item is None:
                    continue
                mailbox.taken += 1
            body: Body = item  # type: ignore[assignment]
            try:
                return body.open()
            except exceptions.DecodingError as error:
                self._process.intake.reject_body(body, channel, error)

    async def _receive_job(self, channel: str) -> Message:
        """Receive from a worker channel, or say why this name cannot be received from."""
        process, local = self._find_address(channel)
        if local is not None:
            if process == self._hub.process:
                raise exceptions.UnknownChannel(channel=channel)
            raise exceptions.ForeignChannel(channel=channel)
        workers = self._process.workers
        while True:
            queue = await self._hub.call(workers.open, channel, receiving=True)
            self._hub.post(queue.ask, receiving=True)
            try:
                job = await queue.mailbox.get()
            except BaseException:  # cancellation too: nothing may be popped for who has gone
                self._hub.tell(queue.withdraw)
                raise
            message = workers.read(job, channel)
            if message is not None:
                return message

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Make a direct channel a member of a group.

        Returns when Redis has confirmed that this process (or the channel's own) receives the
        group's messages: what is sent afterwards arrives. If this raises, or is cancelled, a
        channel of this process is not a member; one of another process may have become one, if
        its owner's answer was lost or not waited for. Adding a member again changes nothing.

        Raises:
            UnknownChannel: The channel's consumer, or its process, is gone.
            NotAGroupMember: It is a worker channel.
            CommandRefused: Redis does not allow the group's channel to this user.
        """
        verb, args = self.prepare_membership(True, group, channel)
        await self._hub.call(verb, *args)

    async def group_discard(self, group: str, channel: str) -> None:
        """End a membership. Nothing happens if there is none, or if the channel is gone.

        Returns when nothing is delivered through it any more.
        """
        verb, args = self.prepare_membership(False, group, channel)
        await self._hub.call(verb, *args)

    # Life

    async def flush(self) -> None:
        """Delete all worker queues under the prefix and everything local, and close.

        Memberships end and waiting messages are dropped. Consumers keep their channels, and the
        layer can be used as before.
        """
        await self._hub.call(self._process.flush)
        await self._hub.aclose()
        if self._process.is_awaited():
            self._hub.keep_alive()

    async def aclose(self) -> None:
        """Close the connection, and end every channel of this process.

        Replies that are under way get a second to arrive. Whoever waits in `receive` gets
        `ClosedError`. Idempotent; the next verb connects again. Without it nothing leaks: the
        connection ends with the event loop or the process.
        """
        if self._hub.state != "idle":
            await self._hub.call(self._process.drop_all)
            await self._hub.aclose()

    async def close(self) -> None:
        """See `aclose`."""
        await self.aclose()

    def statistics(self) -> LayerStatistics:
        """Return what the layer does in this process; cheap enough for once a second."""
        return self._process.statistics()

    # What a verb needs, checked and encoded where it was called

    def prepare_send(self, channel: str, message: Message) -> Prepared:
        """Return what `send` calls at home."""
        process, local = self._find_address(channel)
        if local is None:
            return self._push, (channel, self._wrap(Form.WORKER, message))
        mailbox = self._mailboxes.get(channel)
        if mailbox is not None and mailbox.is_full:
            raise ChannelFull(channel)
        payload = self._wrap(Form.DIRECT, message, local)
        return self._hub.publish, (self._hub.names.inbox(process), payload)

    def prepare_group_send(self, group: str, message: Message) -> Prepared:
        """Return what `group_send` calls at home."""
        return self._hub.publish, (self._find_group(group), self._wrap(Form.GROUP, message))

    def prepare_membership(self, is_add: bool, group: str, channel: str) -> Prepared:
        """Return what `group_add` or `group_discard` calls at home."""
        self._find_group(group)
        process, local = self._find_address(channel)
        if local is None:
            raise exceptions.NotAGroupMember(channel=channel)
        here = self._process
        if process == self._hub.process:
            return (here.add if is_add else here.discard), (group, channel)
        elsewhere = here.add_elsewhere if is_add else here.discard_elsewhere
        return elsewhere, (group, channel, process)

    def _wrap(self, form: Form, message: Message, local: bytes | None = None) -> bytes:
        codec = self.codec
        payload = envelope.wrap(form, codec.encode(message), codec.encrypts, local)
        if len(payload) > self.options.max_message_size:
            raise MessageTooLarge(
                f"the message is {len(payload)} bytes with its envelope, "
                f"max_message_size is {self.options.max_message_size}"
            )
        return payload

    async def _push(self, channel: str, payload: bytes) -> None:
        capacity = self.get_capacity(channel)
        if not await self._process.workers.push(channel, payload, capacity, self.expiry):
            raise ChannelFull(channel)

    def _find_group(self, group: str) -> bytes:
        try:
            return self._group_channel(group)
        except TypeError:
            return self._check_group(group)  # not hashable, or not valid: say which

    def _find_address(self, channel: str) -> tuple[str, bytes | None]:
        try:
            # A copy of the name: what is remembered must not keep a channel alive.
            return self._address(str.__str__(channel))
        except TypeError:
            return self._check_channel(channel)

    def _check_group(self, group: str) -> bytes:
        _require_group_name(self, group)
        return self._hub.names.group(group)

    def _check_channel(self, channel: str) -> tuple[str, bytes | None]:
        """Return the process and the local part of a channel; no local part: a worker channel."""
        _require_channel_name(self, channel)
        return parse_direct(channel) or ("", None)


def _project_name() -> str:
    """Return the name of the Django project, for people who look at CLIENT LIST."""
    module = os.environ.get("DJANGO_SETTINGS_MODULE", "")
    return re.sub(r"[^!-~]", "", module.partition(".")[0]) or "python"
