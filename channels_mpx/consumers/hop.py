"""One way to the database's thread for all the handlers that become ready at one time.

Channels closes old database connections before each handler. They belong to a thread, so that is
a call of ``sync_to_async``, which costs more than most handlers do, and waits for whatever that
thread is doing. Here it is made only if there is something to close (see `databases`): a handler
that finds nothing old begins at once. Otherwise the handlers that become ready in one turn of the
event loop share one such *hop*: each begins after a hop that began when it was ready, and whoever
becomes ready while a hop is under way waits for the next.

A hop is shared by those, and only those, whom ``sync_to_async`` would send to one thread: on one
event loop, and in one ``ThreadSensitiveContext`` or in none. Where the thread depends on more than
that (below an ``async_to_sync`` it is the caller's own) nothing is shared.

The hop is a task of its own, in a context of its own, which holds nothing but the
``ThreadSensitiveContext`` that chooses the thread. It must not be a copy of the context of whoever
came first: the variables there are of one connection, and the hop is for many. And it must not be
the context in which somebody is found to be ready, which is that of the layer's reader.
"""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from asyncio import get_running_loop
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async
from channels import db

from .databases import ThreadConnections, is_configured, is_replaced, look

__all__ = ["Hop", "close_alone", "find_hop", "sensitive_context"]

#: Returns the ``ThreadSensitiveContext`` that the running task is in, or its argument.
sensitive_context = SyncToAsync.thread_sensitive_context.get


class Hop:
    """Closes old connections for many at a time. For one event loop.

    Args:
        sensitive: The ``ThreadSensitiveContext`` of those who share it, if they are in one.
    """

    __slots__ = (
        "__weakref__",
        "_connections",
        "_context",
        "_is_under_way",
        "_task",
        "_turn",
        "_turns",
        "_waiting",
    )

    def __init__(self, sensitive: Any = None) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        #: Those of the thread; unknown before the first hop.
        self._connections: ThreadConnections | None = None
        self._turns = 0
        self._turn = 0
        self._is_under_way = False
        self._task: asyncio.Task[None] | None = None
        self._context = contextvars.Context()
        if sensitive is not None:
            self._context.run(SyncToAsync.thread_sensitive_context.set, sensitive)

    def __repr__(self) -> str:
        return f"<Hop waiting={len(self._waiting)} is_under_way={self._is_under_way}>"

    def is_needed(self) -> bool:
        """Tell whether a handler that is ready now must wait for a hop."""
        if is_replaced():
            return True
        known = self._connections
        return is_configured() if known is None else known.has_old()

    def turn(self) -> int:
        """Return a number that is another one as soon as the calling task has waited."""
        if not self._turn:
            self._turns += 1
            self._turn = self._turns
            # Before whatever wakes the caller, if it waits from now on.
            get_running_loop().call_soon(self._end_turn)
        return self._turn

    def _end_turn(self) -> None:
        self._turn = 0

    def admit(self, ready: asyncio.Future[None]) -> None:
        """Have a future of this event loop done after a hop that begins from now on.

        It gets the error if the hop fails. One that is cancelled meanwhile is left alone.
        """
        self._waiting.append(ready)
        if not self._is_under_way:
            self._begin()

    def _begin(self) -> None:
        # It begins in the loop's next turn: all that become ready in this one are in time.
        self._is_under_way = True
        self._task = self._context.run(get_running_loop().create_task, self._run())

    async def _run(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            if self._connections is None and not is_replaced():
                self._connections = await sync_to_async(look)()
            if self.is_needed():  # the last hop may have done it for these too
                await db.aclose_old_connections()
        except asyncio.CancelledError:
            # Somebody ends all tasks of this loop. Whoever is not ended with us goes again.
            self._waiting = [ready for ready in waiting if not ready.done()] + self._waiting
            self._end()
            raise
        except GeneratorExit:
            raise  # the loop has gone, and everybody with it
        except BaseException as error:  # of the database's driver: each who waits gets it
            for ready in waiting:
                if not ready.done():
                    ready.set_exception(error)
        else:
            for ready in waiting:
                if not ready.done():
                    ready.set_result(None)
        self._end()

    def _end(self) -> None:
        self._is_under_way = False
        self._task = None
        if self._waiting:
            self._begin()


# A hop lives as long as a consumer that uses it: neither loops nor contexts are kept.
_Hops = weakref.WeakValueDictionary[Any, Hop]
_hops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Hops] = weakref.WeakKeyDictionary()


def find_hop() -> Hop | None:
    """Return the hop of the running task; None if it must go alone, with `close_alone`.

    It is the right one for as long as ``sensitive_context(None)`` returns the same object.
    """
    sensitive = sensitive_context(None) or None
    if getattr(AsyncToSync.executors, "current", None) is not None:
        return None  # below `async_to_sync`: to the thread of the caller
    if sensitive is None and SyncToAsync.deadlock_context.get(False):
        return None  # asgiref is going to refuse it
    loop = get_running_loop()
    hops = _hops.get(loop)
    if hops is None:
        hops = _hops[loop] = weakref.WeakValueDictionary()
    hop = hops.get(sensitive)
    if hop is None:
        hop = hops[sensitive] = Hop(sensitive)
    return hop


async def close_alone() -> None:
    """Close old connections as Channels does it for each handler, if there can be any."""
    if is_configured() or is_replaced():
        await db.aclose_old_connections()
