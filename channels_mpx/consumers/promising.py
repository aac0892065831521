"""Consumers whose handlers await promises."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import Any

from channels.exceptions import StopConsumer
from channels.generic.http import AsyncHttpConsumer

from channels_mpx import exceptions
from channels_mpx.arguments import require_deadline
from channels_mpx.ledgers import Promise, text_of
from channels_mpx.names import encode_name, escape_glob
from channels_mpx.promises import PromiseSubscription

from .definitions import Name
from .offers import own, yielding
from .payloads import decoder
from .pump import Event, is_last
from .subscribing import SubscriptionMixin

__all__ = ["PromiseMixin"]

GONE = "the client has gone away"
ENDED = "its consumer has ended"


@yielding()
class PromiseMixin(SubscriptionMixin):
    """Promises in a consumer: a handler waits for one message on one name, with a deadline.

    A handler that awaits a promise blocks its consumer's loop, as any handler does; the promise is
    decided elsewhere, so it is kept, or fails at its deadline, all the same. When the client goes
    away while a handler awaits one, that handler gets `PromiseCancelled` at once, if not more than
    ``read_ahead`` events of the client wait before its farewell. If the handler lets it pass, the
    consumer goes on to the farewell as if the handler had returned.
    """

    #: By their prefix. Replaced, never changed.
    _promise_subscriptions: Mapping[bytes, PromiseSubscription] = {}
    #: Why no promise can be kept any more.
    _promises_ended: str = ""

    async def promise(self, prefix: Name, suffix: Name, timeout: float) -> Any:
        """Make a promise and return what it is kept with, as ``payload`` decodes it.

        Use `promise_created` if its making must be known before somebody is asked to keep it.

        Args:
            prefix: The beginning of the name, plain text; all promises of a process with one
                prefix share one pattern in Redis, for as long as such a consumer lives.
            suffix: The rest of the name.
            timeout: Seconds until the promise fails, from its making.

        Raises:
            PromiseTimeout: Nothing was published on the name in time.
            PromiseInterrupted: The link was lost; a message may have been missed.
            PromiseCancelled: The client has gone away, or the consumer has ended.
            DecodingError: What came is not of the form that ``payload`` says; it is counted as any
                bad payload.
            InvalidName, InvalidTimeout, ReservedName, NotAuthorized: It was not made.
            LinkError: It was not made: Redis does not allow it, or did not confirm it in time.
        """
        return await (await own(self, "promise_created")(prefix, suffix, timeout))

    async def promise_created(self, prefix: Name, suffix: Name, timeout: float) -> Promise:
        """Make a promise and return it: what is published from now on keeps it.

        Awaiting it returns and raises what `promise` does.
        """
        require_deadline(timeout)
        decode = decoder(own(self, "payload"))
        beginning, rest = encode_name(prefix), encode_name(suffix)
        name = beginning + rest
        names = self._desk.hub.names
        names.require_foreign(name)
        await self._authorize("promise", name)
        pattern = escape_glob(beginning) + b"*"
        if beginning not in self._promise_subscriptions and names.is_exposed_by(pattern):
            await self._authorize("pattern", pattern)
        while True:
            self._require_promises(name)  # that may have taken a while
            subscription = self._promise_subscription(beginning)
            try:
                await subscription.wait_for_activation(self._desk.hub.options.timeout)
                kept = subscription.new_promise(rest, timeout)
            except exceptions.InactiveSubscription:
                continue  # lost again since
            except exceptions.SubscriptionIsClosed:
                self._require_promises(name)
                raise
            return self._decoded(kept, decode)

    def _promise_subscription(self, prefix: bytes) -> PromiseSubscription:
        subscription = self._promise_subscriptions.get(prefix)
        if subscription is None or subscription.closed:
            subscription = self.channel_layer.multiplexer.new_promise_subscription(prefix)
            self._promise_subscriptions = {**self._promise_subscriptions, prefix: subscription}
        return subscription

    def _decoded(self, kept: Promise, decode: Callable[[bytes], Any]) -> Promise:
        """Return a promise that is kept with what ``decode`` makes of the payload.

        It is settled one turn of the loop later: whoever delivers never decodes.
        """
        promise = Promise.made(kept.name, kept.seconds, {})
        promise.deadline = kept.deadline

        def settle(kept: asyncio.Future[bytes]) -> None:
            if promise.done():
                return
            error = kept.exception()
            if error is None:
                try:
                    value = decode(kept.result())
                except exceptions.DecodingError as bad:
                    self._count_bad_payload(promise.name, bad)
                    error = bad
                else:
                    promise.forget()
                    promise.set_result(value)
                    return
            assert isinstance(error, Exception)
            promise.settle(None, error)

        kept.add_done_callback(settle)
        promise.add_done_callback(functools.partial(_give_up, kept))
        return promise

    def _require_promises(self, name: bytes) -> None:
        if self._promises_ended:
            raise exceptions.PromiseCancelled(name=text_of(name), reason=self._promises_ended)

    def _client_event(self, event: Event) -> None:
        super()._client_event(event)
        if is_last(event):
            self._end_promises(GONE)

    def _passes_over(self, error: Exception) -> bool:
        is_release = bool(self._promises_ended) and isinstance(error, exceptions.PromiseCancelled)
        assert self._mpx is not None
        event = self._mpx.event
        if is_release and not is_last(event):  # the farewell's own handler is not to be passed over
            if event is not None and _is_done_with(self):
                raise StopConsumer from error
            return True
        return super()._passes_over(error)

    def _end(self) -> None:
        self._end_promises(ENDED)
        super()._end()

    def _end_promises(self, reason: str) -> None:
        self._promises_ended = reason
        subscriptions, self._promise_subscriptions = self._promise_subscriptions, {}
        for subscription in subscriptions.values():
            subscription.close(reason)


def _give_up(kept: Promise, promise: asyncio.Future[bytes]) -> None:
    """Whoever cancels the one cancels the other."""
    kept.cancel()


def _is_done_with(consumer: object) -> bool:
    """Tell whether a handler of the client's events has called ``disconnect``, and wants to end."""
    return (
        isinstance(consumer, AsyncHttpConsumer)
        and type(consumer).http_request is AsyncHttpConsumer.http_request
    )
