"""The consumer loop of Channels, replaced by one that costs less and leaves nothing behind."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer
from channels.db import database_sync_to_async
from channels.exceptions import StopConsumer
from channels.layers import get_channel_layer

from channels_mpx import exceptions
from channels_mpx.gap import Gap
from channels_mpx.layer import MultiplexedChannelLayer
from channels_mpx.policies import GapPolicy, choose
from channels_mpx.process import Desk
from channels_mpx.reception import Notice, PubSubMessage

from .attachment import Attachment
from .loop import ConsumerLoop, find_handler
from .pump import Event, Pump

if TYPE_CHECKING:
    _Consumer: TypeAlias = AsyncConsumer
else:
    _Consumer = object

__all__ = ["MultiplexedConsumerMixin", "is_computed"]

#: What consumers may want to hear of.
HOOKS = ("on_activation", "on_disconnect", "on_gap")

# As Channels has made them: whoever changes them later is somebody whom we must not leave out.
_plain_call = AsyncConsumer.__call__
_plain_dispatch = AsyncConsumer.dispatch


def is_computed(value: object) -> bool:
    """Tell whether a class attribute is a property, which has a value on instances only."""
    return hasattr(type(value), "__get__")


class MultiplexedConsumerMixin(_Consumer):  # type: ignore[misc]
    """Makes any consumer of Channels faster, and has nothing left behind when it ends.

    It is the first base class: ``class Chat(MultiplexedConsumerMixin, AsyncWebsocketConsumer)``.
    On a layer that is not a `MultiplexedChannelLayer`, or without one, it changes nothing.

    * Client events and messages of the layer are handled in order of arrival, one at a time, in
      the consumer's own task.
    * Old database connections are closed before each handler; handlers that become ready at one
      time share that.
    * While a handler is busy, ``read_ahead`` client events are read and no more: a client that
      sends faster is slowed down by the server. Client events are never dropped. Messages of the
      layer are, as ever, when more than ``capacity`` of them wait.
    * When the consumer ends, in whatever way, its channel and its memberships end at once.
    * An exception in the handler of a request is told to whoever asked, and then ends the
      consumer as any exception does.

    A ``SyncConsumer`` keeps its threads, and Channels' own way of closing old connections there.
    An own ``dispatch`` is called as ever; it costs a little time. One in a class behind the mixin
    costs more: there Channels itself closes old connections for each message.

    Attributes:
        read_ahead: The most client events that are read and not taken by the consumer yet.
        gap_policy: What to do when the link was lost and is back: ``notify`` (call ``on_gap``),
            ``close`` (close the WebSocket, so that the client comes again and asks for what it
            has missed; a consumer without a socket ends), or ``ignore``.
        gap_close_code: The WebSocket close code for that.

    Raises:
        ConfigurationError: Another class comes before the mixin, or one behind it has a
            ``__call__`` of its own; or ``read_ahead`` is less than 1; or there is no such
            ``gap_policy``.
    """

    read_ahead: int = 16
    gap_policy: str | GapPolicy = GapPolicy.NOTIFY
    gap_close_code: int = 1012  # service restart: RFC 6455's registry of close codes

    base_send: Any
    channel_layer: Any
    channel_name: str

    #: The consumer's channel, from its begin on; only on a `MultiplexedChannelLayer`.
    _desk: Desk
    #: The consumer's loop, from its begin to its end.
    _mpx: ConsumerLoop | None = None
    #: Whether no class behind the mixin has a ``dispatch`` of its own.
    _is_plain = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not is_computed(cls.gap_policy):
            choose(GapPolicy, f"gap_policy of {cls.__name__}", cls.gap_policy)
        if AsyncConsumer not in cls.__mro__:
            return  # a mixin too
        behind = cls.__mro__[cls.__mro__.index(MultiplexedConsumerMixin) :]
        if AsyncConsumer not in behind:
            raise exceptions.ConfigurationError(
                problem=f"{cls.__name__} must have MultiplexedConsumerMixin before its consumer "
                "class, as its first base class"
            )
        owner = next(base for base in behind[1:] if "__call__" in vars(base))
        if vars(owner)["__call__"] is not _plain_call:
            raise exceptions.ConfigurationError(
                problem=f"{owner.__name__}, behind MultiplexedConsumerMixin in {cls.__name__}, has "
                "a __call__ that would be left out: let it inherit from the mixin itself"
            )

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Event]],
        send: Callable[[Event], Awaitable[None]],
    ) -> None:
        """Serve one connection, as ASGI has it.

        Raises:
            BaseException: What a handler or ``receive`` has raised; `StopConsumer` ends quietly.
        """
        layer = get_channel_layer(self.channel_layer_alias)
        if not isinstance(layer, MultiplexedChannelLayer):
            self._accept_layer(layer)
            await super().__call__(scope, receive, send)
            return
        self.scope = scope
        pump = Pump(receive, self.read_ahead, self._client_event)
        events = self._events()
        self.channel_layer = layer
        self.base_send = async_to_sync(send) if self._sync else send
        # This very object keeps the channel alive, whatever becomes of the attribute.
        try:
            self.channel_name = name = await layer.new_channel()
        except exceptions.LinkError as error:
            await self._go_without_channel(error, receive)
            return
        self.channel_receive = functools.partial(layer.receive, name)
        self._desk = desk = layer.desk(name)
        self._attachment = Attachment(desk.hub, desk.registry, desk.mailbox, events)
        try:
            self._mpx = loop = self._make_loop(desk, pump)
            pump.start(desk.mailbox)
            await self._begin()
            await loop.run()
        except StopConsumer:
            return
        finally:
            try:
                self._end()
            finally:
                self._mpx = None
                self._attachment.close()
                desk.leave()
                pump.stop()
            await pump.stopped()

    async def dispatch(self, message: Event) -> None:
        """Find the handler for a client event or a message and await it, as Channels does.

        Raises:
            ValueError: The message has no type, or one that is malformed, or that nobody handles.
            BaseException: What the handler, or closing old connections, has raised.
        """
        loop = self._mpx
        if loop is None or not self._is_plain:
            await super().dispatch(message)
            return
        handler = find_handler(self, message)
        await loop.hop()
        await handler(message)

    async def reply(self, event: Event, message: Event) -> None:
        """Answer a request; see `MultiplexedChannelLayer.reply`.

        Args:
            event: The request, as the handler got it.
            message: The answer.

        Raises:
            ConfigurationError: The consumer's layer is not a `MultiplexedChannelLayer`.
        """
        layer = self.channel_layer
        self._require_ours(layer, "reply()")
        await layer.reply(event, message)

    # What it hears besides messages

    async def on_activation(self, name: bytes) -> None:
        """Called when Redis has confirmed a channel or a pattern, again after each gap."""

    async def on_disconnect(self, error: Exception) -> None:
        """Called when the link is lost, once for each gap: from now on messages may be missing.

        Args:
            error: A `LinkLost`, with the reason.
        """

    async def on_gap(self, gap: Gap) -> None:
        """Called when everything is active again after the link was lost: once for each gap.

        After the activations, and in turn with everything else that the consumer handles. Who
        begins during a gap does not hear of it.

        Args:
            gap: How long it lasted, and why; what comes from now on is complete.
        """

    def _events(self) -> set[str]:
        """Return what this consumer wants to hear of."""
        mine = MultiplexedConsumerMixin
        events = {hook for hook in HOOKS if getattr(type(self), hook) is not getattr(mine, hook)}
        policy = self._gap_policy()
        if policy is GapPolicy.IGNORE:
            return events - {"on_disconnect", "on_gap"}
        return events | {"on_gap"} if policy is GapPolicy.CLOSE else events

    def _gap_policy(self) -> GapPolicy:
        return choose(GapPolicy, f"gap_policy of {type(self).__name__}", self.gap_policy)

    async def _hear_message(self, message: PubSubMessage) -> None:
        """See `Listening._hear_message`; for mixins with subscriptions."""

    async def _hear_notice(self, notice: Notice) -> None:
        """See `Listening._hear_notice`."""
        event = notice.event
        if not self._attachment.is_news(notice):
            return
        if event == "on_gap" and self._gap_policy() is GapPolicy.CLOSE:
            await self._close_for_gap()
        elif self._sync:
            await database_sync_to_async(getattr(self, event))(notice.value)
        else:
            await getattr(self, event)(notice.value)

    async def _close_for_gap(self) -> None:
        """Have the client come again; who has no socket to close ends."""
        close = getattr(self, "close", None)
        if close is None:
            raise StopConsumer
        if self._sync:
            await database_sync_to_async(close)(code=self.gap_close_code)
        else:
            await close(code=self.gap_close_code)

    def _make_loop(self, desk: Desk, pump: Pump) -> ConsumerLoop:
        behind = super().dispatch
        self._is_plain = getattr(behind, "__func__", None) is _plain_dispatch
        ahead = getattr(self.dispatch, "__func__", None)
        is_mine = ahead is MultiplexedConsumerMixin.dispatch
        return ConsumerLoop(self, desk, pump, self._is_plain and is_mine)

    def _require_ours(self, layer: object, what: str) -> None:
        """Refuse another layer, or none, for what needs a `MultiplexedChannelLayer`."""
        if not isinstance(layer, MultiplexedChannelLayer):
            name = "not configured" if layer is None else f"a {type(layer).__name__}"
            raise exceptions.ConfigurationError(
                problem=f"{what} needs a MultiplexedChannelLayer, and the channel layer "
                f"{self.channel_layer_alias!r} is {name}"
            )

    # For mixins that build on this one; each calls super()

    def _accept_layer(self, layer: object) -> None:
        """Called with a layer that is not ours, or None, before plain Channels goes on with it."""

    async def _go_without_channel(
        self, error: exceptions.LinkError, receive: Callable[[], Awaitable[Event]]
    ) -> None:
        """Called instead of all the rest if there is no channel. Raises, or tells the client."""
        raise error

    async def _begin(self) -> None:
        """Called when the channel is there, before anything is handled."""

    def _end(self) -> None:
        """Called when the consumer ends, in whatever way, before its channel does; never waits.

        Also if `_begin` has failed.
        """

    def _client_event(self, event: Event) -> None:
        """Called with each client event at the moment when it comes, whatever a handler does."""

    def _passes_over(self, error: Exception) -> bool:
        """Tell whether the consumer goes on although a handler has raised this."""
        return False
