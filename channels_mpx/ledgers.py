"""Promises, and who decides what becomes of them.

For each distinct prefix there is one `Ledger` in the process, and one pattern in Redis, however many
subscriptions share it.

The ledger decides on the home loop what becomes of a promise: kept by a message, failed at its
deadline, interrupted when the link is lost. No consumer's loop and no callback has a part in it, so
a promise may be awaited anywhere, in a callback or a handler too, and one that nobody awaits is
freed at its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from . import exceptions
from .hub import Hub
from .names import Kind, Topic, escape_glob
from .registry import Registry

__all__ = ["Ledger", "Promise", "PromiseBoard", "text_of"]


class Promise(asyncio.Future[bytes]):
    """A future with a deadline, for one message on one name; make it with `PromiseSubscription`.

    It belongs to the loop where it was made and can be awaited there like any future. It gets the
    payload of the first message on its name after it was made, or raises why there was none:

    * `PromiseTimeout`, counted from its making;
    * `PromiseInterrupted`: the link was lost, so a message may have been missed;
    * `PromiseCancelled`: its subscription was cleared or closed.

    `asyncio.CancelledError` means what it always means: somebody cancelled the task that awaits it,
    or the promise itself.

    Attributes:
        name: Where a message keeps it.
        seconds: From its making to its deadline.
        deadline: When it fails, in seconds of `time.monotonic`.
    """

    __slots__ = ("_book", "deadline", "name", "seconds")

    name: bytes
    seconds: float
    deadline: float
    _book: dict[Promise, None]

    @classmethod
    def made(cls, name: bytes, seconds: float, book: dict[Promise, None]) -> Promise:
        """Return a promise on the running loop.

        Args:
            name: Where a message keeps it.
            seconds: Until its deadline.
            book: Where it stands for as long as it is outstanding.
        """
        promise = cls(loop=asyncio.get_running_loop())
        promise.name = name
        promise.seconds = seconds
        promise.deadline = time.monotonic() + seconds
        promise._book = book
        book[promise] = None
        return promise

    @property
    def is_outstanding(self) -> bool:
        """Whether it is neither kept nor failed; its own loop may hear of that a moment later."""
        return self in self._book

    def forget(self) -> None:
        """Note that it is outstanding no more. For any thread."""
        self._book.pop(self, None)

    def settle(self, payload: bytes | None, error: Exception | None = None) -> None:
        """Keep it or fail it, from any thread; nothing happens if that was done before."""
        self.forget()
        loop = self.get_loop()
        if asyncio._get_running_loop() is loop:
            self._settle(payload, error)
        else:
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody awaits it
                loop.call_soon_threadsafe(self._settle, payload, error)

    def _settle(self, payload: bytes | None, error: Exception | None) -> None:
        if self.done():
            return
        if error is None:
            assert payload is not None
            self.set_result(payload)
        else:
            self.set_exception(error)
            self.exception()  # a promise that nobody awaits is nothing to complain about


class Ledger:
    """All outstanding promises under one prefix; subscribed to one pattern. On the home loop.

    Attributes:
        is_active: Whether Redis has confirmed the pattern. Any thread may read it.
        late: Messages that came for no promise: too late, or for nobody.
    """

    def __init__(self, hub: Hub, prefix: bytes) -> None:
        self.prefix = prefix
        self.topic = Topic(Kind.PATTERN, escape_glob(prefix) + b"*")
        self.is_active = False
        self.late = 0
        self._hub = hub
        self._outstanding: dict[bytes, dict[Promise, asyncio.TimerHandle]] = {}

    def __repr__(self) -> str:
        return f"<Ledger {self.prefix!r} outstanding={len(self._outstanding)}>"

    def enter(self, promise: Promise) -> None:
        """Take note of a promise; it may have been given up meanwhile."""
        if not promise.is_outstanding:
            return
        if not self.is_active:
            self._interrupt(promise, "the link was lost while it was being made")
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(promise.deadline - time.monotonic(), self._expire, promise)
        self._outstanding.setdefault(promise.name, {})[promise] = timer

    def strike(self, *given_up: Promise) -> None:
        """Forget promises, those of them that are still there."""
        for promise in given_up:
            promises = self._outstanding.get(promise.name)
            if promises is None or promise not in promises:
                continue
            promises.pop(promise).cancel()
            if not promises:
                del self._outstanding[promise.name]

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`: one message keeps all promises on its name."""
        if self._hub.names.covers(channel):
            return
        promises = self._outstanding.pop(channel, None)
        if promises is None:
            self.late += 1
            return
        for promise, timer in promises.items():
            timer.cancel()
            promise.settle(payload)

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""
        self.is_active = True

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`: any message may have been missed."""
        self.is_active = False
        outstanding, self._outstanding = self._outstanding, {}
        for promises in outstanding.values():
            for promise, timer in promises.items():
                timer.cancel()
                self._interrupt(promise, reason)

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`; `Activation` asks again, and gets the reason."""
        self.interrupted(str(error))

    def end(self) -> None:
        """Nobody needs it any more."""
        self._hub.leave(self.topic, self)
        self.interrupted("its subscription was closed")

    def _expire(self, promise: Promise) -> None:
        self.strike(promise)
        name, seconds = text_of(promise.name), promise.seconds
        promise.settle(None, exceptions.PromiseTimeout(name=name, seconds=seconds))

    @staticmethod
    def _interrupt(promise: Promise, reason: str) -> None:
        error = exceptions.PromiseInterrupted(name=text_of(promise.name), reason=reason)
        promise.settle(None, error)


class PromiseBoard:
    """The ledgers of one connection: one for each prefix that anybody holds.

    Args:
        hub: The connection.
        registry: Where its subscriptions are known.
    """

    def __init__(self, hub: Hub, registry: Registry) -> None:
        self.hub = hub
        self.registry = registry
        self._ledgers: dict[bytes, tuple[Ledger, set[object]]] = {}

    def __repr__(self) -> str:
        return f"<PromiseBoard {list(self._ledgers)!r}>"

    def hold(self, prefix: bytes, holder: object) -> Ledger:
        """Return the ledger of a prefix, which is wanted in Redis from now on. For any thread."""
        with self.registry.lock:
            entry = self._ledgers.get(prefix)
            if entry is None:
                entry = self._ledgers[prefix] = (Ledger(self.hub, prefix), set())
            ledger, holders = entry
            holders.add(holder)
        try:
            self.hub.post(self._begin, ledger, receiving=True)
        except exceptions.LinkUnavailable:
            self.release(prefix, holder)
            raise
        return ledger

    def release(self, prefix: bytes, holder: object) -> None:
        """Note that one holder less needs a prefix. For any thread; idempotent."""
        with self.registry.lock:
            entry = self._ledgers.get(prefix)
            if entry is None:
                return
            ledger, holders = entry
            holders.discard(holder)
            if holders:
                return
            del self._ledgers[prefix]
        self.hub.tell(ledger.end)

    def _begin(self, ledger: Ledger) -> None:
        with self.registry.lock:
            is_held = self._ledgers.get(ledger.prefix, (None,))[0] is ledger
        if is_held:
            self.hub.want(ledger.topic, ledger)


def text_of(name: bytes) -> str:
    """Return a name for people."""
    return name.decode("utf-8", "backslashreplace")
