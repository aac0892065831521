"""Who wants which topic, what Redis has confirmed, and what to say to it next. No I/O here.

Theory of operation
===================

Two facts are kept for each topic, and kept apart:

* the *wish*: somebody here wants it. Subscribers come and go at any time, link or no link, and
  the wish changes at once. It is the truth.
* the *wire*: what this link has been told and has confirmed. It lags behind the wish by at most
  one command in flight for each topic, so an acknowledgement is never ambiguous.

``commands()`` reconciles the two: what is wanted and ABSENT is joined, what is unwanted and
ACTIVE is left, and everything else is left alone until the wire has answered:

                 wanted, drained            Redis: subscribed
        ABSENT ────────────────▶ JOINING ────────────────────▶ ACTIVE
           ▲ ▲                      │                            │
           │ │ retry                │ Redis: refused             │ unwanted, drained
           │ └───────── REFUSED ◀───┘                            │
           │                                                     │
           └─────────────────────── LEAVING ◀────────────────────┘
               Redis: unsubscribed

    the link is lost: every topic becomes ABSENT, and no other arrow exists.

Reconnection is therefore not a code path. Losing the link empties the wire; the next drain joins
whatever is wanted, because it is wanted. A wish that comes and goes between two drains costs
nothing. A topic that is wanted again while LEAVING is joined when the wire has answered.

Rule 1: everything that changes the wire's state of a topic goes through ``TRANSITIONS``. A cause
that has no row there means that Redis and we disagree, and raises `IllegalTransition`: drop the link.

Rule 2: this file knows neither time nor tasks nor Redis. It is fed (``subscribe``,
``unsubscribe``, ``made``, ``lost``, ``acknowledged``, ``refused``, ``retry``) and then drained
(``commands``, ``events``). After feeding it, do both.

A refusal concerns whoever asked: subscribers that Redis never confirmed lose their wish and are
told why. Those that were active on an earlier link keep it, and the topic rests in REFUSED until
``retry``: an ACL that is wrong for a minute must not cost them their subscription. So rests, for
everybody, a topic that Redis is not ready for.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator

from .frames import (
    Activated,
    Command,
    Event,
    Interrupted,
    Refused,
    Subscribe,
    Subscriber,
    Unsubscribe,
)
from .names import Kind, Topic

#: Names in one SUBSCRIBE: larger commands stall the server's other clients (100,000 names in one
#: command: 104 ms; 512: 10 ms), smaller ones are slower.
BATCH = 512


class State(enum.Enum):
    """What the wire knows of a topic."""

    ABSENT = "absent"
    JOINING = "joining"
    ACTIVE = "active"
    LEAVING = "leaving"
    REFUSED = "refused"

    __hash__ = object.__hash__  # a key of the table; Enum's own is a Python function


class Cause(enum.Enum):
    """What moves a topic from one state to another."""

    JOIN = "wanted, drained"
    LEAVE = "unwanted, drained"
    SUBSCRIBED = "Redis: subscribed"
    UNSUBSCRIBED = "Redis: unsubscribed"
    DENIED = "Redis: refused"
    RETRY = "retry"
    LOST = "the link is lost"

    __hash__ = object.__hash__


TRANSITIONS: dict[State, dict[Cause, State]] = {
    State.ABSENT: {Cause.JOIN: State.JOINING, Cause.LOST: State.ABSENT},
    State.JOINING: {
        Cause.SUBSCRIBED: State.ACTIVE,
        Cause.DENIED: State.REFUSED,
        Cause.LOST: State.ABSENT,
    },
    State.ACTIVE: {Cause.LEAVE: State.LEAVING, Cause.LOST: State.ABSENT},
    State.LEAVING: {Cause.UNSUBSCRIBED: State.ABSENT, Cause.LOST: State.ABSENT},
    State.REFUSED: {Cause.RETRY: State.ABSENT, Cause.LOST: State.ABSENT},
}


class IllegalTransition(Exception):
    """Redis said something about a topic that its state does not allow."""


class Entry:
    """One topic: the wish (its members, and whether each was ever active) and the wire."""

    __slots__ = ("members", "state", "topic")

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.state = State.ABSENT
        self.members: dict[Subscriber, bool] = {}

    def __repr__(self) -> str:
        return f"<Entry {self.topic.name!r} {self.state.value} members={len(self.members)}>"

    def move(self, cause: Cause) -> None:
        """Follow the arrow ``cause``; nothing changes if there is none."""
        try:
            self.state = TRANSITIONS[self.state][cause]
        except KeyError:
            problem = f"{cause.value} for a topic that is {self.state.value}"
            raise IllegalTransition(problem) from None


class Router:
    """The table of topics of one process, over all of its links.

    Every verb is synchronous and takes effect at once. Topics, and the members of each, keep the
    order in which they came. Two subscriptions of one subscriber to one topic are one.
    """

    def __init__(self) -> None:
        self._entries: dict[Kind, dict[bytes, Entry]] = {kind: {} for kind in Kind}
        self._channels = self._entries[Kind.CHANNEL]
        self._patterns = self._entries[Kind.PATTERN]
        self._topics_of: dict[Subscriber, dict[Topic, None]] = {}
        self._unsettled: dict[Topic, Entry] = {}
        self._events: list[Event] = []
        self._is_linked = False
        # Kept where things change: with 200,000 topics nobody may count them for a health check.
        self._wanted = 0
        self._counts = dict.fromkeys(State, 0)

    def __repr__(self) -> str:
        return f"<Router wanted={self.wanted} active={self.active} linked={self._is_linked}>"

    @property
    def wanted(self) -> int:
        """How many topics somebody wants. Any thread may ask."""
        return self._wanted

    @property
    def active(self) -> int:
        """How many topics Redis has confirmed. Any thread may ask."""
        return self.count(State.ACTIVE)

    def count(self, state: State) -> int:
        """Return how many known topics are in a state. Any thread may ask."""
        return self._counts[state]

    @property
    def known(self) -> int:
        """How many topics are known to the wire or wanted. Any thread may ask."""
        return sum(map(len, self._entries.values()))

    @property
    def patterns(self) -> int:
        """How many distinct patterns are known to the wire or wanted: each slows every PUBLISH."""
        return len(self._patterns)

    @property
    def has_events(self) -> bool:
        """Whether `events` would return any."""
        return bool(self._events)

    def state(self, topic: Topic) -> State:
        """Return what the wire knows of a topic."""
        entry = self._entries[topic.kind].get(topic.name)
        return entry.state if entry else State.ABSENT

    def is_wanted(self, topic: Topic) -> bool:
        """Tell whether anybody wants a topic."""
        return bool((entry := self._entries[topic.kind].get(topic.name)) and entry.members)

    def had(self, topic: Topic) -> Collection[Subscriber]:
        """Return who wants a topic and had it before, on this link or an earlier one."""
        entry = self._entries[topic.kind].get(topic.name)
        members = entry.members.items() if entry else ()
        return tuple(who for who, was_active in members if was_active)

    def subscribe(self, topic: Topic, subscriber: Subscriber) -> bool:
        """Note that ``subscriber`` wants ``topic``. Returns whether it is active already."""
        entries = self._entries[topic.kind]
        entry = entries.get(topic.name)
        if entry is None:
            entry = entries[topic.name] = Entry(topic)
            self._counts[entry.state] += 1
        is_active = entry.state is State.ACTIVE
        if subscriber not in entry.members:
            self._wanted += not entry.members
            entry.members[subscriber] = is_active
            self._topics_of.setdefault(subscriber, {})[topic] = None
            if is_active:
                self._events.append(Activated(topic, (subscriber,)))
        if entry.state is State.REFUSED:
            self._move(entry, Cause.RETRY)
        if not is_active:
            self._unsettled[topic] = entry
        return is_active

    def unsubscribe(self, topic: Topic, subscriber: Subscriber) -> None:
        """Note that ``subscriber`` does not want ``topic`` any more; nothing if it did not."""
        entry = self._entries[topic.kind].get(topic.name)
        if entry is None or subscriber not in entry.members:
            return
        del entry.members[subscriber]
        self._wanted -= not entry.members
        topics = self._topics_of[subscriber]
        del topics[topic]
        if not topics:
            del self._topics_of[subscriber]
        self._reconsider(entry)

    def topics(self) -> Collection[Topic]:
        """Return what somebody wants."""
        return tuple(entry.topic for entry in self._all() if entry.members)

    def topics_of(self, subscriber: Subscriber) -> Collection[Topic]:
        """Return what ``subscriber`` wants."""
        return tuple(self._topics_of.get(subscriber, ()))

    def route(self, channel: bytes) -> Entry | None:
        """Return the topic whose members a message on an exact channel concerns, if there is one."""
        return self._channels.get(channel)

    def route_pattern(self, pattern: bytes) -> Entry | None:
        """Do the same for a pattern; Redis sends the message once more for the exact channel."""
        return self._patterns.get(pattern)

    def made(self) -> None:
        """Note that there is a link on which nothing is subscribed."""
        self._is_linked = True
        self._unsettled = {entry.topic: entry for entry in self._all()}

    def lost(self, reason: str) -> None:
        """Note that the link is gone, and with it everything that Redis knew of us."""
        if self._is_linked and self._topics_of:
            self._events.append(Interrupted(tuple(self._topics_of), reason))
        self._is_linked = False
        for entry in tuple(self._all()):
            self._move(entry, Cause.LOST)
            if not entry.members:
                self._forget(entry)
        self._unsettled.clear()

    def acknowledged(self, topic: Topic, subscribed: bool) -> None:
        """Note that Redis has confirmed a command for one topic.

        Raises:
            IllegalTransition: It was not asked to. Nothing has changed.
        """
        entry = self._require(topic)
        self._move(entry, Cause.SUBSCRIBED if subscribed else Cause.UNSUBSCRIBED)
        if subscribed and entry.members:
            self._events.append(Activated(topic, tuple(entry.members)))
            for subscriber in entry.members:
                entry.members[subscriber] = True
        else:
            self._reconsider(entry)

    def refused(self, topic: Topic, error: Exception, is_passing: bool = False) -> None:
        """Note that Redis has refused to subscribe to one topic, or is not ready to (passing).

        Raises:
            IllegalTransition: It was not asked to. Nothing has changed.
        """
        entry = self._require(topic)
        self._move(entry, Cause.DENIED)
        if is_passing:
            self._reconsider(entry)
            return
        fresh = tuple(member for member, was_active in entry.members.items() if not was_active)
        for subscriber in fresh:
            self.unsubscribe(topic, subscriber)
        self._events.append(Refused(topic, fresh, error))
        if not entry.members and not fresh:
            self._reconsider(entry)

    def retry(self) -> None:
        """Let the topics that were refused be asked for again."""
        for entry in self._all() if self._counts[State.REFUSED] else ():
            if entry.state is State.REFUSED:
                self._move(entry, Cause.RETRY)
                self._unsettled[entry.topic] = entry

    def commands(self) -> list[Command]:
        """Drain: return what to tell Redis so that the wire follows the wish.

        Send all of it, in this order, on the link that was made last. Without a link there is
        nothing to say.
        """
        if not self._is_linked or not self._unsettled:
            return []
        joining: dict[Kind, list[bytes]] = {kind: [] for kind in Kind}
        leaving: dict[Kind, list[bytes]] = {kind: [] for kind in Kind}
        for topic, entry in self._unsettled.items():
            if entry.state is State.ABSENT:
                self._move(entry, Cause.JOIN)
                joining[topic.kind].append(topic.name)
            elif not entry.members and entry.state is State.ACTIVE:
                self._move(entry, Cause.LEAVE)
                leaving[topic.kind].append(topic.name)
        self._unsettled.clear()
        commands: list[Command] = []
        for kind in Kind:
            commands += (Unsubscribe(kind, batch) for batch in _batches(leaving[kind]))
            commands += (Subscribe(kind, batch) for batch in _batches(joining[kind]))
        return commands

    def events(self) -> list[Event]:
        """Drain: return what has happened to subscribers since the last call, in order."""
        events, self._events = self._events, []
        return events

    def _reconsider(self, entry: Entry) -> None:
        """Have the next drain look at an entry, or forget it if it is neither wish nor wire."""
        topic = entry.topic
        if entry.state is State.REFUSED and not entry.members:
            self._move(entry, Cause.RETRY)
        if entry.members or entry.state is not State.ABSENT:
            self._unsettled[topic] = entry
        else:
            self._forget(entry)
            self._unsettled.pop(topic, None)

    def _move(self, entry: Entry, cause: Cause) -> None:
        before = entry.state
        entry.move(cause)
        self._counts[before] -= 1
        self._counts[entry.state] += 1

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.topic.kind][entry.topic.name]
        self._counts[entry.state] -= 1

    def _all(self) -> Iterator[Entry]:
        for table in (self._channels, self._patterns):
            yield from tuple(table.values())  # a copy: the statistics are read by any thread

    def _require(self, topic: Topic) -> Entry:
        entry = self._entries[topic.kind].get(topic.name)
        if entry is None:
            raise IllegalTransition(f"an answer about {topic.name!r}, which nobody asked for")
        return entry


def _batches(names: list[bytes]) -> Iterator[tuple[bytes, ...]]:
    for start in range(0, len(names), BATCH):
        yield tuple(names[start : start + BATCH])
