"""The layer's verbs for code that has no event loop."""

from __future__ import annotations

from asyncio import _get_running_loop
from typing import Any

from . import exceptions
from .hub import Hub
from .preparation import Preparation, Prepared
from .serializers import Message

__all__ = ["SyncVerbs"]


class SyncVerbs:
    """The sending verbs for threads, WSGI, Celery and management commands.

    They block until Redis has answered and raise what the awaitable verbs raise. All threads of
    the process share its one connection.

    Args:
        preparation: Checks and encodes, in the caller's thread.
        hub: The connection.
        layer: Whose verbs they are; it is kept alive.
    """

    __slots__ = ("_hub", "_layer", "_preparation")

    def __init__(self, preparation: Preparation, hub: Hub, layer: object) -> None:
        self._layer = layer
        self._preparation = preparation
        self._hub = hub

    def send(self, channel: str, message: Message) -> None:
        """Send a message to one channel; see `MultiplexedChannelLayer.send`."""
        self._call("send", self._preparation.send(channel, message))

    def group_send(self, group: str, message: Message) -> None:
        """Send a message to a group; see `MultiplexedChannelLayer.group_send`."""
        self._call("group_send", self._preparation.group_send(group, message))

    def group_add(self, group: str, channel: str) -> None:
        """Add a member to a group; see `MultiplexedChannelLayer.group_add`."""
        self._call("group_add", self._preparation.membership(True, group, channel))

    def group_discard(self, group: str, channel: str) -> None:
        """End a membership; see `MultiplexedChannelLayer.group_discard`."""
        self._call("group_discard", self._preparation.membership(False, group, channel))

    def request(self, channel: str, message: Message, timeout: float | None = None) -> Message:
        """Send a request and block until the reply is there; see `MultiplexedChannelLayer.request`."""
        prepared = self._preparation.request(channel, message, timeout)
        reply: Message = self._call("request", prepared, self._preparation.deadline(timeout))
        return reply

    def reply(self, event: Message, message: Message) -> None:
        """Answer a request; see `MultiplexedChannelLayer.reply`."""
        self._call("reply", self._preparation.reply(event, message))

    def close(self) -> None:
        """Close the connection; the next verb connects again.

        Raises:
            SyncCallFromAsync: On a thread that runs an event loop: await ``layer.aclose()``.
        """
        if _get_running_loop() is not None:
            raise exceptions.SyncCallFromAsync(verb="close")
        self._hub.close()

    def _call(self, name: str, prepared: Prepared, allowance: float = 0) -> Any:
        if _get_running_loop() is not None:
            raise exceptions.SyncCallFromAsync(verb=name)
        verb, args = prepared
        return self._hub.call_sync(verb, *args, allowance=allowance)
