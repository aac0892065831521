"""Promises: futures that one message on one name keeps, whoever publishes it, in any language.

A `PromiseSubscription` has a prefix, and any number of promises for names that begin with it; see
`ledgers` for who decides what becomes of them.
"""

from __future__ import annotations

import asyncio
import contextlib

from . import exceptions
from .activation import Activation
from .arguments import require_deadline, require_timeout
from .handles import Handle, Tie
from .ledgers import Promise, PromiseBoard, text_of
from .names import encode_name

__all__ = ["PromiseSubscription"]


class PromiseSubscription(Handle):
    """A prefix under which promises can be made.

    Make it with `Multiplexer.new_promise_subscription`. It becomes inactive when the link is lost,
    which interrupts all its promises, and active again by itself. It can be used as an asynchronous
    context manager, which waits for its activation and closes it.
    """

    def __init__(self, board: PromiseBoard, prefix: str | bytes) -> None:
        """Hold a prefix.

        Args:
            board: The ledgers of the connection.
            prefix: What the names of all its promises begin with.
        """
        super().__init__(board.hub, board.registry)
        self.prefix = encode_name(prefix)
        self._hub.names.require_foreign(self.prefix)
        self._board = board
        self._outstanding: dict[Promise, None] = {}
        self._ledger = board.hold(self.prefix, self)
        self._activation = Activation(
            self._hub, self._ledger, lambda: (self._ledger.topic,), self.__repr__
        )
        # Of gaps its ledger hears.
        self._tie = Tie(self)
        self._registry.add(self._tie)

    def __repr__(self) -> str:
        return f"<PromiseSubscription {self.prefix!r} outstanding={len(self._outstanding)}>"

    @property
    def active(self) -> bool:
        """Whether promises can be made now, because Redis has confirmed the subscription."""
        return self._ledger.is_active and not self._is_closed

    @property
    def outstanding(self) -> int:
        """How many of its promises are neither kept nor failed."""
        return len(self._outstanding)

    @property
    def late(self) -> int:
        """Messages under the prefix that kept no promise here, because of their time or name."""
        return self._ledger.late

    def new_promise(self, suffix: str | bytes, timeout: float) -> Promise:
        """Return a promise that the next message on prefix + suffix keeps.

        What is published through this multiplexer from now on is not missed. Two promises on one
        name are both kept by one message.

        Args:
            suffix: The rest of the name.
            timeout: Seconds until it fails, counted from now, awaited or not.

        Raises:
            InactiveSubscription: Redis has not confirmed the subscription, or not again yet.
            InvalidName: The suffix is empty, or neither text nor bytes.
            InvalidTimeout: ``timeout`` is no finite number of seconds.
            ReservedName: The name lies under the layer's own prefix.
            RuntimeError: No event loop runs here; a promise belongs to one.
            SubscriptionIsClosed: The subscription was closed.
        """
        name, seconds = self._name(suffix), require_deadline(timeout)
        self._require_open()
        if not self._ledger.is_active:
            raise exceptions.InactiveSubscription(name=text_of(self.prefix))
        promise = Promise.made(name, seconds, self._outstanding)
        promise.add_done_callback(self._done)
        self._hub.post(self._ledger.enter, promise)
        return promise

    async def wait_for_activation(self, timeout: float | None = None) -> None:
        """Return when promises can be made.

        Args:
            timeout: Seconds; None: as long as it takes, through any number of lost links.

        Raises:
            NotConfirmed: It is not active in time.
            CommandRefused: Redis does not allow the pattern.
            LinkRefused: Redis does not accept this process.
            SubscriptionIsClosed: The subscription was closed, before or meanwhile.
        """
        seconds = require_timeout(timeout)
        self._require_open()
        if not self._ledger.is_active:
            await self._activation.wait(seconds)

    async def wait_for_new_promise(self, suffix: str | bytes, timeout: float) -> Promise:
        """Return a promise as soon as one can be made; its time begins then.

        Raises what `new_promise` and `wait_for_activation` do, but `InactiveSubscription`.
        """
        self._name(suffix)
        require_deadline(timeout)
        while True:
            await self.wait_for_activation()
            with contextlib.suppress(exceptions.InactiveSubscription):  # lost again meanwhile
                return self.new_promise(suffix, timeout)

    def clear(self) -> None:
        """Fail all outstanding promises with `PromiseCancelled`.

        Raises:
            SubscriptionIsClosed: The subscription was closed.
        """
        self._require_open()
        self._give_up("its subscription was cleared")

    def close(self, reason: str = "its subscription was closed") -> None:
        """Fail all outstanding promises, release whoever waits, unsubscribe. Idempotent.

        Args:
            reason: What the promises' `PromiseCancelled` says.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._give_up(reason)
        self._activation.close()
        self._registry.discard(self._tie)
        self._board.release(self.prefix, self)

    async def _wait(self, timeout: float) -> None:
        await self.wait_for_activation(timeout)

    def _name(self, suffix: str | bytes) -> bytes:
        name = self.prefix + encode_name(suffix)
        self._hub.names.require_foreign(name)
        return name

    def _give_up(self, reason: str) -> None:
        promises = list(self._outstanding)
        for promise in promises:
            error = exceptions.PromiseCancelled(name=text_of(promise.name), reason=reason)
            promise.settle(None, error)
        self._hub.tell(self._ledger.strike, *promises)

    def _done(self, promise: asyncio.Future[bytes]) -> None:
        """Somebody may have cancelled it: then nobody needs to keep it."""
        assert isinstance(promise, Promise)
        if promise.is_outstanding:
            promise.forget()
            self._hub.tell(self._ledger.strike, promise)
