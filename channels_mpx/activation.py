"""Waiting until Redis has confirmed what a subscription wants, through any number of lost links."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from . import exceptions
from .frames import Subscriber
from .hub import Hub
from .names import Topic

__all__ = ["Activation"]

logger = logging.getLogger("channels_mpx.multiplexer")


class Activation:
    """Those who wait for one subscription.

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
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._is_closed = False

    async def wait(self, seconds: float | None) -> None:
        """Return when everything is active. For any loop.

        Args:
            seconds: How long to wait; None: as long as it takes.

        Raises:
            NotConfirmed: It is not active in time.
            CommandRefused: Redis does not allow one of the topics.
            LinkRefused: Redis does not accept this process.
            SubscriptionIsClosed: The subscription was closed, before or meanwhile.
        """
        self._require_open()
        task = asyncio.ensure_future(self._hub.call(self._until_active, receiving=True))
        self._waiting[task] = None
        try:
            await asyncio.wait([task], timeout=seconds)
            if not task.done():
                raise exceptions.NotConfirmed(
                    address=self._hub.address, what=self._explain(), seconds=seconds
                )
            if not task.cancelled():
                task.result()
        finally:
            self._waiting.pop(task, None)
            task.cancel()
        self._require_open()

    def close(self) -> None:
        """The subscription is over: release everybody."""
        self._is_closed = True
        for task in list(self._waiting):
            loop = task.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)

    async def _until_active(self) -> None:
        for topic in self._topics():
            while not self._is_closed:
                try:
                    await self._hub.join(topic, self._subscriber)
                    break
                except (exceptions.LinkUnavailable, exceptions.NotConfirmed) as error:
                    logger.debug("%s is not active yet: %s", self._explain(), error)

    def _require_open(self) -> None:
        if self._is_closed:
            raise exceptions.SubscriptionIsClosed(what=self._explain())
