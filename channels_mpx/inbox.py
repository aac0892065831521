"""The one Redis channel of a process: direct channels, requests and replies.

A direct channel is a number behind the process's inbox, so making one costs no I/O and ten
thousand consumers cost one subscription. It lives as long as its name: `ChannelName` is a string
that can be watched, the consumer holds it, and when the consumer is gone, however it ended, the
name is collected and the mailbox with it. Event loops may come and go meanwhile; without one that
is open it ends after ``expiry`` seconds in which nobody has read.

A consumer that lives but has not read for ``group_expiry`` seconds is *dormant*: it leaves its
groups, so that nothing is delivered to a reader that may never come back. When it does, it joins
them again and is told of a gap.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import time
import weakref
from collections import deque
from collections.abc import Callable
from datetime import datetime

from . import exceptions
from .body import Body
from .correlation import FULL, GONE, Correlation
from .envelope import Envelope, Form
from .gap import Gap, joined
from .hub import Hub
from .intake import Intake
from .mailbox import Item, Mailbox
from .names import Topic

__all__ = ["ChannelName", "DirectMailbox", "Inbox"]


class ChannelName(str):
    """The name of a direct channel; its channel lives as long as it does."""

    __slots__ = ("__weakref__",)


class _NameWatch(weakref.ref[ChannelName]):
    """Tells which channel's name is gone."""

    __slots__ = ("local",)

    local: bytes


class DirectMailbox(Mailbox):
    """The mailbox of a direct channel.

    Attributes:
        local: The channel's name behind the ``!``.
        loop: Where it was made, or, once that loop is closed, somebody waited when last looked at.
        is_dormant: Whether it has left its groups because nobody reads.
        dormant_since: If so: since when, on the monotonic clock and on the wall's.
        is_owned: Whether a consumer takes the messages itself, for as long as it lives.
        bounce: Called with the return address of a request that was dropped unread; any thread.
    """

    __slots__ = (
        *("_back", "_lost", "_since"),
        *("bounce", "dormant_since", "is_dormant", "is_owned", "local", "loop", "watch"),
    )

    local: bytes
    loop: asyncio.AbstractEventLoop
    watch: _NameWatch
    is_dormant: bool
    dormant_since: tuple[float, datetime]
    is_owned: bool
    bounce: Callable[[bytes], object]
    #: The last notices of a gap's begin and of its end, and when that gap began, on the monotonic
    #: clock, and what it was.
    _lost: Body | None
    _back: Body | None
    _since: tuple[float, Gap] | None

    def begin(self, number: bytes, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to a channel that nobody has read yet."""
        self.local = number
        self.loop = loop
        self.is_dormant = self.is_owned = False
        self.dormant_since = 0.0, datetime.min
        self._lost = self._back = self._since = None

    def woke(self, notice: Body | None) -> None:
        """Put the notice of a gap that began when it went dormant; `gap_closed` ends it."""
        self.is_dormant = False
        self.gap_opened(notice)
        if self._since is not None and self.dormant_since[0] < self._since[0]:
            # That gap goes on, and this one began before it.
            began, since = self.dormant_since
            self._since = began, dataclasses.replace(self._since[1], since=since)

    # Gaps. Notices are forced, or a full mailbox would lose them. A gap is told of apart from the
    # last one only if a message came in between; so they are no more than the messages allow.

    def gap_opened(self, notice: Body | None) -> None:
        """Put the notice that the connection is lost, if there is one, even into a full mailbox.

        If nothing has come since the unread notice that it is back, that one is taken out
        instead: to whoever hears of the two gaps, they are one.
        """
        back, self._back = self._back, None
        if back is not None and self._ends_with(back) and self.withdraw(back):
            return
        self._since = None
        if notice is not None and not self._ends_with(self._lost):
            self._lost = notice
            self.force(notice)

    def gap_closed(self, gap: Gap, notice: Body, make: Callable[[Gap], Body]) -> None:
        """Put the notice that the connection is back, even into a full mailbox.

        Args:
            gap: The gap.
            notice: What tells of it.
            make: Returns what tells of a longer one.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now - gap.seconds, gap
        else:
            began, first = self._since
            notice = make(joined(first, gap, now - began))
        self._back = notice
        self.force(notice)

    def _ends_with(self, item: Item | None) -> bool:
        try:
            return self.items is not None and self.items[-1] is item
        except IndexError:  # it is empty
            return False

    def _unread(self, item: Item) -> None:
        if isinstance(item, Body) and item.address:
            self.bounce(item.address)

    @property
    def is_held(self) -> bool:
        """Whether its channel's name is still somebody's, or somebody waits."""
        return self.watch() is not None or self.is_awaited

    def messages(self) -> list[Item]:
        """Return the messages that wait in it, without what was forced."""
        return [item for item in tuple(self.items or ()) if item.arrived != math.inf]


class Inbox:
    """Makes direct channels and gives each its messages.

    Args:
        hub: The connection.
        intake: Reads what arrives.
        make_mailbox: Makes the mailbox for a channel's name.
    """

    def __init__(
        self, hub: Hub, intake: Intake, make_mailbox: Callable[[str], DirectMailbox]
    ) -> None:
        self._hub = hub
        self._intake = intake
        self._make_mailbox = make_mailbox
        self._numbers = itertools.count(1)
        self._by_local: dict[bytes, DirectMailbox] = {}
        #: Mailboxes by the full name of their channel.
        self.mailboxes: dict[str, DirectMailbox] = {}
        self._collected: deque[bytes] = deque()
        #: Of those, the channels that a copy of their name is awaited on: to be looked at again.
        self._copied: deque[bytes] = deque()
        #: Whether a sweep is due that sees the next name that is collected.
        self._is_sweep_due = False
        self._is_open = False
        #: The requests of this process that wait for replies.
        self.correlation = correlation = Correlation(hub, intake, self)
        self._bounce = lambda address: hub.tell(correlation.bounce, address, GONE)
        #: Called on the reader with what another process asks of this one.
        self.asked: Callable[[bytes, Envelope], object] = lambda payload, header: None
        #: Called with a mailbox that is dropped.
        self.dropped: Callable[[Mailbox], object] = lambda mailbox: None
        #: Called with a mailbox that nobody reads, and the seconds since it was read: again and
        #: again for as long as it is so.
        self.unread: Callable[[DirectMailbox, float], object] = lambda mailbox, seconds: None
        #: Called with a dormant mailbox that somebody waits on.
        self.missed: Callable[[DirectMailbox], object] = lambda mailbox: None

    def __repr__(self) -> str:
        return f"<Inbox {self._hub.process} channels={len(self.mailboxes)}>"

    # Direct channels, on the home loop

    async def open(self, prefix: str, loop: asyncio.AbstractEventLoop) -> ChannelName:
        """Make a direct channel and return its name.

        Only the first one waits: until Redis has confirmed the inbox.

        Args:
            prefix: The beginning of the name.
            loop: Where its consumer runs.
        """
        if not self._is_open:
            await self._hub.join(self._hub.inbox, self)
            self._is_open = True
        number = b"%d" % next(self._numbers)
        text = f"{prefix}{self._hub.process}!{number.decode()}"
        name = ChannelName(text)
        mailbox = self._make_mailbox(text)
        mailbox.begin(number, loop)
        mailbox.bounce = self._bounce
        mailbox.watch = _NameWatch(name, self._name_collected)
        mailbox.watch.local = number
        self._by_local[number] = self.mailboxes[text] = mailbox
        return name

    def find(self, channel: str) -> DirectMailbox:
        """Return the mailbox of a direct channel of this process.

        Raises:
            UnknownChannel: There is none.
        """
        try:
            return self.mailboxes[channel]
        except KeyError:
            raise exceptions.UnknownChannel(channel=str(channel)) from None

    def waiting(self) -> dict[str, int]:
        """Return each channel that somebody holds, and how many messages wait in it. Any thread."""
        now = time.monotonic()
        return {
            name: sum(now - item.arrived <= mailbox.expiry for item in mailbox.messages())
            for name, mailbox in self.mailboxes.copy().items()
            if mailbox.is_held
        }

    def sweep(self) -> None:
        """Drop the channels whose names have been collected."""
        self._is_sweep_due = False  # first: a name that is collected from now on asks for the next
        while self._collected:
            local = self._collected.popleft()
            mailbox = self._by_local.get(local)
            if mailbox is None:
                continue
            if mailbox.is_awaited:
                self._copied.append(local)
            else:
                self._drop(local)

    def reap(self, expiry: float, group_expiry: float) -> None:
        """Let go of what nobody reads.

        Args:
            expiry: Seconds after which messages that wait are dropped.
            group_expiry: Seconds after which `unread` is called.
        """
        self._collected.extend(self._copied)
        self._copied.clear()
        self.sweep()
        now = time.monotonic()
        for mailbox in tuple(self._by_local.values()):
            loop = mailbox.living_loop()
            if mailbox.loop.is_closed():
                if loop is not None:
                    mailbox.loop = loop
                elif mailbox.is_owned or mailbox.idle(now) > expiry:
                    self._drop(mailbox.local)
                    continue
            if mailbox.is_dormant and loop is not None:
                # In another thread somebody began to wait while it went dormant, and saw neither.
                self.missed(mailbox)
            if mailbox.idle(now) > expiry:
                mailbox.expire(now)
                if mailbox.idle(now) > group_expiry and not mailbox.is_owned:
                    self.unread(mailbox, mailbox.idle(now))

    def drop(self, channel: str) -> None:
        """End a channel at once; whoever waits for a message gets `ClosedError`. Idempotent."""
        mailbox = self.mailboxes.get(channel)
        if mailbox is not None:
            self._drop(mailbox.local)
            mailbox.close(exceptions.ClosedError(what=f"The channel {mailbox.name}"))

    def drop_all(self, error: Exception) -> None:
        """End every channel; whoever waits for a message or a reply gets ``error``."""
        self.correlation.drop_all(error)
        for local in tuple(self._by_local):
            mailbox = self._by_local[local]
            self._drop(local)
            mailbox.close(error)

    def gap_opened(self, notice: Body | None) -> None:
        """Tell every channel that the connection is lost; see `DirectMailbox.gap_opened`."""
        for mailbox in self._by_local.values():
            mailbox.gap_opened(notice)

    def gap_closed(self, gap: Gap, make: Callable[[Gap], Body]) -> None:
        """Tell every channel that the connection is back.

        Args:
            gap: The gap.
            make: Returns what tells of it, or of a longer one.
        """
        notice = make(gap)
        for mailbox in self._by_local.values():
            mailbox.gap_closed(gap, notice, make)

    def clear(self) -> None:
        """Drop what waits in the mailboxes, and send the requests back; the channels stay."""
        for mailbox in self._by_local.values():
            mailbox.clear()

    def is_attended_outside(self, ended: asyncio.AbstractEventLoop) -> bool:
        """Tell whether a channel has a consumer on another loop than this, which has ended."""
        for mailbox in tuple(self._by_local.values()):
            if mailbox.loop is not ended and not mailbox.loop.is_closed():
                return True
            waits_on = mailbox.living_loop()
            if waits_on is not None and waits_on is not ended:
                return True
        return False

    def forget_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that a home loop has ended or stopped: what was asked there gets no answer.

        Channels live as long as their names; but those whose consumers take the messages
        themselves, on that loop, end.
        """
        reason = "its event loop ended"
        error = exceptions.LinkLost(address=self._hub.address, reason=reason)
        self.correlation.drop_all(error)
        for mailbox in tuple(self._by_local.values()):
            if mailbox.loop is loop and mailbox.is_owned:
                self._drop(mailbox.local)
                mailbox.close(exceptions.ClosedError(what="The event loop of the channel"))

    def _name_collected(self, watch: weakref.ref[ChannelName]) -> None:
        """Note that a name is gone. Any thread may collect, in the middle of anything: no locks."""
        assert isinstance(watch, _NameWatch)
        self._collected.append(watch.local)
        if not self._is_sweep_due:
            self._is_sweep_due = True  # without a home it stays due until the next one's first tick
            self._hub.wake(self.sweep)

    def _drop(self, local: bytes) -> None:
        mailbox = self._by_local.pop(local)
        del self.mailboxes[mailbox.name]
        tally = self._intake.tally
        tally.delivered += mailbox.taken
        for item in mailbox.messages():
            tally.ended += 1
            if isinstance(item, Body) and item.address:
                self.correlation.bounce(item.address, GONE)
        self.dropped(mailbox)

    # Messages, on the reader

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`."""
        header = self._intake.unwrap(payload, channel)
        if header is None:
            return
        form, _, target, _, address = header
        if form is Form.DIRECT:
            mailbox = self._by_local.get(target)
            if mailbox is None:
                self._intake.tally.unknown += 1
                if address:
                    self.correlation.bounce(address, GONE)
            elif not mailbox.put(self._intake.body(payload, header, channel)) and address:
                self.correlation.bounce(address, FULL)
        elif form is Form.REPLY or form is Form.FAILURE:
            self.correlation.settle(form, target, self._intake.body(payload, header, channel))
        elif form is Form.CONTROL:
            self.asked(payload, header)
        elif form is not Form.PROBE:
            self._intake.reject_form(form, channel)

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`: replies that were on their way are missed."""
        self.correlation.interrupted(reason)

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`: the next channel asks again."""
        self._is_open = False
