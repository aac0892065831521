"""The layer's life in one process: its channels, its groups, its worker queues.

Everything here is for the home loop, but what is said to be for any thread. A child made by fork
gets a new one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from . import exceptions
from .codec import Body, Codec
from .gap import Gap
from .groups import Groups
from .hub import Hub
from .inbox import DirectMailbox, Inbox
from .intake import Intake
from .ledgers import PromiseBoard
from .mailbox import Mailbox
from .registry import Registry
from .serializers import Message
from .statistics import LayerStatistics, Tally
from .workers import Workers

__all__ = ["Process"]

logger = logging.getLogger("channels_mpx.layer")

#: Keys that one UNLINK removes and one SCAN looks at.
SCAN_BATCH = 1000


class Process:
    """Everything that a layer holds in one process.

    Args:
        hub: The connection.
        codec: Encodes and decodes messages.
        capacity_of: Returns how many messages may wait in a channel.
    """

    def __init__(self, hub: Hub, codec: Codec, capacity_of: Callable[[str], int]) -> None:
        self._hub = hub
        self._capacity_of = capacity_of
        self._tally = Tally()
        self.intake = Intake(codec, self._tally)
        self.groups = Groups(hub, self.intake)
        self.inbox = Inbox(hub, self.intake, self._make_direct_mailbox)
        self.workers = Workers(hub, self.intake, self._make_mailbox)
        #: The subscriptions of consumers and of `MultiplexedChannelLayer.multiplexer`.
        self.registry = Registry()
        self.board = PromiseBoard(hub, self.registry)
        self.inbox.dropped = self.groups.discard_all
        self.inbox.went_dormant = self.groups.suspend
        self.inbox.handlers = {"group_add": self._add_asked, "group_discard": self._discard_asked}

    def __repr__(self) -> str:
        return f"<Process {self._hub.process} {self.inbox!r} {self.groups!r} {self.workers!r}>"

    def is_awaited(self) -> bool:
        """See `Listener.is_awaited`."""
        return self.registry.is_awaited() or self._is_awaited_outside(None)

    def statistics(self) -> LayerStatistics:
        """Return the numbers; for any thread."""
        mailboxes = tuple(self.inbox.mailboxes.values())
        deepest = max(mailboxes, key=len, default=None)
        tally = self._tally
        return LayerStatistics(
            connection=self._hub.statistics(),
            channels=len(mailboxes),
            groups=len(self.groups),
            waiting=sum(map(len, mailboxes)),
            deepest=(deepest.name, len(deepest)) if deepest else None,
            delivered=tally.delivered
            + self.workers.taken
            + sum(mailbox.taken for mailbox in mailboxes),
            dropped={
                "full": tally.full,
                "expired": tally.expired,
                "malformed": tally.malformed,
                "unknown": tally.unknown,
            },
        )

    # Memberships

    async def add(self, group: str, channel: str) -> None:
        """Make a channel of this process a member of a group; see `Groups.add`.

        Raises:
            UnknownChannel: There is no such channel.
        """
        await self.groups.add(group, self.inbox.find(channel))

    async def discard(self, group: str, channel: str) -> None:
        """End a membership of a channel of this process, if there is one."""
        mailbox = self.inbox.mailboxes.get(channel)
        if mailbox is not None:
            self.groups.discard(group, mailbox)

    async def add_elsewhere(self, group: str, channel: str, process: str) -> None:
        """Have another process make its channel a member of a group; see `Inbox.ask`."""
        await self.inbox.ask(channel, process, "group_add", group=group)

    async def discard_elsewhere(self, group: str, channel: str, process: str) -> None:
        """Have another process end a membership; one that is gone has none."""
        try:
            await self.inbox.ask(channel, process, "group_discard", group=group)
        except exceptions.UnknownChannel:
            return

    async def wake(self, mailbox: DirectMailbox) -> None:
        """Somebody reads a dormant channel again: give it its groups back."""
        mailbox.is_dormant = False
        self.groups.resume(mailbox)

    async def _add_asked(self, request: Message) -> None:
        await self.add(request["group"], request["channel"])

    async def _discard_asked(self, request: Message) -> None:
        await self.discard(request["group"], request["channel"])

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
        """See `Listener.tick`: let go of what nobody has read for ``expiry`` seconds."""
        expiry = self._hub.options.expiry
        self.inbox.reap(expiry)
        self.workers.reap(expiry)
        self.registry.tick()

    def loop_ended(self, loop: asyncio.AbstractEventLoop) -> bool:
        """See `Listener.loop_ended`: its consumers are gone."""
        self.inbox.forget_loop(loop)
        is_outlived = self.registry.loop_ended(loop)
        return self._is_awaited_outside(loop) or is_outlived

    def gap_opened(self, reason: str) -> None:
        """See `Listener.gap_opened`: every consumer gets a message, if one is configured."""
        self.registry.gap_opened(reason)
        if self._hub.options.on_disconnect is not None:
            self._tell_all({"type": self._hub.options.on_disconnect, "reason": reason})

    def gap_closed(self, gap: Gap) -> None:
        """See `Listener.gap_closed`: every consumer gets a message, if one is configured."""
        self.registry.gap_closed(gap)
        if self._hub.options.on_reconnect is not None:
            self._tell_all({"type": self._hub.options.on_reconnect, "seconds": gap.seconds})

    def _is_awaited_outside(self, ended: asyncio.AbstractEventLoop | None) -> bool:
        mailboxes = tuple(self.inbox.mailboxes.values())
        is_any = any(mailbox.is_awaited_outside(ended) for mailbox in mailboxes)
        return is_any or self.workers.is_awaited(ended)

    def _tell_all(self, message: Message) -> None:
        self.inbox.put_to_all(Body.made(self.intake.codec, message, time.monotonic()))

    # Mailboxes

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

    def _make_mailbox(self, channel: str) -> Mailbox:
        """Make the mailbox behind a worker channel; Redis keeps the bounds of its queue."""
        return Mailbox(channel, 2**31, 2**62, self._hub.options.expiry, self._tally, self)

    def overflowed(self, mailbox: Mailbox) -> None:
        """See `Observer.overflowed`."""
        logger.warning(
            "! %s is full (%d messages): dropping what comes until its consumer has caught up",
            mailbox.name,
            len(mailbox),
        )

    def relieved(self, mailbox: Mailbox, dropped: int) -> None:
        """See `Observer.relieved`."""
        logger.warning("= %s has caught up; %d messages were dropped", mailbox.name, dropped)
