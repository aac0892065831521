"""Groups: which mailboxes of this process are in which, and one Redis channel for each group.

A group's message crosses the wire once for each process that has members; here its header is read
once and the same bytes go into every member's mailbox. Members get a group's messages in one order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from . import exceptions
from .envelope import Form
from .escaping import escape
from .hub import Hub
from .intake import Intake
from .mailbox import Mailbox
from .names import Kind, Topic

__all__ = ["Group", "Groups"]

logger = logging.getLogger("channels_mpx.layer")

#: Groups of one channel, and groups with members in this process, that other processes may ask for.
#: Whoever may publish to an inbox can ask; each group is a subscription and some memory for ever.
MAX_OF_CHANNEL: Final = 1_000
MAX_GROUPS: Final = 100_000


class Group:
    """One group's members in this process; subscribed to the group's Redis channel.

    Attributes:
        members: Each mailbox; false until its membership is confirmed, and then its mark: who has
            made the membership can still undo it while the mark is the one that it got.
    """

    __slots__ = ("_groups", "_intake", "joining", "members", "name", "topic")

    def __init__(self, name: str, topic: Topic, intake: Intake, groups: Groups) -> None:
        self.name = name
        self.topic = topic
        self.members: dict[Mailbox, object] = {}
        #: How many callers wait for the confirmation of each membership.
        self.joining: dict[Mailbox, int] = {}
        self._intake = intake
        self._groups = groups

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
        body = self._intake.body(payload, header, channel)
        for mailbox in self.members:
            mailbox.put(body)

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`: members that come back from dormancy hear everything now."""
        self._groups.activated(self)

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`."""

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`: whoever is joining gets the error; nobody is a member."""
        self._groups.dissolve(self)


class _Return:
    """A mailbox that comes back to its groups: how many of them Redis has yet to confirm."""

    __slots__ = ("_left", "_tell", "mailbox")

    def __init__(self, mailbox: Mailbox, tell: Callable[[], object]) -> None:
        self.mailbox = mailbox
        self._left = 0
        self._tell = tell

    def expect(self) -> None:
        self._left += 1

    def settle(self) -> None:
        self._left -= 1
        if not self._left:
            self._tell()


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
        #: Who waits for the confirmation of which group to be back in all of its groups.
        self._returning: dict[Group, list[_Return]] = {}

    def __repr__(self) -> str:
        return f"<Groups {len(self._groups)} members={len(self._groups_of)}>"

    def __len__(self) -> int:
        return len(self._groups)

    def members(self) -> dict[str, dict[str, bool]]:
        """Return each group's channels, and whether each membership is confirmed. Any thread."""
        return {
            name: {mailbox.name: bool(mark) for mailbox, mark in group.members.copy().items()}
            for name, group in self._groups.copy().items()
        }

    async def add(self, name: str, mailbox: Mailbox) -> Callable[[], None]:
        """Make a mailbox a member; return when Redis has confirmed the group's channel.

        If this raises or is cancelled, the mailbox is not a member that it was not before.

        Returns:
            What undoes it: nothing changes if the mailbox was a member before, or if it was added
            again since.

        Raises:
            LinkError: See `Hub.join`.
        """
        group = self._enter(name, mailbox)
        if not self._hub.want(group.topic, group):
            await self._join(group, mailbox)
        mark = object()
        if mailbox in group.members:
            group.members[mailbox] = True if group.members[mailbox] else mark

        def undo() -> None:
            if group.members.get(mailbox) is mark:
                self.discard(name, mailbox)

        return undo

    def require_room(self, name: str, mailbox: Mailbox) -> None:
        """Refuse a membership that another process asks for, if there are very many already.

        Raises:
            MembershipFailed: The channel is in `MAX_OF_CHANNEL` groups, or it would be a new group
                and there are `MAX_GROUPS`.
        """
        group = self._groups.get(name)
        if group is not None and mailbox in group.members:
            return
        text = ""
        if len(self._groups_of.get(mailbox, ())) >= MAX_OF_CHANNEL:
            text = f"it is in {MAX_OF_CHANNEL} groups already"
        elif group is None and len(self._groups) >= MAX_GROUPS:
            text = f"that process has {MAX_GROUPS} groups already"
        if text:
            text += ", and no more are made for other processes; call group_add() in its own"
            raise exceptions.MembershipFailed(channel=mailbox.name, text=text)

    def discard(self, name: str, mailbox: Mailbox) -> None:
        """End a membership; nothing happens if there is none."""
        if name in self._suspended.get(mailbox, ()):
            self._suspended[mailbox].remove(name)
        group = self._groups.get(name)
        if group is None or mailbox not in group.members:
            return
        del group.members[mailbox]
        self._settle(group, mailbox)
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

    def suspend(self, mailbox: Mailbox) -> bool:
        """End all of a mailbox's memberships until `resume`; return whether there were any."""
        names = [group.name for group in self._groups_of.get(mailbox, ())]
        for name in names:
            self.discard(name, mailbox)
        if names:
            self._suspended.setdefault(mailbox, []).extend(names)
        return bool(names)

    def resume(self, mailbox: Mailbox, tell: Callable[[], object]) -> None:
        """Begin again the memberships that `suspend` has ended.

        Args:
            mailbox: Whose.
            tell: Called when Redis has confirmed all of them that still are.
        """
        back = _Return(mailbox, tell)
        back.expect()
        for name in self._suspended.pop(mailbox, ()):
            group = self._enter(name, mailbox)
            group.members[mailbox] = True
            if not self._hub.want(group.topic, group):
                back.expect()
                self._returning.setdefault(group, []).append(back)
        back.settle()

    def activated(self, group: Group) -> None:
        """Redis has confirmed a group's channel."""
        for back in self._returning.pop(group, ()):
            back.settle()

    def _settle(self, group: Group, mailbox: Mailbox) -> None:
        """A membership has ended: nobody waits for its confirmation."""
        returning = self._returning.pop(group, None)
        if returning is None:
            return
        others = [back for back in returning if back.mailbox is not mailbox]
        if others:
            self._returning[group] = others
        for back in returning:
            if back.mailbox is mailbox:
                back.settle()

    def dissolve(self, group: Group) -> None:
        """End a group whose channel Redis refuses; who was in it is told by the log."""
        if any(group.members.values()):
            logger.warning(
                "channels_mpx: Redis refuses group %s; its members get no messages any more",
                escape(group.name),
            )
        for mailbox in tuple(group.members):
            self.discard(group.name, mailbox)

    def clear(self) -> None:
        """End all memberships."""
        self._suspended.clear()
        for mailbox in tuple(self._groups_of):
            self.discard_all(mailbox)

    def _enter(self, name: str, mailbox: Mailbox) -> Group:
        """Make a mailbox a member, confirmed or not."""
        group = self._groups.get(name)
        if group is None:
            topic = Topic(Kind.CHANNEL, self._hub.names.group(name))
            group = self._groups[name] = Group(name, topic, self._intake, self)
        if mailbox not in group.members:
            mailbox.touch()
            group.members[mailbox] = False
            self._groups_of.setdefault(mailbox, []).append(group)
        return group

    async def _join(self, group: Group, mailbox: Mailbox) -> None:
        """Wait for the confirmation; the last who waits in vain ends an unconfirmed membership."""
        joining = group.joining
        joining[mailbox] = joining.get(mailbox, 0) + 1
        try:
            await self._hub.join(group.topic, group)
        except BaseException:  # cancellation too: who gives up must not stay a member
            if joining[mailbox] == 1 and not group.members.get(mailbox, True):
                self.discard(group.name, mailbox)
            raise
        finally:
            joining[mailbox] -= 1
            if not joining[mailbox]:
                del joining[mailbox]
