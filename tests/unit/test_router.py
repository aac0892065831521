"""The router: each arrow of its table, each rule of its prose, without any I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from channels_mpx.frames import Activated, Interrupted, Refused, Subscribe, Unsubscribe
from channels_mpx.names import Kind, Topic
from channels_mpx.router import BATCH, TRANSITIONS, Cause, Entry, IllegalTransition, Router, State

NEWS, CHAT = Topic(Kind.CHANNEL, b"news"), Topic(Kind.CHANNEL, b"chat")
GLOB = Topic(Kind.PATTERN, b"news")
ERROR = PermissionError("NOPERM")

ABSENT, JOINING, ACTIVE = State.ABSENT, State.JOINING, State.ACTIVE
LEAVING, REFUSED = State.LEAVING, State.REFUSED


class Member:
    """A subscriber; the router never calls it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


ann: Any = Member("ann")
bob: Any = Member("bob")


def topics(router: Router) -> Iterator[tuple[Topic, State]]:
    """Every topic that is wanted or known to the wire."""
    return ((entry.topic, entry.state) for entry in router._all())


def linked() -> Router:
    router = Router()
    router.made()
    return router


def joining(*topics: Topic) -> Router:
    router = linked()
    for topic in topics or (NEWS,):
        router.subscribe(topic, ann)
    router.commands()
    return router


def active(*topics: Topic) -> Router:
    router = joining(*topics)
    for topic in topics or (NEWS,):
        router.acknowledged(topic, True)
    router.commands()
    router.events()
    return router


def leaving() -> Router:
    router = active()
    router.unsubscribe(NEWS, ann)
    router.commands()
    return router


def relinked() -> Router:
    """Ann was active on an earlier link, and is joining on this one."""
    router = active()
    router.lost("gone")
    router.made()
    router.commands()
    router.events()
    return router


def refused() -> Router:
    router = relinked()
    router.refused(NEWS, ERROR)
    router.commands()
    router.events()
    return router


def members(entry: Entry | None) -> list[Any]:
    return list(entry.members) if entry else []


REACH: dict[State, Callable[[], Router]] = {
    ABSENT: linked,
    JOINING: joining,
    ACTIVE: active,
    LEAVING: leaving,
    REFUSED: refused,
}


# The table


def wanted(router: Router) -> None:
    router.subscribe(NEWS, bob)
    router.commands()


def unwanted(router: Router) -> None:
    router.unsubscribe(NEWS, ann)
    router.commands()


FEED: dict[str, Callable[[Router], object]] = {
    "wanted, drained": wanted,
    "unwanted, drained": unwanted,
    "subscribed": lambda router: router.acknowledged(NEWS, True),
    "unsubscribed": lambda router: router.acknowledged(NEWS, False),
    "refused": lambda router: router.refused(NEWS, ERROR),
    "retry": lambda router: router.retry(),
    "lost": lambda router: router.lost("gone"),
}

# None: Redis and we disagree. For a state that is missing in a row, nothing changes.
TABLE: dict[str, dict[State, State | None]] = {
    "wanted, drained": {ABSENT: JOINING, REFUSED: JOINING},
    "unwanted, drained": {ACTIVE: LEAVING, REFUSED: ABSENT},
    "subscribed": {ABSENT: None, JOINING: ACTIVE, ACTIVE: None, LEAVING: None, REFUSED: None},
    "unsubscribed": {ABSENT: None, JOINING: None, ACTIVE: None, LEAVING: ABSENT, REFUSED: None},
    "refused": {ABSENT: None, JOINING: ABSENT, ACTIVE: None, LEAVING: None, REFUSED: None},
    "retry": {REFUSED: ABSENT},
    "lost": dict.fromkeys(State, ABSENT),
}


def everything(router: Router) -> object:
    """Return all that a router knows."""
    entries = {
        topic: (state, dict(router._entries[topic.kind][topic.name].members))
        for topic, state in topics(router)
    }
    wishes = {member: list(topics) for member, topics in router._topics_of.items()}
    return entries, wishes, dict(router._unsettled), list(router._events), repr(router)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("cause", TABLE)
def test_follow_the_table(cause: str, state: State) -> None:
    """Every cause in every state leads where the diagram says, or is refused without a change."""
    router = REACH[state]()
    assert router.state(NEWS) is state
    before = everything(router)
    target = TABLE[cause].get(state, state)
    if target is None:
        with pytest.raises(IllegalTransition):
            FEED[cause](router)
        assert everything(router) == before
    else:
        FEED[cause](router)
        assert router.state(NEWS) is target


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("cause", Cause)
def test_move_an_entry(cause: Cause, state: State) -> None:
    """An entry follows the arrows that there are, and no other."""
    entry = Entry(NEWS)
    entry.state = state
    target = TRANSITIONS[state].get(cause)
    if target is None:
        with pytest.raises(
            IllegalTransition, match=f"{cause.value} for a topic that is {state.value}"
        ):
            entry.move(cause)
    else:
        entry.move(cause)
    assert entry.state is (target or state)


def test_transitions_are_those_of_the_diagram() -> None:
    """Eleven arrows, five of them for a lost link."""
    arrows = {(state, cause, to) for state, row in TRANSITIONS.items() for cause, to in row.items()}
    assert arrows == {
        (ABSENT, Cause.JOIN, JOINING),
        (JOINING, Cause.SUBSCRIBED, ACTIVE),
        (JOINING, Cause.DENIED, REFUSED),
        (REFUSED, Cause.RETRY, ABSENT),
        (ACTIVE, Cause.LEAVE, LEAVING),
        (LEAVING, Cause.UNSUBSCRIBED, ABSENT),
        *((state, Cause.LOST, ABSENT) for state in State),
    }


# Wishes and the wire


def test_say_nothing_without_a_link() -> None:
    """Wishes are taken down without a link, and told to the next one."""
    router = Router()
    assert router.subscribe(NEWS, ann) is False
    assert router.commands() == []
    router.made()
    assert router.commands() == [Subscribe(Kind.CHANNEL, (b"news",))]
    assert router.commands() == []


def test_say_nothing_about_a_wish_that_comes_and_goes() -> None:
    """Between two drains a wish may come and go for free, in both directions."""
    router = linked()
    router.subscribe(NEWS, ann)
    router.unsubscribe(NEWS, ann)
    assert router.commands() == []
    assert list(topics(router)) == []
    router = active()
    router.unsubscribe(NEWS, ann)
    router.subscribe(NEWS, bob)
    assert router.commands() == []
    assert router.state(NEWS) is ACTIVE


def test_send_one_command_for_a_topic_at_a_time() -> None:
    """While an answer is awaited, a wish that changes waits for it."""
    router = joining()
    router.unsubscribe(NEWS, ann)
    assert router.commands() == []
    router.acknowledged(NEWS, True)
    assert router.events() == []
    assert router.commands() == [Unsubscribe(Kind.CHANNEL, (b"news",))]
    router.subscribe(NEWS, bob)
    assert router.commands() == []
    router.acknowledged(NEWS, False)
    assert router.commands() == [Subscribe(Kind.CHANNEL, (b"news",))]


def test_forget_a_topic_that_is_neither_wish_nor_wire() -> None:
    """After the last answer nothing is left."""
    router = leaving()
    router.acknowledged(NEWS, False)
    assert list(topics(router)) == []
    assert everything(router) == everything(linked())


def test_send_batches_of_512() -> None:
    """Larger commands would stall the server's other clients."""
    router = linked()
    topics = [Topic(Kind.CHANNEL, b"%d" % number) for number in range(2 * BATCH + 1)]
    for topic in topics:
        router.subscribe(topic, ann)
    names = [topic.name for topic in topics]
    sizes = [names[:BATCH], names[BATCH : 2 * BATCH], names[2 * BATCH :]]
    assert BATCH == 512
    assert router.commands() == [Subscribe(Kind.CHANNEL, tuple(part)) for part in sizes]
    for topic in topics:
        router.acknowledged(topic, True)
    assert router.topics() == tuple(topics)
    for topic in topics:
        router.unsubscribe(topic, ann)
    assert router.commands() == [Unsubscribe(Kind.CHANNEL, tuple(part)) for part in sizes]
    assert router.topics() == ()


def test_separate_channels_from_patterns() -> None:
    """A channel and a pattern of one name are two topics, each with its own command."""
    router = joining(NEWS, GLOB, CHAT)
    router.lost("gone")
    router.made()
    assert router.commands() == [
        Subscribe(Kind.CHANNEL, (b"news", b"chat")),
        Subscribe(Kind.PATTERN, (b"news",)),
    ]
    router.acknowledged(GLOB, True)
    assert (router.state(GLOB), router.state(NEWS), router.patterns) == (ACTIVE, JOINING, 1)


def test_leave_before_joining() -> None:
    """In one drain what is not wanted goes first."""
    router = active()
    router.unsubscribe(NEWS, ann)
    router.subscribe(CHAT, ann)
    assert router.commands() == [
        Unsubscribe(Kind.CHANNEL, (b"news",)),
        Subscribe(Kind.CHANNEL, (b"chat",)),
    ]


def test_refuse_an_answer_about_an_unknown_topic() -> None:
    """Redis cannot confirm or refuse what nobody asked for."""
    for feed in ("subscribed", "unsubscribed", "refused"):
        with pytest.raises(IllegalTransition, match="b'news', which nobody asked for"):
            FEED[feed](linked())


# Subscribers


def test_activate_all_who_waited() -> None:
    """A confirmation is news to every subscriber, in the order in which they came."""
    router = joining()
    assert router.subscribe(NEWS, bob) is False
    router.acknowledged(NEWS, True)
    assert router.has_events
    assert router.events() == [Activated(NEWS, (ann, bob))]
    assert not router.has_events


def test_activate_a_second_subscriber_at_once() -> None:
    """Who joins an active topic needs no round trip and no command."""
    router = active()
    assert router.subscribe(NEWS, bob) is True
    assert router.events() == [Activated(NEWS, (bob,))]
    assert router.commands() == []


def test_subscribe_twice_is_once() -> None:
    """Two subscriptions of one subscriber to one topic are one."""
    router = active()
    assert router.subscribe(NEWS, ann) is True
    assert router.events() == []
    router.unsubscribe(NEWS, ann)
    assert router.commands() == [Unsubscribe(Kind.CHANNEL, (b"news",))]


def test_unsubscribe_who_never_subscribed() -> None:
    """Nothing happens."""
    router = active()
    before = everything(router)
    router.unsubscribe(NEWS, bob)
    router.unsubscribe(CHAT, ann)
    assert everything(router) == before


def test_keep_a_topic_that_others_want() -> None:
    """The last one turns off the light."""
    router = active()
    router.subscribe(NEWS, bob)
    router.unsubscribe(NEWS, ann)
    assert router.commands() == []
    assert members(router.route(b"news")) == [bob]


def test_unsubscribe_from_everything() -> None:
    """A subscriber leaves everything that it wanted, and nothing of others."""
    router = active(NEWS, CHAT, GLOB)
    router.subscribe(CHAT, bob)
    assert router.topics_of(ann) == (NEWS, CHAT, GLOB)
    for topic in router.topics_of(ann):
        router.unsubscribe(topic, ann)
    assert (router.topics_of(ann), router.topics_of(bob)) == ((), (CHAT,))
    assert router.commands() == [
        Unsubscribe(Kind.CHANNEL, (b"news",)),
        Unsubscribe(Kind.PATTERN, (b"news",)),
    ]


def test_route_to_subscribers_of_the_kind() -> None:
    """A message through a pattern is for that pattern's subscribers and nobody else."""
    router = active(NEWS)
    router.subscribe(GLOB, bob)
    assert members(router.route(b"news")) == [ann]
    assert members(router.route_pattern(b"news")) == [bob]
    assert router.route(b"other") is router.route_pattern(b"other") is None


def test_count_topics() -> None:
    """The statistics: wanted, active, distinct patterns."""
    router = active(NEWS, GLOB)
    router.subscribe(CHAT, bob)
    assert (router.wanted, router.active, router.patterns) == (3, 2, 1)
    assert repr(router) == "<Router wanted=3 active=2 linked=True>"
    router.unsubscribe(NEWS, ann)
    assert (router.wanted, router.active) == (2, 2)
    assert dict(topics(router)) == {NEWS: ACTIVE, CHAT: ABSENT, GLOB: ACTIVE}
    assert repr(router._entries[Kind.CHANNEL][b"chat"]) == "<Entry b'chat' absent members=1>"


# Losing the link


def test_join_again_what_is_wanted() -> None:
    """Reconnection is no code path: the next drain joins what is wanted, in the order it came."""
    router = active(NEWS, CHAT)
    router.lost("gone")
    assert (router.active, router.wanted, router.commands()) == (0, 2, [])
    router.made()
    assert router.commands() == [Subscribe(Kind.CHANNEL, (b"news", b"chat"))]


def test_interrupt_each_subscriber_once() -> None:
    """However many topics it had, and also if it was still waiting."""
    router = active(NEWS, CHAT)
    router.subscribe(CHAT, bob)
    router.events()
    router.lost("gone")
    assert router.events() == [Interrupted((ann, bob), "gone")]


def test_interrupt_nobody_twice() -> None:
    """Losing what was lost already, or what nobody used, is no news."""
    router = active()
    router.lost("gone")
    router.events()
    router.lost("again")
    assert router.events() == []
    router = linked()
    router.lost("unused")
    assert router.events() == []


def test_forget_what_was_leaving_when_the_link_was_lost() -> None:
    """Nobody wanted it, and Redis has forgotten it."""
    for router in (leaving(), active()):
        router.unsubscribe(NEWS, ann)
        router.lost("gone")
        assert list(topics(router)) == []


def test_refuse_an_answer_that_the_lost_link_owed() -> None:
    """What was asked on one link is not confirmed on the next."""
    router = joining()
    router.lost("gone")
    router.made()
    with pytest.raises(IllegalTransition):
        router.acknowledged(NEWS, True)


def test_keep_events_in_order() -> None:
    """Interruption comes before the activation that ends it."""
    router = active()
    router.lost("gone")
    router.made()
    router.commands()
    router.acknowledged(NEWS, True)
    assert router.events() == [Interrupted((ann,), "gone"), Activated(NEWS, (ann,))]


# Refusals


def test_refusal_ends_the_wish_of_the_fresh() -> None:
    """Whoever was never active loses the wish and is told why; nothing is left."""
    router = joining()
    router.subscribe(NEWS, bob)
    router.refused(NEWS, ERROR)
    assert router.events() == [Refused(NEWS, (ann, bob), ERROR)]
    assert everything(router) == everything(linked())
    router.subscribe(NEWS, ann)
    assert router.commands() == [Subscribe(Kind.CHANNEL, (b"news",))]


def test_refusal_keeps_the_wish_of_the_once_active() -> None:
    """An ACL that is wrong for a minute costs nobody a subscription that worked."""
    router = relinked()
    router.subscribe(NEWS, bob)
    router.refused(NEWS, ERROR)
    assert router.events() == [Refused(NEWS, (bob,), ERROR)]
    assert (router.topics_of(ann), router.topics_of(bob)) == ((NEWS,), ())
    assert router.state(NEWS) is REFUSED
    assert router.commands() == []


def test_refusal_of_what_nobody_wants_any_more() -> None:
    """It is nobody's error."""
    router = joining()
    router.unsubscribe(NEWS, ann)
    router.refused(NEWS, ERROR)
    assert router.events() == [Refused(NEWS, (), ERROR)]
    assert everything(router) == everything(linked())


def test_retry_what_was_refused() -> None:
    """After a while Redis is asked again, and may have changed its mind."""
    router = refused()
    router.subscribe(CHAT, bob)
    router.commands()
    router.retry()
    assert router.commands() == [Subscribe(Kind.CHANNEL, (b"news",))]
    router.acknowledged(NEWS, True)
    assert router.events() == [Activated(NEWS, (ann,))]


def test_retry_at_once_for_a_new_subscriber() -> None:
    """A fresh wish deserves an answer of its own."""
    router = refused()
    assert router.subscribe(NEWS, bob) is False
    assert router.commands() == [Subscribe(Kind.CHANNEL, (b"news",))]
    router.refused(NEWS, ERROR)
    assert router.events() == [Refused(NEWS, (bob,), ERROR)]
    assert router.topics_of(ann) == (NEWS,)


def test_unsubscribe_forgets_a_refused_topic() -> None:
    """When the last one that was once active leaves, nothing is left to ask for."""
    router = refused()
    router.unsubscribe(NEWS, ann)
    assert list(topics(router)) == []
    router.retry()
    assert router.commands() == []


def test_numbers_cost_nothing_with_many_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A health check must not look at each of 200,000 topics: the numbers are kept, not counted."""
    router = refused()
    router.subscribe(CHAT, bob)
    router.subscribe(GLOB, bob)
    router.commands()
    router.acknowledged(CHAT, True)
    monkeypatch.setattr(router, "_all", None)
    assert (router.wanted, router.active, router.count(REFUSED), router.count(JOINING)) == (
        3, 1, 1, 1,
    )  # fmt: skip
    assert repr(router) == "<Router wanted=3 active=1 linked=True>"
