"""Waiting until Redis has confirmed what a subscription wants, through any number of lost links."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

from . import exceptions
from .frames import Subscriber
from .hub import Hub
from .names import Topic

__all__ = ["Activation"]

logger = logging.getLogger("channels_mpx.multiplexer")


class Activation:
    """Those who wait for one subscription, and what Redis has refused to it.

    Args:
        hub: The connection.
        subscriber: What the multiplexer calls for the subscription.
        topics: Returns what is to be active; called at home.
        explain: Returns what the subscription is called in errors.
    """

    def __init__(
        self,
        hub: Hub,
        subscriber: Subscriber,
        topics: Callable[[], Iterable[Topic]],
        explain: Callable[[], str],
    ) -> None:
        self._hub = hub
        self._subscriber = subscriber
        self._topics = topics
        self._explain = explain
        self._waiting: set[asyncio.Task[None]] = set()
        self._refusals: dict[Topic, Exception] = {}
        self._is_closed = False

    async def wait(self, seconds: float | None) -> None:
        """Return when everything is active. For any loop.

        Args:
            seconds: How long to wait; None: as long as it takes.

        Raises:
            NotConfirmed: It is not active in time.
            CommandRefused: Redis does not allow one of the topics, or has refused one since this
                was asked last.
            LinkRefused: Redis does not accept this process.
            LinkUnavailable: The process cannot connect at all any more; it is about to end.
            SubscriptionIsClosed: The subscription was closed, before or meanwhile.
        """
        self._require_open()
        self._raise_refusal()
        task = asyncio.ensure_future(self._until_active())
        self._waiting.add(task)
        task.add_done_callback(_note_outcome)
        try:
            await asyncio.wait([task], timeout=seconds)
            if not task.done():
                raise exceptions.NotConfirmed(
                    address=self._hub.address, what=self._explain(), seconds=seconds
                )
            if not task.cancelled():
                task.result()
        except exceptions.CommandRefused:
            self._refusals.clear()  # this one is told
            raise
        finally:
            self._waiting.discard(task)
            task.cancel()
        self._require_open()
        self._raise_refusal()

    def note_refusal(self, topic: Topic, error: Exception) -> None:
        """Redis has refused a topic, which is not wanted any more. At home."""
        self._refusals[topic] = error

    def forget_refusal(self, topic: Topic) -> None:
        """A topic was removed, or is asked for again: what Redis said of it is old. Any thread."""
        self._refusals.pop(topic, None)

    def close(self) -> None:
        """The subscription is over: release everybody. For any thread."""
        self._is_closed = True
        for task in tuple(self._waiting):
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits
                task.get_loop().call_soon_threadsafe(task.cancel)

    async def _until_active(self) -> None:
        while True:
            try:
                return await self._hub.call(self._until_active_at_home, receiving=True)
            except exceptions.LinkLost as error:  # home has moved on
                logger.debug("channels_mpx: %s is not active yet: %s", self._explain(), error)

    async def _until_active_at_home(self) -> None:
        while not self._is_closed:
            # Looked at anew each time: while one is awaited others come, go, and lose their link.
            missing = [
                topic for topic in self._topics() if not self._hub.want(topic, self._subscriber)
            ]
            if not missing:
                return
            try:
                # Redis confirms in the order in which it is asked: the last one is the last.
                await self._hub.join(missing[-1], self._subscriber)
            except (exceptions.LinkUnavailable, exceptions.NotConfirmed) as error:
                logger.debug("channels_mpx: %s is not active yet: %s", self._explain(), error)

    def _require_open(self) -> None:
        if self._is_closed:
            raise exceptions.SubscriptionIsClosed(what=self._explain())

    def _raise_refusal(self) -> None:
        error: Exception | None = None
        with contextlib.suppress(KeyError):  # until there is none
            while True:
                _, error = self._refusals.popitem()
        if error is not None:
            raise error


def _note_outcome(task: asyncio.Task[None]) -> None:
    """Have asyncio know that an error is known: who waited may have been cut short by then."""
    if not task.cancelled():
        task.exception()
