"""Django signals: what happens to a layer in this process.

Receivers are called on the event loop that the connection lives on, each signal in a callback of
its own, and never while messages are read. What they raise is logged by Django and hurts nobody.
As long as they run nothing else runs on that loop, so they must be short: count, log, start a task;
no database, no waiting.

The sender is the layer's class. Every receiver gets ``layer`` and what the signal says:

    connected       ``epoch``: the number of this connection, from 1
    disconnected    ``reason``
    gap             ``gap``: a `Gap`, when everything is active again after a loss
    overflow        ``channel``, ``waiting``: it is full and drops its first message. If it is a
                    subscription of the layer's multiplexer: also ``subscription``, and
                    ``channel`` is its name in the statistics
    bad_message     ``where``, ``reason``: something came that is no message of this layer

Of what happens again and again, only the first is told: an episode of `overflow` ends when the
consumer or reader has taken all that waited, one of `bad_message` when none has come for 60 s.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections import deque
from typing import Any

from django.dispatch import Signal

from . import exceptions
from .hub import Hub
from .supervisor import Supervisor

__all__ = ["LayerSignal", "bad_message", "connected", "disconnected", "gap", "overflow"]

#: Signals that wait to be sent, at most; older ones are forgotten.
PENDING = 1000


class LayerSignal(Signal):  # type: ignore[misc, unused-ignore]
    """A signal of a layer."""

    def connect(self, receiver: Any, *args: Any, **kwargs: Any) -> None:
        """Connect a receiver; see Django's `Signal.connect`.

        Raises:
            InvalidArgument: It is a coroutine function, for which nobody would wait.
        """
        if inspect.iscoroutinefunction(receiver):
            required = "a plain function, which may start a task"
            raise exceptions.InvalidArgument(name="receiver", required=required, value=receiver)
        super().connect(receiver, *args, **kwargs)


connected = LayerSignal()
disconnected = LayerSignal()
gap = LayerSignal()
overflow = LayerSignal()
bad_message = LayerSignal()

_SIGNALS = {
    "connected": connected,
    "disconnected": disconnected,
    "gap": gap,
    "overflow": overflow,
    "bad_message": bad_message,
}


class Herald:
    """Sends the signals of one layer.

    Args:
        layer: Whose they are. It is not kept alive.
        hub: Its connection.
    """

    def __init__(self, layer: object, hub: Hub) -> None:
        self._layer = weakref.ref(layer)
        self._hub = hub
        self._news: deque[tuple[Signal, dict[str, Any]]] = deque(maxlen=PENDING)
        #: The home that has been asked to send them.
        self._asked: Supervisor | None = None

    def __repr__(self) -> str:
        return f"<Herald {self._layer()!r} news={len(self._news)}>"

    def announce(self, event: str, **details: Any) -> None:
        """Have a signal sent soon, if it has receivers. Never waits; for any thread.

        If there is no home now, the next one sends it.
        """
        signal = _SIGNALS[event]
        if not signal.receivers:
            return
        self._news.append((signal, details))
        if len(self._news) == 1 or self._asked is not self._hub.life:
            self._asked = self._hub.life
            self._hub.wake(self._send)

    def _send(self) -> None:
        try:
            signal, details = self._news.popleft()
        except IndexError:  # an earlier home was asked too
            return
        if self._news:
            asyncio.get_running_loop().call_soon(self._send)
        layer = self._layer()
        if layer is not None:
            signal.send_robust(sender=type(layer), layer=layer, **details)
