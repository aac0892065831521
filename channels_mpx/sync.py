"""The layer's verbs for code that has no event loop."""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from . import exceptions
from .hub import Hub
from .serializers import Message

__all__ = ["Prepared", "SyncVerbs"]

Prepared = tuple[Callable[..., Awaitable[Any]], tuple[Any, ...]]
"""What a verb needs at home: what to call there, and with what."""


class Preparing(Protocol):
    """What checks a verb's arguments and encodes its message, in the caller's thread."""

    def prepare_send(self, channel: str, message: Message) -> Prepared:
        """Return what ``send`` calls at home."""

    def prepare_group_send(self, group: str, message: Message) -> Prepared:
        """Return what ``group_send`` calls at home."""

    def prepare_membership(self, is_add: bool, group: str, channel: str) -> Prepared:
        """Return what ``group_add`` or ``group_discard`` calls at home."""


class SyncVerbs:
    """The sending verbs for threads, WSGI, Celery and management commands.

    They block until Redis has answered and raise what the awaitable verbs raise. All threads of
    the process share its one connection.

    Args:
        layer: Checks and encodes.
        hub: The connection.
    """

    def __init__(self, layer: Preparing, hub: Hub) -> None:
        self._layer = layer
        self._hub = hub

    def send(self, channel: str, message: Message) -> None:
        """Send a message to one channel; see `MultiplexedChannelLayer.send`."""
        self._call("send", *self._layer.prepare_send(channel, message))

    def group_send(self, group: str, message: Message) -> None:
        """Send a message to a group; see `MultiplexedChannelLayer.group_send`."""
        self._call("group_send", *self._layer.prepare_group_send(group, message))

    def group_add(self, group: str, channel: str) -> None:
        """Add a member to a group; see `MultiplexedChannelLayer.group_add`."""
        self._call("group_add", *self._layer.prepare_membership(True, group, channel))

    def group_discard(self, group: str, channel: str) -> None:
        """End a membership; see `MultiplexedChannelLayer.group_discard`."""
        self._call("group_discard", *self._layer.prepare_membership(False, group, channel))

    def close(self) -> None:
        """Close the connection; the next verb connects again.

        Raises:
            SyncCallFromAsync: On a thread that runs an event loop: await ``layer.aclose()``.
        """
        if _get_running_loop() is not None:
            raise exceptions.SyncCallFromAsync(verb="close")
        self._hub.close()

    def _call(self, name: str, verb: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        if _get_running_loop() is not None:
            raise exceptions.SyncCallFromAsync(verb=name)
        self._hub.call_sync(verb, *args)
