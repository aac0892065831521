"""What a subscriber hears, as items for a mailbox: messages, and notices about the subscription.

The reader calls a `Reception`; whoever owns the mailbox takes the items out, where and when it
likes. Messages may be dropped by the mailbox's bounds, notices never are. So that they stay few, a
gap is told of apart from the last one only if a message came in between, or if the news of the last
one were all taken out: to whoever hears of them at last, all others are one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Collection
from typing import Any

from . import exceptions
from .body import Body
from .gap import Gap, joined
from .hub import Hub
from .mailbox import Mailbox
from .names import Kind, Topic

__all__ = ["Notice", "PubSubMessage", "Reception"]


class PubSubMessage:
    """A message that somebody published.

    Attributes:
        pattern: The pattern that it came through; None if it came for its very channel.
        channel: Where it was published.
        payload: The bytes that were published, untouched.
    """

    __slots__ = ("arrived", "channel", "pattern", "payload", "size")

    def __init__(
        self, pattern: bytes | None, channel: bytes, payload: bytes, arrived: float = 0.0
    ) -> None:
        self.pattern = pattern
        self.channel = channel
        self.payload = payload
        self.arrived = arrived
        self.size = len(channel) + len(payload) + 1

    def __repr__(self) -> str:
        through = f" through {self.pattern!r}" if self.pattern is not None else ""
        return f"<PubSubMessage on {self.channel!r}{through}: {len(self.payload)} bytes>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PubSubMessage):
            return NotImplemented
        mine = (self.pattern, self.channel, self.payload)
        return mine == (other.pattern, other.channel, other.payload)

    def __hash__(self) -> int:
        return hash((self.pattern, self.channel, self.payload))


class Notice:
    """News about a subscription.

    Attributes:
        event: ``on_activation``, ``on_disconnect``, ``on_gap`` or ``on_end``: whom to tell.
        value: What to tell: a name, an error, a `Gap`, an error.
    """

    __slots__ = ("arrived", "event", "size", "value")

    def __init__(self, event: str, value: Any) -> None:
        self.event = event
        self.value = value
        # The mailbox must neither drop it nor let it expire.
        self.size = 0
        self.arrived = math.inf

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.event} {self.value!r}>"


class Reception:
    """A subscriber that puts what it hears into a mailbox.

    The multiplexer calls it on the home loop, see `Subscriber`. It tells of one ``on_gap`` for
    each gap that began while something was wanted, after the activations that ended it. If the
    last item that waits is an ``on_gap`` and the link is lost again, it is taken out and that gap
    goes on: the next ``on_gap`` has the length of all of it.

    Args:
        hub: The connection.
        mailbox: Where the items go.
        events: The notices that somebody cares for.
    """

    #: What a notice is to whoever takes it out of the mailbox.
    notice_type: type[Notice] = Notice

    def __init__(self, hub: Hub, mailbox: Mailbox, events: Collection[str]) -> None:
        self._hub = hub
        self._mailbox = mailbox
        self._capacity = mailbox.capacity
        self._events = frozenset(events)
        #: What the activations that wait in the mailbox are of, so that each is told once.
        self._announced: set[bytes] = set()
        self._is_interrupted = False
        #: The last notice of the last gap that was told of.
        self._latest: Notice | None = None
        #: That gap, once it is over, and when it began, in seconds of `time.monotonic`.
        self._begin: tuple[float, Gap] | None = None

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`. What the layer itself sends is not for subscribers."""
        if topic.kind is not Kind.PATTERN:
            self._mailbox.put(PubSubMessage(None, channel, payload, time.monotonic()))
        elif not self._hub.names.covers(channel):
            self._mailbox.put(PubSubMessage(topic.name, channel, payload, time.monotonic()))

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""
        if topic.name not in self._announced and "on_activation" in self._events:
            self._announced.add(topic.name)
            self._notify("on_activation", topic.name)

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`. A link lost again in the same gap is no news."""
        if self._is_interrupted:
            return
        self._is_interrupted = True
        if self._goes_on():
            return
        self._latest = self._begin = None
        if len(self._mailbox) < self._capacity:
            # An activation that waits is told before this; the next one must be told after it.
            self._announced.clear()
        error = exceptions.ConnectionInterrupted(address=self._hub.address, reason=reason)
        self._notify("on_disconnect", error)

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`."""
        self._notify("on_disconnect", error)

    def gap_closed(self, gap: Gap) -> None:
        """Everything wanted is active again."""
        if not self._is_interrupted:
            return
        now = time.monotonic()
        if self._begin is None:
            self._begin = now - gap.seconds, gap
        else:
            began, first = self._begin
            gap = joined(first, gap, now - began)
        self._notify("on_gap", gap)
        self._is_interrupted = False

    def end(self, error: Exception) -> None:
        """Nothing comes any more after what waits already; say why."""
        self._notify("on_end", error)

    def taken(self, notice: Notice) -> None:
        """Note that a notice does not wait in the mailbox any more."""
        if notice.event == "on_activation":
            self._announced.discard(notice.value)

    def _notify(self, event: str, value: Any) -> None:
        if event in self._events:
            notice = self.notice_type(event, value)
            if self._is_interrupted:
                self._latest = notice
            self._mailbox.force(notice)

    def _goes_on(self) -> bool:
        """Tell whether the last gap goes on, and take its end out if it was told of."""
        latest = self._latest
        if latest is None or not self._is_last(latest):
            return False
        if latest.event != "on_gap":  # nobody cares for the end
            return True
        if not self._mailbox.withdraw(latest):  # another thread has just taken it
            return False
        self.taken(latest)
        return True

    def _is_last(self, notice: Notice) -> bool:
        """Tell whether a notice waits, and behind it nothing but what the layer says of gaps."""
        items, at = self._mailbox.items, -1
        with contextlib.suppress(IndexError):  # another thread has just taken it
            while items:
                item = items[at]
                if item is notice:
                    return True
                if not isinstance(item, Body) or item.arrived != math.inf:
                    return False
                at -= 1
        return False
