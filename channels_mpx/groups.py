"""Groups: which mailboxes of this process are in which, and one Redis channel for each group.

A group's message crosses the wire once for each process that has members; here its header is read
once and the same bytes go into every member's mailbox. Members get a group's messages in one order.
"""

from __future__ import annotations

from collections.abc import Iterable

from .envelope import Form
from .hub import Hub
from .intake import Intake
from .mailbox import Mailbox
from .names import Kind, Topic

__all__ = ["Group", "Groups"]


class Group:
    """One group's members in this process; subscribed to the group's Redis channel."""

    __slots__ = ("_intake", "members", "name", "topic")

    def __init__(self, name: str, topic: Topic, intake: Intake) -> None:
        self.name = name
        self.topic = topic
        self.members: dict[Mailbox, None] = {}
        self._intake = intake

    def __repr__(self) -> str:
        return f"<Group {self.name} members={len(self.members)}>"

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`."""
        header = self._intake.unwrap(payload, channel)
        if header is None:
            return
        if header[0] is not Form.GROUP:
            self._intake.reject_form(header[0], channel)
            return
        body = self._intake.body(payload, header)
        for mailbox in self.members:
            mailbox.put(body)

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`."""

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`: whoever is joining gets the error and withdraws."""


class Groups:
    """The groups that have members in this process. Everything here is for the home loop.

    Args:
        hub: The connection.
        intake: Reads what arrives.
    """

    def __init__(self, hub: Hub, intake: Intake) -> None:
        self._hub = hub
        self._intake = intake
        self._groups: dict[str, Group] = {}
        self._groups_of: dict[Mailbox, list[Group]] = {}
        self._suspended: dict[Mailbox, list[str]] = {}

    def __repr__(self) -> str:
        return f"<Groups {len(self._groups)} members={len(self._groups_of)}>"

    def __len__(self) -> int:
        return len(self._groups)

    def members(self, group: str) -> Iterable[Mailbox]:
        """Return the mailboxes of this process in a group."""
        found = self._groups.get(group)
        return tuple(found.members) if found is not None else ()

    async def add(self, name: str, mailbox: Mailbox) -> None:
        """Make a mailbox a member; return when Redis has confirmed the group's channel.

        If this raises or is cancelled, the mailbox is not a member that it was not before.

        Raises:
            LinkError: See `Hub.join`.
        """
        group = self._groups.get(name)
        if group is None:
            topic = Topic(Kind.CHANNEL, self._hub.names.group(name))
            group = self._groups[name] = Group(name, topic, self._intake)
        was_member = mailbox in group.members
        if not was_member:
            group.members[mailbox] = None
            self._groups_of.setdefault(mailbox, []).append(group)
        if self._hub.want(group.topic, group):
            return
        try:
            await self._hub.join(group.topic, group)
        except BaseException:
            if not was_member:
                self.discard(name, mailbox)
            raise

    def discard(self, name: str, mailbox: Mailbox) -> None:
        """End a membership; nothing happens if there is none."""
        if name in self._suspended.get(mailbox, ()):
            self._suspended[mailbox].remove(name)
        group = self._groups.get(name)
        if group is None or mailbox not in group.members:
            return
        del group.members[mailbox]
        groups = self._groups_of[mailbox]
        groups.remove(group)
        if not groups:
            del self._groups_of[mailbox]
        if not group.members:
            del self._groups[name]
            self._hub.leave(group.topic, group)

    def discard_all(self, mailbox: Mailbox) -> tuple[str, ...]:
        """End all of a mailbox's memberships; return the names of the groups."""
        self._suspended.pop(mailbox, None)
        names = tuple(group.name for group in self._groups_of.get(mailbox, ()))
        for name in names:
            self.discard(name, mailbox)
        return names

    def suspend(self, mailbox: Mailbox) -> None:
        """End all of a mailbox's memberships until `resume`."""
        names = self.discard_all(mailbox)
        if names:
            self._suspended[mailbox] = list(names)

    async def resume(self, mailbox: Mailbox) -> None:
        """Begin again the memberships that `suspend` has ended."""
        for name in self._suspended.pop(mailbox, ()):
            await self.add(name, mailbox)

    def clear(self) -> None:
        """End all memberships."""
        self._suspended.clear()
        for mailbox in tuple(self._groups_of):
            self.discard_all(mailbox)
