"""One consumer's loop: client events and messages of the layer, in order, one at a time.

Each item waits until the consumer is ready for it, and then, if there are any, for a hop that closes
old database connections (see `hop`). The consumer's task is woken once for both. It waits for a
future; in the mailbox waits the loop object, which passes on to the hop what comes, and the hop
ends the future.

Handlers that end without waiting for anything follow each other in one turn of the event loop, but
not if one of them has scheduled something, such as a task of the consumer's that takes from a queue
what the handler has put there: that goes on before the next handler begins (except under uvloop).
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import inspect
import logging
from collections.abc import Awaitable, Callable, Sized
from typing import Any, cast

from channels.consumer import get_handler_name
from channels.exceptions import StopConsumer

from channels_mpx import exceptions
from channels_mpx.body import Body
from channels_mpx.escaping import escape
from channels_mpx.names import REPLY_TO
from channels_mpx.process import Desk

from .hop import Hop, close_alone, find_hop, sensitive_context
from .pump import ClientEvent, Event, Pump

__all__ = ["ConsumerLoop", "find_handler"]

logger = logging.getLogger("channels_mpx.consumers")

#: What goes through ``dispatch``.
_DISPATCHED = frozenset({Body, ClientEvent, type(None)})

#: The most handlers of one consumer that follow each other in one turn of the event loop. More
#: would gain nothing, and keep the other consumers of the turn waiting.
IN_A_ROW = 8

_NOTHING = cast(Awaitable[None], object())


#: Types of messages that had a handler somewhere, with its name. Senders choose types, so neither
#: long ones are kept, nor many, nor any that nobody handles.
_handler_names: dict[str, str] = {}
_KEPT_NAMES = 1024
_KEPT_LENGTH = 100


def find_handler(consumer: Any, message: Event) -> Any:
    """Return the handler for a message, as Channels finds it.

    Raises:
        ValueError: The message has no type, or one that is malformed, or that nobody handles.
    """
    try:
        name = _handler_names.get(message["type"])
    except (KeyError, TypeError):
        name = None
    if name is not None:
        handler = getattr(consumer, name, None)
        if handler:
            return handler
    name = get_handler_name(message)  # raises what Channels raises
    handler = getattr(consumer, name, None)
    kind = message["type"]
    if not handler:
        raise ValueError(_explain(type(consumer), kind, name))
    if type(kind) is str and len(kind) <= _KEPT_LENGTH:
        if len(_handler_names) >= _KEPT_NAMES:
            _handler_names.clear()
        _handler_names[kind] = name
    return handler


def _explain(consumer: type, kind: str, name: str) -> str:
    """Return what is wrong with a message that nobody handles, and what may have been meant."""
    if len(kind) > _KEPT_LENGTH:
        kind, name = f"{kind[:_KEPT_LENGTH]}…", ""
    methods = [
        method
        for method in dir(consumer)
        if not method.startswith("_") and inspect.isroutine(getattr(consumer, method, None))
    ]
    nearest = difflib.get_close_matches(name, methods, 1)
    problem = f"No handler for message type {escape(kind)} in {consumer.__qualname__}"
    return f"{problem}; did you mean {nearest[0]}?" if nearest else problem


class ConsumerLoop:
    """Takes a consumer's items out of its mailbox and has them handled, one after the other.

    Besides messages and client events there may be items of other kinds in the mailbox: objects
    with ``async def deliver_to(self, consumer)``, which is awaited.

    Args:
        consumer: Whose loop it is; the running event loop is its.
        desk: The consumer's channel.
        pump: Reads what the client sends.
        is_direct: Whether handlers are called from here, with nobody's ``dispatch`` in between.
    """

    def __init__(self, consumer: Any, desk: Desk, pump: Pump, is_direct: bool) -> None:
        self._consumer = consumer
        self._desk = desk
        self._pump = pump
        self._is_direct = is_direct
        # Channels closes old connections itself in the threads where such handlers run.
        self._is_sync: bool = consumer._sync
        #: Where the items are.
        self.mailbox = desk.mailbox
        self._loop = asyncio.get_running_loop()
        # What runs in the loop's next turn. asyncio shows it, uvloop does not: there, to rest after
        # each handler in case it has scheduled something would cost a quarter of the speed.
        self._scheduled: Sized = getattr(self._loop, "_ready", ())
        self._find_hop()
        self._is_waiting = False
        self._item: Any = None
        self._ready: asyncio.Future[None]

    def __repr__(self) -> str:
        return f"<ConsumerLoop of {type(self._consumer).__qualname__} {self.mailbox!r}>"

    @property
    def event(self) -> Event | None:
        """The event of the client that is being handled, if it is one."""
        item = self._item
        return item.event if type(item) is ClientEvent else None

    @property
    def has_lost_client(self) -> bool:
        """See `Pump.has_ended`."""
        return self._pump.has_ended

    async def opened(self) -> None:
        """See `Pump.opened`."""
        await self._pump.opened()

    # As a waiter; in the thread of the consumer's event loop

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """See `Waiter.get_loop`."""
        return self._loop

    def done(self) -> bool:
        """See `Waiter.done`: with an item in hand it waits for the hop only."""
        return not self._is_waiting or self._ready.done()

    def set_result(self, item: Any, /) -> None:
        """See `Waiter.set_result`."""
        self._is_waiting = False
        if item is None:
            item = self._take()
        else:
            self.mailbox.taken += 1
        self._admit(item)

    # The loop

    async def run(self) -> None:
        """Handle what comes, until something raises.

        Raises:
            StopConsumer: A handler wants to end.
            ClosedError: The channel was ended.
            BaseException: What a handler, ``receive`` or closing old connections has raised.
        """
        while True:
            try:
                ready = self._next()
                if ready.done():
                    await asyncio.sleep(0)
                await ready
                left, moment = IN_A_ROW, self._moment()
                while True:
                    handling = self._handle(self._item)
                    if handling is not _NOTHING:
                        await handling
                    left -= 1
                    if not left or moment is None or self._moment() != moment:
                        break
                    if not self._goes_on():
                        break
            except StopConsumer:
                raise
            except Exception as error:  # the user's handlers raise what they like
                await self._tell_asker(error)
                if self._consumer._passes_over(error):
                    continue
                if not await self._consumer._outlives(error, self._message()):
                    raise

    def _next(self) -> asyncio.Future[None]:
        """Return a future for the next item, which will be in ``_item`` and may be handled."""
        self._item = None
        ready = self._ready = self._loop.create_future()
        if sensitive_context(None) is not self._sensitive:
            self._find_hop()
        item = self._take()
        if item is not None:
            self._admit(item)
        else:
            self._is_waiting = True
            self._desk.listen(self)
        return ready

    def _moment(self) -> tuple[int, int] | None:
        """Return what stays equal while this task has not waited and nothing was scheduled.

        None where each handler goes to the database's thread by itself.
        """
        if self._hop is None or not self._is_direct:
            return None
        return self._hop.turn(), len(self._scheduled)

    def _goes_on(self) -> bool:
        """Take the next item, if it may be handled in this very turn, without a hop of its own."""
        if sensitive_context(None) is not self._sensitive:
            return False
        self._item = item = self._take()
        return item is not None

    def _take(self) -> Any:
        item: Any = self.mailbox.take()
        kind = type(item)
        if kind is not Body and item is not None:
            if kind is ClientEvent:
                self._pump.taken()
            elif not item.size:  # a notice, for instance: only messages count
                self.mailbox.taken -= 1
        return item

    def _admit(self, item: Any) -> None:
        """Take an item in hand. What is handled from here needs a hop first."""
        self._item = item
        hop = self._hop
        if (
            hop is not None
            and (self._is_direct or type(item) not in _DISPATCHED)
            and hop.is_needed()
        ):
            hop.admit(self._ready)
        else:
            self._ready.set_result(None)

    def _handle(self, item: Any) -> Awaitable[None]:
        """Return what is to be awaited for an item."""
        kind = type(item)
        if kind is Body:
            try:
                message = item.open()
            except exceptions.DecodingError as error:
                self._desk.reject(item, error)
                return _NOTHING
        elif kind is ClientEvent:
            message = item.event
        elif item is None:  # a false alarm
            self.mailbox.forget(self)
            return _NOTHING
        elif self._hop is None and not self._is_sync:
            return self._alone(item.deliver_to, self._consumer)
        else:
            return item.deliver_to(self._consumer)  # type: ignore[no-any-return]
        is_direct, consumer = self._is_direct, self._consumer
        handler = find_handler(consumer, message) if is_direct else consumer.dispatch
        if is_direct and self._hop is None:
            return self._alone(handler, message)
        return handler(message)  # type: ignore[no-any-return]

    async def _alone(self, handler: Callable[[Any], Awaitable[None]], argument: Any) -> None:
        await close_alone()
        await handler(argument)

    async def hop(self) -> None:
        """Close old connections from a ``dispatch``, sharing that where it can be shared.

        Raises:
            BaseException: What closing them has raised.
        """
        if self._loop is not asyncio.get_running_loop():
            await close_alone()
            return
        if sensitive_context(None) is not self._sensitive:
            self._find_hop()
        if self._hop is None:
            await close_alone()
            return
        if self._hop.is_needed():
            ready: asyncio.Future[None] = self._loop.create_future()
            self._hop.admit(ready)
            await ready

    def _find_hop(self) -> None:
        self._sensitive = sensitive_context(None)
        self._hop: Hop | None = None if self._is_sync else find_hop()

    async def _tell_asker(self, error: Exception) -> None:
        """If the item in hand is a request: tell whoever asked that it has failed."""
        request = self._request()
        if request is None:
            return
        try:
            await self._consumer.channel_layer.reply_error(request, error)
        except Exception:  # whatever it is, it must not take the place of the handler's error
            logger.warning(
                "channels_mpx: could not tell the sender of a request that its handler failed",
                exc_info=True,
            )

    def _request(self) -> Event | None:
        message = self._message()
        return message if isinstance(message, dict) and REPLY_TO in message else None

    def _message(self) -> Event | None:
        """Return the client event or the message in hand, if it is one."""
        item = self._item
        if type(item) is ClientEvent:
            return item.event
        if type(item) is Body:
            with contextlib.suppress(exceptions.DecodingError):
                return item.open()
        return None
