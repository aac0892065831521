"""The channel layer: Channels' specification in terms of the floors below.

Every verb checks and encodes where it is called; the rest it does at home (see `loops`).
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer

from . import exceptions
from .body import Body
from .codec import Codec
from .envelope import Form
from .health import PATIENCE, Health, judge
from .hub import Hub
from .multiplexer import multiplexer_over, serve
from .names import project_name, say_bad_name
from .options import Options
from .preparation import Preparation
from .process import Desk, Process
from .serializers import Message, find_serializer
from .signals import Herald
from .statistics import LayerStatistics
from .sync import SyncVerbs
from .tracebacks import without_frames

__all__ = ["MultiplexedChannelLayer"]


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

    # Channels 4.3 gave its name checks new names and deprecated the old ones.
    _check_channel_name = getattr(
        BaseChannelLayer, "require_valid_channel_name", BaseChannelLayer.valid_channel_name
    )
    _check_group_name = getattr(
        BaseChannelLayer, "require_valid_group_name", BaseChannelLayer.valid_group_name
    )

    def __init__(self, **config: Any) -> None:
        try:
            self.options = options = Options.parse(config)
            serializer = find_serializer(options.serializer_format)
            #: Turns messages into bytes and back.
            self.codec = Codec(
                serializer, options.symmetric_encryption_keys, options.max_message_size
            )
            self._hub = hub = Hub(options, project_name())
        except exceptions.ConfigurationError as error:
            raise without_frames(error)  # noqa: B904  (the very error)
        finally:
            del config  # there are passwords in it, and a traceback shows what a frame holds
        super().__init__(options.expiry, options.capacity)
        self.channel_capacity = self.compile_capacities(options.channel_capacity)
        self.group_expiry = options.group_expiry
        self._hold = hub.hold()
        # What the connection's own thread reaches must not keep the layer: it ends when it is
        # collected.
        self._preparation = Preparation(weakref.proxy(self), hub, self.codec)
        self._group_channel = self._preparation.group_channel
        self._wrap = self._preparation.wrap
        #: Subscriptions and promises over the layer's own connection. Closing ends consumers' too.
        self.multiplexer = multiplexer_over(self._hub)
        begin = weakref.WeakMethod(self._begin)
        hub.after_fork = lambda: _call(begin())
        self._begin()

    def __repr__(self) -> str:
        hub = self.__dict__.get("_hub")  # none while it is being made: a traceback may show it
        return f"<{type(self).__name__} {hub.address} {hub.state}>" if hub else "<no layer yet>"

    def _begin(self) -> None:
        """Set the state of a process in which nothing has happened yet."""
        rules = weakref.proxy(self)
        self._process = process = Process(
            self._hub,
            self.codec,
            lambda channel: rules.get_capacity(channel),
            lambda group: rules.require_valid_group_name(group),
        )
        self._preparation.process = process
        self._mailboxes = process.inbox.mailboxes
        self._hub.listener = process
        process.announce = Herald(self, self._hub).announce
        serve(self.multiplexer, process.registry, process.board)

    @property
    def sync(self) -> SyncVerbs:
        """The methods for code without an event loop, as in ``layer.sync.group_send(g, message)``."""
        return SyncVerbs(self._preparation, self._hub, self)

    # Names

    def require_valid_channel_name(self, name: Any, receive: bool = False) -> Any:
        """Return True for what Channels allows as the name of a channel.

        Raises:
            TypeError: It does not; Channels' sentence, with the name.
        """
        try:
            return self._check_channel_name(name, receive)
        except TypeError as error:
            raise TypeError(say_bad_name(error, name)) from None

    def require_valid_group_name(self, name: Any) -> Any:
        """Do what `require_valid_channel_name` does, for the name of a group."""
        try:
            return self._check_group_name(name)
        except TypeError as error:
            raise TypeError(say_bad_name(error, name)) from None

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
        verb, args = self._preparation.send(channel, message)
        await self._hub.call(verb, *args)

    async def group_send(self, group: str, message: Message) -> None:
        """Send a message to every member of a group, in all processes.

        Returns when Redis has taken the message. Never raises ``ChannelFull``.

        Raises:
            MessageTooLarge, EncodingError: As for `send`; nothing was sent.
        """
        try:
            channel = self._group_channel(group)
        except TypeError:
            channel = self._preparation.find_group(group)
        payload = self._wrap(Form.GROUP, message, channel)
        life = self._hub.life
        if life is not None and life.loop is asyncio.get_running_loop():
            await life.traffic.publish(channel, payload)
        else:
            await self._hub.call(self._hub.publish, channel, payload)

    # Asking

    async def request(
        self, channel: str, message: Message, timeout: float | None = None
    ) -> Message:
        """Send a request to one channel, direct or worker, and return the reply.

        Whoever receives it answers with `reply`, from whatever process. It is handled at most
        once; of several replies the first counts. Cancelling stops the waiting, not the handling.

        Args:
            channel: Where it goes.
            message: What the receiver gets, and the key ``mpx.reply_to`` in addition.
            timeout: Seconds for all of it; None: the option ``timeout``.

        Raises:
            NoListener: Nobody is there, if Redis or the channel's process can tell.
            RemoteError: Whoever handled it has failed.
            RequestTimeout: There was no reply in time.
            LinkLost: The connection was lost meanwhile, and the reply perhaps with it.
            ChannelFull: ``capacity`` messages wait there already, in whatever process.
            ClosedError: The layer was closed meanwhile.
            MessageTooLarge, EncodingError: As `send`.
            InvalidTimeout: ``timeout`` is no number of seconds.
        """
        verb, args = self._preparation.request(channel, message, timeout)
        reply: Message = await self._hub.call(verb, *args)
        return reply

    async def reply(self, event: Message, message: Message) -> None:
        """Answer a request. Returns when Redis has taken the reply.

        If nobody waits for it any more it is counted and dropped, and nothing is raised.

        Args:
            event: What the handler got.
            message: What `request` returns.

        Raises:
            NotARequest: The event is none.
            MessageTooLarge, EncodingError: As `send`; the asker still waits.
        """
        verb, args = self._preparation.reply(event, message)
        await self._hub.call(verb, *args)

    async def reply_error(self, event: Message, error: BaseException) -> None:
        """Answer a request with an error, of which the asker gets class and text: `RemoteError`.

        Raises:
            NotARequest: The event is none.
        """
        verb, args = self._preparation.reply_error(event, error)
        await self._hub.call(verb, *args)

    # Receiving

    async def new_channel(self, prefix: str = "specific.") -> str:
        """Return the name of a new direct channel of this process.

        Only the first one of a process waits, for the connection. The channel lives as long as
        the returned string: keep that very object for as long as the consumer lives. It may be used
        on any event loop; when the running one is closed, the channel ends once nobody has read
        it for ``expiry`` seconds.

        Args:
            prefix: The beginning of the name.
        """
        self.require_valid_channel_name(f"{prefix}{self._hub.process}!0000000000")
        loop = asyncio.get_running_loop()
        return await self._hub.call(self._process.inbox.open, prefix, loop, receiving=True)

    async def receive(self, channel: str) -> Message:
        """Return the next message of a channel, waiting for it.

        Several may wait on one channel; each message goes to one of them.

        Args:
            channel: A direct channel of this process, or a worker channel.

        Raises:
            ForeignChannel, UnknownChannel: It is another process's, or does not exist.
            OwnedChannel: Its consumer takes the messages itself.
            ClosedError: The layer was closed, or the channel ended, while waiting.
        """
        try:
            mailbox = self._mailboxes[channel]
        except (KeyError, TypeError):
            return await self._receive_job(channel)
        if mailbox.is_owned:
            raise exceptions.OwnedChannel(channel=str(channel))
        if mailbox.is_dormant:
            await self._hub.call(self._process.wake, mailbox, receiving=True)
        while True:
            # `Mailbox.get`, written out: this is the path of every message of every consumer.
            item = mailbox.take() if mailbox.items else None
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
                mailbox.taken -= 1  # nobody gets it
                self._process.intake.reject_body(body, channel, error)

    async def _receive_job(self, channel: str) -> Message:
        """Receive from a worker channel, or say why this name cannot be received from."""
        process, local = self._preparation.find_address(channel)
        if local is not None:
            if process == self._hub.process:
                raise exceptions.UnknownChannel(channel=channel)
            raise exceptions.ForeignChannel(channel=channel)
        return await self._process.workers.receive(channel)

    async def clean_channel(self, channel: str) -> None:
        """End a direct channel of this process at once, with its memberships and what waits there.

        Whoever waits in `receive` gets `ClosedError`. Nothing happens for any other channel.
        """
        if channel not in self._mailboxes:
            return
        if self._hub.life is None:
            self._process.inbox.drop(channel)
        else:
            await self._hub.call(self._process.end, channel)

    def desk(self, channel: str) -> Desk:
        """Give a direct channel of this process to a consumer that takes the messages itself.

        Raises:
            UnknownChannel: It is not one.
        """
        return self._process.desk(channel)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Make a direct channel a member of a group; nothing changes if it is one.

        Returns when Redis has confirmed that this process (or the channel's own) receives the
        group's messages: what is sent afterwards arrives. If this raises, or is cancelled, a channel
        of this process is no member; one of another may be, if its owner's answer was missed.

        Raises:
            UnknownChannel: The channel's consumer, or its process, is gone.
            NotAGroupMember: It is a worker channel.
            CommandRefused: Redis does not allow the group's channel to this user.
            MembershipFailed: The channel's process could not, or has too much to do.
        """
        verb, args = self._preparation.membership(True, group, channel)
        await self._hub.call(verb, *args, undo=_call)

    async def group_discard(self, group: str, channel: str) -> None:
        """End a membership. Nothing happens if there is none, or if the channel is gone.

        Returns when nothing is delivered through it any more.
        """
        verb, args = self._preparation.membership(False, group, channel)
        await self._hub.call(verb, *args)

    # Life

    async def flush(self) -> None:
        """Delete all worker queues under the prefix and everything local, and close.

        Memberships end, and waiting messages are dropped; who has asked with one of them is told at
        once. Consumers keep their channels, and the layer can be used as before.
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
        if self._hub.state != "idle" or self._process.is_awaited():
            await self._hub.call(self._process.drop_all)
            await self._hub.aclose()

    async def close(self) -> None:
        """See `aclose`."""
        await self.aclose()

    @property
    def groups(self) -> dict[str, dict[str, bool]]:
        """The groups that have members in this process, for tests and debugging.

        A copy, from any thread: the names of a group's member channels, by its name. The value is
        whether Redis has confirmed the membership. A channel that was not read for
        ``group_expiry`` seconds is in no group until it is read again.
        """
        channels = self._process.inbox.waiting()
        here = {
            group: {
                name: is_confirmed for name, is_confirmed in members.items() if name in channels
            }
            for group, members in self._process.groups.members().items()
        }
        return {group: members for group, members in here.items() if members}

    @property
    def channels(self) -> dict[str, int]:
        """The direct channels of this process, for tests and debugging.

        A copy, from any thread: how many messages wait in a channel, by its name.
        """
        return self._process.inbox.waiting()

    def statistics(self) -> LayerStatistics:
        """Return what the layer does in this process; cheap enough for once a second."""
        return self._process.statistics()

    def health(self, patience: float = PATIENCE) -> Health:
        """Return whether this process can send and receive, by what it knows: nothing is asked.

        Args:
            patience: Seconds that it may be without a connection before that is a problem.
        """
        return judge(self.statistics(), patience)


def _call(method: Callable[[], None] | None) -> None:
    """Call what may not be there (any more)."""
    if method is not None:
        method()
