"""One consumer's bounded queue of undecoded messages.

Messages are put on the multiplexer's loop and taken on the consumer's; the two may be the same,
and may be in different threads. ``put`` never waits: what does not fit is dropped, counted and
reported once per episode. An episode ends when the consumer has taken everything. What must not
be dropped, because there is never much of it, is put with ``force``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from typing import Protocol

from .policies import Overflow
from .statistics import Tally
from .waiting import Item, Waiter, WaitingRoom

__all__ = ["Item", "Mailbox", "Observer", "Waiter"]


class Observer(Protocol):
    """Whoever wants to know about a mailbox that overflows."""

    def overflowed(self, mailbox: Mailbox) -> None:
        """An episode begins: the first message was dropped."""

    def relieved(self, mailbox: Mailbox, dropped: int) -> None:
        """The episode is over; so many messages were dropped in it."""


class Mailbox(WaitingRoom):
    """A first-in-first-out queue with two bounds and an expiry.

    Args:
        name: The channel, for people.
        capacity: The most messages that wait.
        max_bytes: The most bytes that wait; one message always fits into an empty mailbox.
        expiry: Seconds after which a message that waits is dropped; `math.inf`: never.
        tally: Where drops and deliveries are counted as well.
        observer: Told when an episode of drops begins and ends.
        policy: What to do when it is full.

    Attributes:
        dropped: Messages dropped because the mailbox was full.
        items: What waits, to be looked at only; None or empty if nothing does.
        taken: Messages that a consumer got.
    """

    __slots__ = (
        "__weakref__",
        "_closed_by",
        "_episode",
        "_idle_since",
        "_observer",
        "_seen",
        "_tally",
        "bytes_in",
        "bytes_out",
        "capacity",
        "dropped",
        "expiry",
        "items",
        "max_bytes",
        "name",
        "policy",
        "taken",
    )

    def __init__(
        self,
        name: str,
        capacity: int,
        max_bytes: int,
        expiry: float,
        tally: Tally,
        observer: Observer,
        policy: Overflow = Overflow.DROP_NEWEST,
    ) -> None:
        super().__init__()
        self.name = name
        self.capacity = capacity
        self.max_bytes = max_bytes
        self.expiry = expiry
        self.policy = policy
        self.dropped = 0
        self.taken = 0
        self._seen = 0
        self._idle_since = time.monotonic()
        # Each of the two is written by one thread only, so no lock guards their difference.
        self.bytes_in = 0
        self.bytes_out = 0
        self._tally = tally
        self._observer = observer
        self._episode = 0
        # An idle consumer has no queue: an empty deque is 600 bytes.
        self.items: deque[Item] | None = None
        self._closed_by: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Mailbox {self.name} {len(self)}/{self.capacity} dropped={self.dropped}>"

    def __len__(self) -> int:
        return len(self.items) if self.items else 0

    @property
    def is_full(self) -> bool:
        """Whether as many messages wait as may, not counting those that have expired."""
        if len(self) < self.capacity:
            return False
        now = time.monotonic()
        items = tuple(self.items or ())
        return sum(now - item.arrived <= self.expiry for item in items) >= self.capacity

    def idle(self, now: float) -> float:
        """Return for how many seconds nobody has read or waited, as far as these calls have seen.

        ``now`` is in seconds of `time.monotonic`.
        """
        if self._waiters or self.taken != self._seen:
            self._seen = self.taken
            self._idle_since = now
        return now - self._idle_since

    def touch(self) -> None:
        """Begin to count idleness anew: somebody has shown an interest. For the thread of `idle`."""
        self._idle_since = time.monotonic()

    def share(self) -> None:
        """Allow two threads to put items: one with `put`, one with `force`."""
        self.items = self.items or deque()

    def put(self, item: Item) -> bool:
        """Add a message at the end; never waits. Returns whether there was room."""
        items = self.items
        if self._closed_by is not None:
            return False
        if items:
            size = self.bytes_in - self.bytes_out + item.size
            if (len(items) >= self.capacity or size > self.max_bytes) and not self._make_room(item):
                return False
        elif self._waiters:
            # Whoever waits on this very loop gets it into his hands; the queue stays empty.
            waiter = self._first_waiter_here()
            if waiter is not None:
                waiter.set_result(item)
                return True
        if items is None:
            items = self.items = deque()
        items.append(item)
        self.bytes_in += item.size
        if self._waiters:
            self._wake()
        return True

    def force(self, item: Item) -> None:
        """Add what must not be dropped, whatever the bounds: there must never be much of it.

        Args:
            item: Of size 0, which marks it, and arrived at `math.inf`, so that it never expires.
        """
        if self._closed_by is not None:
            return
        items = self.items
        if items is None:
            items = self.items = deque()
        items.append(item)
        if self._waiters:
            self._wake()

    def take(self) -> Item | None:
        """Remove and return the oldest message that has not expired; None if there is none."""
        items = self.items
        if not items:
            return None
        try:
            if self.expiry is not math.inf:
                now = time.monotonic()
                if now - items[0].arrived > self.expiry:
                    self.bytes_out += self._shed(now)
            item: Item | None = items.popleft()
        except IndexError:  # nothing is left, or another thread has just taken the last one out
            item = None
        if item is not None:
            self.bytes_out += item.size
            self.taken += 1
        if self._episode:
            self._end_episode()
        return item

    async def get(self) -> Item:
        """Remove and return the oldest message, waiting for one if there is none.

        Several may wait; each message goes to one of them. Cancelling loses nothing: a message
        is removed only when it is returned.

        Raises:
            BaseException: What `close` was given.
        """
        while (item := self.take()) is None:
            waiter = self.arrival()
            try:
                item = await waiter
            except BaseException:  # cancellation too: a message in hand goes back
                self.abandon(waiter)
                raise
            if item is not None:
                self.taken += 1
                break
        return item

    def arrival(self) -> asyncio.Future[Item | None]:
        """Return a future for the next message; None when `take` is worth another try.

        Await it on this loop, pass it to `abandon` if that is cut short, and count what it
        brought in ``taken``.

        Raises:
            BaseException: What `close` was given.
        """
        if self._closed_by is not None:
            raise self._closed_by
        # Half the time of the loop's own ``create_future()`` for the same; and `call`, written out.
        waiter: asyncio.Future[Item | None] = asyncio.Future()
        self._waiters.append(waiter)
        if self.items or self._closed_by is not None:
            self.forget(waiter)
            waiter.set_result(None)
        return waiter

    def call(self, waiter: Waiter) -> None:
        """Have ``waiter``, of this loop, told of the next message. See `arrival`.

        Raises:
            BaseException: What `close` was given.
        """
        if self._closed_by is not None:
            raise self._closed_by
        self._waiters.append(waiter)
        if self.items or self._closed_by is not None:
            # Another thread was quicker, and saw no waiter.
            self.forget(waiter)
            if not waiter.done():
                waiter.set_result(None)

    def abandon(self, waiter: asyncio.Future[Item | None]) -> None:
        """Stop waiting: a message that this waiter was woken for is somebody else's."""
        self.forget(waiter)
        if waiter.done() and not waiter.cancelled() and (item := waiter.result()) is not None:
            self._put_back(item)
        if self.items:
            self._wake()

    def _put_back(self, item: Item) -> None:
        """Put a message where it was, before all that came later."""
        if self._closed_by is not None:
            return
        items = self.items
        if items is None:
            items = self.items = deque()
        at = 0
        with contextlib.suppress(IndexError):  # behind all, or another thread has just taken one
            while items[at].arrived < item.arrived:
                at += 1
        items.insert(at, item)
        self.bytes_in += item.size

    def expire(self, now: float) -> None:
        """Drop what has waited too long at ``now``, in seconds of `time.monotonic`.

        For the thread that puts.
        """
        self.bytes_in -= self._shed(now)

    def _shed(self, now: float) -> int:
        """Drop what has expired, from any thread; return its bytes, for the caller to subtract."""
        size = 0
        while (item := self._oldest()) is not None and now - item.arrived > self.expiry:
            if self.withdraw(item):
                size += item.size
                self._tally.expired += 1
                self._unread(item)
        self._end_episode()
        return size

    def clear(self) -> int:
        """Drop what waits, but what was forced, without counting it as lost. Returns how much.

        For the thread that puts.
        """
        held = 0
        while (item := self._oldest()) is not None:
            if self.withdraw(item):
                held += 1
                self.bytes_in -= item.size
                self._unread(item)
        self._end_episode()
        return held

    def withdraw(self, item: Item) -> bool:
        """Take this very item out, wherever it is; tell whether it still waited.

        Its size is the caller's business.
        """
        while items := self.items:  # None as soon as another thread closes it
            try:
                items.remove(item)
            except IndexError:  # another thread has put or taken one meanwhile
                continue
            except ValueError:  # or this very one
                break
            return True
        return False

    def _oldest(self) -> Item | None:
        """Return the oldest item that was not forced; None if there is none."""
        while items := self.items:
            try:
                return next((item for item in items if item.arrived != math.inf), None)
            except RuntimeError:  # another thread has put or taken one meanwhile
                continue
        return None

    def _unread(self, item: Item) -> None:
        """An item was dropped after it had waited in vain: for those to whom that matters."""

    def close(self, error: BaseException) -> None:
        """Make everybody who waits, now or later, raise ``error``."""
        self._closed_by = error
        self.items = None
        self._end_episode()
        while self._waiters:
            self._wake()

    def _make_room(self, item: Item) -> bool:
        """Drop something: what has expired, this message, or what it is more important than.

        Returns whether it fits now.
        """
        if self.expiry is not math.inf and self._shed_for(item.size):
            return True
        if self._episode and self.policy is Overflow.CLOSE:
            return False
        has_room = self.policy is Overflow.DROP_OLDEST and self._drop_oldest(item.size)
        if not has_room:
            self._count_drop()
        return has_room

    def _shed_for(self, size: int) -> bool:
        """Drop what has expired, if anything has; return whether that makes room for ``size``."""
        items, now = self.items, time.monotonic()
        try:
            age = now - items[0].arrived if items else 0.0
        except IndexError:  # another thread has just taken the last one out
            age = 0.0
        if -math.inf < age <= self.expiry:  # the first that waits was not forced, and is good
            return not items
        self.expire(now)
        return self._fits(size)

    def _drop_oldest(self, size: int) -> bool:
        """Drop the oldest until ``size`` more bytes fit; False if what is left must stay."""
        items = self.items
        assert items is not None
        while not self._fits(size):
            try:
                oldest = next(item for item in items if item.size)
                items.remove(oldest)
            except (StopIteration, RuntimeError, IndexError, ValueError):
                return False  # nothing may be dropped, or another thread has just taken something
            self.bytes_in -= oldest.size
            self._count_drop()
        return True

    def _fits(self, size: int) -> bool:
        items, held = self.items, self.bytes_in - self.bytes_out
        return not items or (len(items) < self.capacity and held + size <= self.max_bytes)

    def _count_drop(self) -> None:
        self.dropped += 1
        self._tally.full += 1
        self._episode += 1
        if self._episode == 1:
            self._observer.overflowed(self)

    def _end_episode(self) -> None:
        """If nothing waits any more, say what was dropped since it was too much."""
        if self._episode and not self.items:
            dropped, self._episode = self._episode, 0
            self._observer.relieved(self, dropped)
