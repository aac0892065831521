"""The consumer loop of Channels, replaced by one that costs less and leaves nothing behind."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer
from channels.db import database_sync_to_async
from channels.exceptions import StopConsumer
from channels.layers import get_channel_layer

from channels_mpx import exceptions
from channels_mpx.gap import Gap
from channels_mpx.layer import MultiplexedChannelLayer
from channels_mpx.names import Topic
from channels_mpx.policies import GapPolicy, choose
from channels_mpx.process import Desk
from channels_mpx.reception import Notice, PubSubMessage

from .attachment import Attachment
from .definitions import is_computed, require_consumer, require_kind
from .loop import ConsumerLoop, find_handler
from .offers import is_default, own, own_static, shadowed, yielding
from .pump import Event, Pump, is_last, require_read_ahead
from .refusal import OPENED_BY_CLIENT, explain, turn_away

if TYPE_CHECKING:
    _Consumer: TypeAlias = AsyncConsumer
else:
    _Consumer = object

__all__ = ["MultiplexedConsumerMixin"]

#: What consumers may want to hear of.
NEWS = ("on_activation", "on_disconnect", "on_gap")

#: What the mixin calls, in each consumer's own way.
HOOKS = (*NEWS, "on_link_error")

# As Channels has made it: whoever changes it later is somebody whom we must not leave out.
_plain_dispatch = AsyncConsumer.dispatch


@yielding("as_asgi", "dispatch")
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

    A name that a class behind the mixin has stays that class's: where both have a ``reply``, the
    consumer's is not the mixin's.

    Attributes:
        read_ahead: The most client events that are read and not taken by the consumer yet.
        gap_policy: What to do when the link was lost and is back: ``notify`` (call ``on_gap``),
            ``close`` (close the WebSocket, so that the client comes again and asks for what it
            has missed; a consumer without a socket ends), or ``ignore``.
        gap_close_code: The WebSocket close code for that.
        unavailable_close_code: The WebSocket close code for clients that come while Redis is away
            or refuses this process, and the consumer cannot begin.

    Raises:
        ConfigurationError: Another class comes before the mixin, or one behind it has a
            ``__call__`` of its own; or ``read_ahead`` is less than 1; or there is no such
            ``gap_policy``; or a hook is ``def`` that must be ``async def``, or the reverse in a
            ``SyncConsumer``.
    """

    read_ahead: int = 16
    gap_policy: str | GapPolicy = GapPolicy.NOTIFY
    gap_close_code: int = 1012  # service restart: RFC 6455's registry of close codes

    unavailable_close_code: int = 1013  # try again later: IANA's registry of close codes

    base_send: Any
    channel_layer: Any
    channel_name: str

    #: The consumer's channel, from its begin on; only on a `MultiplexedChannelLayer`.
    _desk: Desk
    #: The consumer's loop, from its begin to its end.
    _mpx: ConsumerLoop | None = None
    #: Whether no class behind the mixin has a ``dispatch`` of its own.
    _is_plain = True
    #: Public names of mixins that are somebody else's here; see `offers`.
    _shadowed: frozenset[str] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._shadowed = shadowed(cls)
        policy, ahead = own_static(cls, "gap_policy"), own_static(cls, "read_ahead")
        if not is_computed(policy):
            choose(GapPolicy, f"gap_policy of {cls.__name__}", policy)
        if not is_computed(ahead):
            require_read_ahead(ahead, cls.__name__)
        if AsyncConsumer not in cls.__mro__:
            return  # a mixin too
        require_consumer(cls, MultiplexedConsumerMixin)
        for name in HOOKS:
            require_kind(cls, name, cls._sync)

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> Any:
        """Return an ASGI application; see Channels.

        Raises:
            ConfigurationError: The class has the mixin and no consumer class.
        """
        if not issubclass(cls, AsyncConsumer):
            raise exceptions.ConfigurationError(
                problem=f"{cls.__name__} has a mixin and no consumer class; put one behind it, such "
                "as AsyncWebsocketConsumer"
            )
        return super().as_asgi(**initkwargs)

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
        pump = Pump(receive, own(self, "read_ahead"), self._client_event)
        events = self._events()
        self.channel_layer = layer
        self.base_send = async_to_sync(send) if self._sync else send
        # This very object keeps the channel alive, whatever becomes of the attribute.
        try:
            self.channel_name = name = await layer.new_channel()
        except exceptions.LinkError as error:
            await self._go_without_channel(error, receive, send)
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
            error: A `ConnectionInterrupted`, which is a `LinkLost`, with the reason.
        """

    async def on_gap(self, gap: Gap) -> None:
        """Called when everything is active again after the link was lost: once for each gap.

        After the activations, and in turn with everything else that the consumer handles. Who
        begins during a gap does not hear of it.

        Args:
            gap: How long it lasted, and why; what comes from now on is complete.
        """

    async def on_link_error(self, error: exceptions.LinkError, event: Event | None) -> None:
        """Called when a handler has raised a `LinkError`; override it to live on.

        When it returns, the consumer goes on with what comes next, as if the handler had returned.
        What it raises ends the consumer. After the client's disconnect the consumer ends in any
        case. By default it raises the error. In a ``SyncConsumer`` it is a plain method.

        Args:
            error: What the handler has raised: Redis is away, did not answer in time, or refused.
                Calls before the one that failed have been carried out.
            event: The client event or the message that was handled; None in other hooks and in
                handlers of subscriptions.

        Raises:
            BaseException: Whatever is to end the consumer.
        """
        raise error

    async def _outlives(self, error: Exception, event: Event | None) -> bool:
        """Tell whether the consumer goes on although a handler has raised this."""
        if not isinstance(error, exceptions.LinkError) or is_default(type(self), "on_link_error"):
            return False
        hook = own(self, "on_link_error")
        await (database_sync_to_async(hook) if self._sync else hook)(error, event)
        if is_last(event):
            raise StopConsumer from error
        return True

    def _events(self) -> set[str]:
        """Return what this consumer wants to hear of."""
        events = {hook for hook in NEWS if not is_default(type(self), hook)}
        policy = self._gap_policy()
        if policy is GapPolicy.IGNORE:
            return events - {"on_disconnect", "on_gap"}
        return events | {"on_gap"} if policy is GapPolicy.CLOSE else events

    def _gap_policy(self) -> GapPolicy:
        return choose(GapPolicy, f"gap_policy of {type(self).__name__}", own(self, "gap_policy"))

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
            await database_sync_to_async(own(self, event))(notice.value)
        else:
            await own(self, event)(notice.value)

    async def _close_for_gap(self) -> None:
        """Have the client come again; who has no socket to close ends."""
        close = getattr(self, "close", None)
        if close is None:
            raise StopConsumer
        if self._sync:
            await database_sync_to_async(close)(code=own(self, "gap_close_code"))
        else:
            await close(code=own(self, "gap_close_code"))

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

    def _declared(self) -> Iterable[Topic]:
        """Return the topics of class attributes; each mixin adds its own."""
        return ()

    async def _go_without_channel(
        self,
        error: exceptions.LinkError,
        receive: Callable[[], Awaitable[Event]],
        send: Callable[[Event], Awaitable[None]],
    ) -> None:
        """Called instead of all the rest if there is no channel. Raises, or tells the client."""
        if self.scope.get("type") not in OPENED_BY_CLIENT:
            raise error
        await self._turn_away(error, send, is_last(await receive()))

    async def _turn_away(
        self,
        error: exceptions.LinkError,
        send: Callable[[Event], Awaitable[None]],
        has_left: bool,
    ) -> None:
        """Say that the consumer cannot begin, to the log and to the client."""
        explain(type(self), list(self._declared()), error)
        if not has_left:
            await turn_away(self.scope, send, error, own(self, "unavailable_close_code"))

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
