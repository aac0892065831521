"""The layer's life in one process: its channels, its groups, its worker queues.

Everything here is for the home loop, but what is said to be for any thread. A child made by fork
gets a new one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from . import exceptions
from .body import Body
from .codec import Codec
from .delegation import Delegation
from .dormancy import Dormancy
from .envelope import Form
from .gap import Gap
from .groups import Groups
from .hub import Hub
from .inbox import DirectMailbox, Inbox
from .intake import Intake
from .ledgers import PromiseBoard
from .mailbox import Mailbox, Waiter
from .registry import Registry
from .statistics import LayerStatistics, Tally
from .workers import Workers

__all__ = ["Desk", "Process"]

logger = logging.getLogger("channels_mpx.layer")

#: Keys that one UNLINK removes and one SCAN looks at.
SCAN_BATCH = 1000


class Desk:
    """A direct channel whose consumer takes the messages itself, without ``receive``.

    It never goes dormant: it ends with the consumer, by `leave`.

    Args:
        hub: The connection.
        registry: Its subscriptions.
        inbox: Where the channel is.
        intake: Counts what is no message.
        mailbox: The channel's.

    Attributes:
        mailbox: What waits there; nobody else may take any of it.
    """

    def __init__(
        self, hub: Hub, registry: Registry, inbox: Inbox, intake: Intake, mailbox: DirectMailbox
    ) -> None:
        self.hub = hub
        self.registry = registry
        self._inbox = inbox
        self._intake = intake
        self.mailbox = mailbox
        mailbox.is_owned = True
        mailbox.share()

    def __repr__(self) -> str:
        return f"<Desk {self.mailbox!r}>"

    def listen(self, waiter: Waiter) -> None:
        """Have ``waiter`` told of the next message, and see that there is a connection.

        Raises:
            ClosedError: The channel was ended.
        """
        self.mailbox.call(waiter)
        if self.hub.life is None:
            self.hub.keep_alive()

    def reject(self, body: Body, error: exceptions.DecodingError) -> None:
        """Count a body that was taken and cannot be opened: it is not delivered."""
        name = self.mailbox.name
        self._intake.reject_body(body, name, error)
        if self._inbox.mailboxes.get(name) is self.mailbox:
            self.mailbox.taken -= 1
        else:  # the channel has ended meanwhile, and what was taken from it is in the tally
            self._intake.tally.delivered -= 1

    def reject_payload(self, channel: bytes, error: exceptions.DecodingError) -> None:
        """Count a payload of a subscription that cannot be decoded."""
        self._intake.reject(channel, error)

    def leave(self) -> None:
        """End the channel and its memberships: at once if this is home, soon otherwise."""
        if not self.mailbox.loop.is_closed():  # else the inbox sees to it, see `Inbox.reap`
            self.hub.tell(self._inbox.drop, self.mailbox.name)


class Process:
    """Everything that a layer holds in one process.

    Args:
        hub: The connection.
        codec: Encodes and decodes messages.
        capacity_of: Returns how many messages may wait in a channel.
        require_group: Raises ``TypeError`` for what is no name of a group.
    """

    def __init__(
        self,
        hub: Hub,
        codec: Codec,
        capacity_of: Callable[[str], int],
        require_group: Callable[[str], object],
    ) -> None:
        self._hub = hub
        self._capacity_of = capacity_of
        self._tally = Tally()
        #: Told by name what users may want to hear of, on any thread, the reader's too.
        self.announce: Callable[..., object] = lambda event, **details: None
        self.intake = Intake(codec, self._tally, hub.options.max_message_size)
        self.intake.noticed = self._noticed
        self.groups = Groups(hub, self.intake)
        self.inbox = Inbox(hub, self.intake, self._make_direct_mailbox)
        self.workers = Workers(hub, self.intake)
        #: The subscriptions of consumers and of `MultiplexedChannelLayer.multiplexer`.
        self.registry = Registry()
        self.registry.announce = lambda event, **details: self.announce(event, **details)
        self.board = PromiseBoard(hub, self.registry)
        self.inbox.dropped = self._dropped
        self._dormancy = Dormancy(hub, self.groups, self.intake)
        self.inbox.unread = self._dormancy.begin
        self.inbox.missed = self._dormancy.end
        self.correlation = self.inbox.correlation
        self._delegation = Delegation(hub, self.intake, self.correlation, require_group)
        self._delegation.handlers = {
            "group_add": self.add_for_another,
            "group_discard": self.discard,
        }
        self.inbox.asked = self._delegation.asked

    def __repr__(self) -> str:
        return f"<Process {self._hub.process} {self.inbox!r} {self.groups!r} {self.workers!r}>"

    def is_awaited(self) -> bool:
        """See `Listener.is_awaited`: whoever has a channel, a subscription or a queue would.

        Also while it handles a message and waits for nothing: it will come for the next one.
        """
        has_channels = bool(self.inbox.mailboxes)
        return has_channels or self.workers.is_awaited() or self.registry.is_awaited()

    def expects(self) -> bool:
        """See `Listener.expects`: there are channels, or requests that wait for their replies."""
        return bool(self.inbox.mailboxes) or len(self.correlation) > 0

    def lasting(self) -> int:
        """See `Listener.lasting`: a bell that is not heard is nothing, the job stays in its queue."""
        return len(self.workers)

    def statistics(self) -> LayerStatistics:
        """Return the numbers; for any thread."""
        mailboxes = tuple(self.inbox.mailboxes.values())
        tally = self._tally
        delivered, waiting, most, deepest = tally.delivered + self.workers.taken, 0, 0, ""
        for mailbox in mailboxes:  # once, and without a call for those in which nothing waits
            delivered += mailbox.taken
            items = mailbox.items
            if items:
                count = len(items)
                waiting += count
                if count > most:
                    most, deepest = count, mailbox.name
        return LayerStatistics(
            connection=self._hub.statistics(),
            channels=len(mailboxes),
            groups=len(self.groups),
            dormant=tally.dormant,
            waiting=waiting,
            deepest=(deepest, most) if most else None,
            requests=len(self.correlation),
            sent={
                "group": tally.sent[Form.GROUP],
                "direct": tally.sent[Form.DIRECT],
                "worker": tally.sent[Form.WORKER],
                "reply": tally.sent[Form.REPLY] + tally.sent[Form.FAILURE],
            },
            delivered=delivered,
            dropped={
                "full": tally.full,
                "expired": tally.expired,
                "ended": tally.ended,
                "malformed": tally.malformed,
                "unknown": tally.unknown,
                "late": tally.late,
            },
            lag=self.intake.lag.read(time.monotonic()),
            subscriptions=self.registry.statistics(),
        )

    def desk(self, channel: str) -> Desk:
        """Give a channel of this process to a consumer that takes the messages itself; any thread.

        Raises:
            UnknownChannel: There is no such channel.
        """
        mailbox = self.inbox.find(channel)
        return Desk(self._hub, self.registry, self.inbox, self.intake, mailbox)

    async def end(self, channel: str) -> None:
        """End a channel of this process, if there is such a one."""
        self.inbox.drop(channel)

    # Memberships

    async def add(self, group: str, channel: str) -> Callable[[], None]:
        """Make a channel of this process a member of a group, and return what undoes it.

        See `Groups.add`.

        Raises:
            UnknownChannel: There is no such channel.
        """
        return await self.groups.add(group, self.inbox.find(channel))

    async def add_for_another(self, group: str, channel: str) -> None:
        """Do what `add` does for another process, which may not ask for any number of groups.

        Raises:
            UnknownChannel: There is no such channel.
            MembershipFailed: There are too many; see `Groups.require_room`.
        """
        self.groups.require_room(group, self.inbox.find(channel))
        await self.add(group, channel)

    async def discard(self, group: str, channel: str) -> None:
        """End a membership of a channel of this process, if there is one."""
        mailbox = self.inbox.mailboxes.get(channel)
        if mailbox is not None:
            self.groups.discard(group, mailbox)

    async def add_elsewhere(self, group: str, channel: str, process: str) -> None:
        """Have another process make its channel a member of a group; see `Delegation.ask`."""
        await self._delegation.ask("group_add", group, channel, process)

    async def discard_elsewhere(self, group: str, channel: str, process: str) -> None:
        """Have another process end a membership; one that is gone has none."""
        try:
            await self._delegation.ask("group_discard", group, channel, process)
        except exceptions.UnknownChannel:
            return

    async def wake(self, mailbox: DirectMailbox) -> None:
        """Somebody reads a dormant channel again: give it its groups back, and tell of the gap."""
        self._dormancy.end(mailbox)

    # Life

    async def flush(self) -> None:
        """Delete the worker queues under the prefix, and end memberships and what waits."""
        self.groups.clear()
        self.inbox.clear()
        hub, cursor = self._hub, b"0"
        while True:
            cursor, keys = await hub.command(
                b"SCAN", cursor, b"MATCH", hub.names.queues_pattern(), b"COUNT", SCAN_BATCH
            )
            if keys:
                await hub.command(b"UNLINK", *keys)
            if cursor == b"0":
                return

    async def drop_all(self) -> None:
        """End every channel; whoever waits gets `ClosedError`."""
        error = exceptions.ClosedError(what="The channel layer")
        self.inbox.drop_all(error)
        self.workers.drop_all(error)
        self.registry.close()

    # As the listener of the hub

    def tick(self) -> None:
        """See `Listener.tick`: let go of what nobody has read for too long."""
        expiry, group_expiry = self._hub.options.expiry, self._hub.options.group_expiry
        self.inbox.reap(expiry, max(expiry, group_expiry))
        self.workers.tick()
        self.registry.tick()

    def loop_ended(self, loop: asyncio.AbstractEventLoop) -> bool:
        """See `Listener.loop_ended`: its consumers are gone.

        A channel that was made there lives on as long as its name, but nobody waits or works on it
        until another loop does.
        """
        self.inbox.forget_loop(loop)
        is_outlived = self.registry.loop_ended(loop)
        is_attended = self.inbox.is_attended_outside(loop) or self.workers.is_attended_outside(loop)
        return is_outlived or is_attended

    def home_begins(self) -> bool:
        """See `Listener.home_begins`."""
        self.inbox.sweep()
        return self.is_awaited()

    def linked(self, epoch: int) -> None:
        """See `Listener.linked`."""
        self.announce("connected", epoch=epoch)

    def unlinked(self, reason: str) -> None:
        """See `Listener.unlinked`."""
        self.announce("disconnected", reason=reason)

    def gap_opened(self, reason: str) -> None:
        """See `Listener.gap_opened`: every consumer gets a message, if one is configured."""
        kind = self._hub.options.on_disconnect
        # The registry first: a notice of the last gap is found behind the inbox's message of it,
        # but that message only if it is the last.
        self.registry.gap_opened(reason)
        self.inbox.gap_opened(None if kind is None else self._notice(type=kind, reason=reason))

    def gap_went_on(self, reason: str) -> None:
        """See `Listener.gap_went_on`."""
        self.registry.gap_went_on(reason)

    def gap_closed(self, gap: Gap) -> None:
        """See `Listener.gap_closed`: every consumer gets a message, if one is configured."""
        self.registry.gap_closed(gap)
        self.announce("gap", gap=gap)
        kind = self._hub.options.on_reconnect
        if kind is not None:
            self.inbox.gap_closed(
                gap,
                lambda it: self._notice(
                    type=kind,
                    reason=it.reason,
                    seconds=it.seconds,
                    since=it.since.timestamp(),
                    epoch=it.epoch,
                ),
            )

    def _dropped(self, mailbox: Mailbox) -> None:
        self.groups.discard_all(mailbox)
        loop = asyncio._get_running_loop()
        if loop is not None:  # who was just handed a message counts it when his task runs: sooner
            loop.call_soon(self._count_late, mailbox, mailbox.taken)

    def _count_late(self, mailbox: Mailbox, counted: int) -> None:
        self._tally.delivered += mailbox.taken - counted

    def _notice(self, **message: str | float) -> Body:
        return Body.made(self.intake.codec, dict(message), math.inf)

    # Mailboxes, and what is no message

    def _noticed(self, where: str, reason: str) -> None:
        self.announce("bad_message", where=where, reason=reason)

    def _make_direct_mailbox(self, channel: str) -> DirectMailbox:
        options = self._hub.options
        return DirectMailbox(
            channel,
            self._capacity_of(channel),
            options.channel_max_bytes,
            options.expiry,
            self._tally,
            self,
        )

    def overflowed(self, mailbox: Mailbox) -> None:
        """See `Observer.overflowed`."""
        logger.warning(
            "channels_mpx: channel %s is full (%d messages); dropping what comes until its consumer has caught up",
            mailbox.name,
            len(mailbox),
        )
        self.announce("overflow", channel=mailbox.name, waiting=len(mailbox))

    def relieved(self, mailbox: Mailbox, dropped: int) -> None:
        """See `Observer.relieved`."""
        logger.warning(
            "channels_mpx: channel %s has caught up; %d messages were dropped",
            mailbox.name,
            dropped,
        )
