"""The router against a simulated Redis: whatever happens in whatever order, both end up agreeing.

The simulation is a set of names that are subscribed and two queues: commands on their way to the
server, and answers on their way back. Redis answers in order, refuses at random, and the link may
be lost at any time with whatever is under way.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from channels_mpx.frames import Activated, Interrupted, Refused, Subscribe
from channels_mpx.names import Kind, Topic
from channels_mpx.router import BATCH, Router, State

NAMES = (b"a", b"b", b"c")
TOPICS = st.builds(Topic, st.sampled_from(Kind), st.sampled_from(NAMES))
MEMBERS: Any = ("ann", "bob", "eve")
SUBSCRIBERS = st.sampled_from(MEMBERS)

ERROR = PermissionError("NOPERM")


class RouterModel(RuleBasedStateMachine):
    """Wishes, the server, and what each subscriber has been told."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router()
        self.is_linked = False
        #: What the server has subscribed, and what is on its way to it and back.
        self.server: set[Topic] = set()
        self.commands: deque[tuple[Topic, bool]] = deque()
        self.answers: deque[tuple[Topic, bool | None]] = deque()
        #: Who wants what, and whether it was told of activation on this link, and ever.
        self.wishes: dict[tuple[Topic, Any], bool] = {}
        self.once_active: set[tuple[Topic, Any]] = set()

    # What happens here

    @rule(topic=TOPICS, subscriber=SUBSCRIBERS)
    def subscribe(self, topic: Topic, subscriber: Any) -> None:
        self.wishes.setdefault((topic, subscriber), False)
        is_active = self.router.subscribe(topic, subscriber)
        self.hear()
        assert self.wishes[topic, subscriber] is is_active

    @rule(topic=TOPICS, subscriber=SUBSCRIBERS)
    def unsubscribe(self, topic: Topic, subscriber: Any) -> None:
        self.router.unsubscribe(topic, subscriber)
        self.forget(topic, subscriber)

    @rule(subscriber=SUBSCRIBERS)
    def unsubscribe_all(self, subscriber: Any) -> None:
        for topic in self.router.topics_of(subscriber):
            self.router.unsubscribe(topic, subscriber)
        for topic, member in list(self.wishes):
            if member == subscriber:
                self.forget(topic, member)

    @rule()
    def retry(self) -> None:
        self.router.retry()

    @rule()
    def drain(self) -> None:
        for command in self.router.commands():
            assert self.is_linked
            assert 0 < len(command.names) <= BATCH
            for name in command.names:
                self.commands.append((Topic(command.kind, name), isinstance(command, Subscribe)))

    # What happens to the link

    @precondition(lambda self: not self.is_linked)
    @rule()
    def connect(self) -> None:
        self.is_linked = True
        self.router.made()

    @precondition(lambda self: self.is_linked)
    @rule()
    def lose(self) -> None:
        self.is_linked = False
        self.server.clear()
        self.commands.clear()
        self.answers.clear()
        self.router.lost("gone")
        self.hear()
        assert not any(self.wishes.values())

    # What happens on the server

    @precondition(lambda self: self.commands)
    @rule(is_allowed=st.booleans())
    def execute(self, is_allowed: bool) -> None:
        topic, joins = self.commands.popleft()
        if joins and not is_allowed:
            self.answers.append((topic, None))
            return
        # At most one command for a topic is under way, and none that changes nothing.
        assert (topic in self.server) is not joins
        (self.server.add if joins else self.server.discard)(topic)
        self.answers.append((topic, joins))

    @precondition(lambda self: self.answers)
    @rule()
    def answer(self) -> None:
        topic, subscribed = self.answers.popleft()
        if subscribed is None:
            self.router.refused(topic, ERROR)
        else:
            self.router.acknowledged(topic, subscribed)
        self.hear()

    @rule(is_allowed=st.booleans())
    def settle(self, is_allowed: bool) -> None:
        """Let everything that is under way arrive."""
        self.drain()
        while self.commands:
            self.execute(is_allowed)
        while self.answers:
            self.answer()

    # What subscribers hear

    def hear(self) -> None:
        """Hear all events; each must be news to those whom it is for."""
        for event in self.router.events():
            match event:
                case Activated(topic, subscribers):
                    for subscriber in subscribers:
                        assert self.wishes[topic, subscriber] is False, "activated twice"
                        self.wishes[topic, subscriber] = True
                        self.once_active.add((topic, subscriber))
                case Interrupted(subscribers):
                    assert len(set(subscribers)) == len(subscribers), "interrupted twice"
                    assert {*subscribers} == {subscriber for _, subscriber in self.wishes}
                    self.wishes = dict.fromkeys(self.wishes, False)
                case Refused(topic, subscribers):
                    wanting = {member for wanted, member in self.wishes if wanted == topic}
                    fresh = {
                        member for member in wanting if (topic, member) not in self.once_active
                    }
                    assert {*subscribers} == fresh
                    for subscriber in subscribers:
                        self.forget(topic, subscriber)

    def forget(self, topic: Topic, subscriber: Any) -> None:
        self.wishes.pop((topic, subscriber), None)
        self.once_active.discard((topic, subscriber))

    # What must hold

    @invariant()
    def agrees(self) -> None:
        """The router's wishes are ours, and a topic is active if its subscribers know."""
        for subscriber in MEMBERS:
            assert {*self.router.topics_of(subscriber)} == {
                topic for topic, member in self.wishes if member == subscriber
            }
        for (topic, _), is_active in self.wishes.items():
            assert (self.router.state(topic) is State.ACTIVE) is is_active
        assert self.router.wanted == len({topic for topic, _ in self.wishes})
        states = [entry.state for entry in self.router._all()]
        assert [self.router.count(state) for state in State] == [
            states.count(state) for state in State
        ]
        assert self.router.active == states.count(State.ACTIVE)

    @rule()
    def rest(self) -> None:
        """Given a link and a server that refuses nothing, the server has what is wanted."""
        if not self.is_linked:
            self.connect()
        # The first round ends what is under way, the second is about wishes that waited for it.
        for _ in range(2):
            self.retry()
            self.settle(is_allowed=True)
        self.drain()
        assert not self.commands
        assert self.server == {topic for topic, _ in self.wishes}
        assert all(self.wishes.values())

    def teardown(self) -> None:
        """When nobody wants anything, nothing is left."""
        self.rest()
        for subscriber in MEMBERS:
            self.unsubscribe_all(subscriber)
        self.rest()
        assert not self.server
        assert not any(self.router._entries.values())
        assert not self.router._topics_of
        assert not self.router._unsettled
        assert not self.router.has_events


RouterModel.TestCase.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
test_router_agrees_with_redis = RouterModel.TestCase
