"""How a consumer hangs on the multiplexer, seen from below."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from channels_mpx import ClosedError, Gap, LinkLost, MultiplexedChannelLayer
from channels_mpx.consumers.attachment import Attachment
from channels_mpx.names import Kind, Topic
from channels_mpx.router import State
from channels_mpx.testing import Broker
from tests.helpers import eventually

ONE, TWO = Topic(Kind.CHANNEL, b"one"), Topic(Kind.CHANNEL, b"two")
GLOB = Topic(Kind.PATTERN, b"one")
EVENTS = ("on_activation", "on_disconnect", "on_gap")


class Site:
    """An attachment to a layer on a broker of its own."""

    def __init__(self, layer: MultiplexedChannelLayer, name: str, events: Any = EVENTS) -> None:
        self.name = name
        self.desk = layer.desk(name)
        self.attachment = Attachment(
            self.desk.hub, self.desk.registry, self.desk.mailbox, frozenset(events)
        )

    def take(self) -> list[Any]:
        """Return what waits, as text or as (event, value), if it still concerns the consumer."""
        taken: list[Any] = []
        while (item := self.desk.mailbox.take()) is not None:
            message: Any = item
            if hasattr(message, "event"):
                if self.attachment.is_news(message):
                    taken.append((message.event, message.value))
            elif self.attachment.heeds(message):
                taken.append((message.pattern, message.channel, message.payload))
        return taken


@pytest.fixture
def broker() -> Broker:
    """A broker that can fail."""
    return Broker()


@pytest.fixture
async def layer(broker: Broker) -> MultiplexedChannelLayer:
    """A layer on it."""
    return broker.layer(max_reconnect_delay=0.01)


@pytest.fixture
async def site(layer: MultiplexedChannelLayer) -> Site:
    """An attachment of a channel of it."""
    return Site(layer, await layer.new_channel())


async def test_messages_and_activations_in_order(site: Site, broker: Broker) -> None:
    """A channel and a pattern of one name are two topics."""
    await site.attachment.join([ONE, GLOB, ONE])
    broker.publish(b"one", b"1")
    await eventually(lambda: len(site.desk.mailbox) == 3)
    (activation, *messages) = site.take()
    assert activation == ("on_activation", b"one")
    assert {message[0] for message in messages} == {None, b"one"}
    assert site.attachment.names(Kind.CHANNEL) == site.attachment.names(Kind.PATTERN) == (b"one",)
    assert repr(site.attachment) == f"<Attachment {site.name} topics=2>"


async def test_what_nobody_cares_for_is_not_told(layer: MultiplexedChannelLayer) -> None:
    """Only the hooks that a consumer has make notices."""
    site = Site(layer, await layer.new_channel(), ["on_gap"])
    await site.attachment.join([ONE])
    site.attachment.interrupted("a test")
    gap = Gap(2, "a test", 0.5)
    site.attachment.gap_closed(gap)
    assert site.take() == [("on_gap", gap)]


async def test_a_gap_is_told_once(site: Site) -> None:
    """However often its beginning is reported, and only if it was."""
    site.attachment.gap_closed(Gap(1, "before it came", 0.5))
    for reason in ("first", "second"):
        site.attachment.interrupted(reason)
        site.attachment.gap_opened(reason)
    gap = Gap(3, "first", 0.5)
    site.attachment.gap_closed(gap)
    site.attachment.gap_closed(gap)
    (begun, ended) = site.take()
    assert begun[0] == "on_disconnect"
    assert isinstance(begun[1], LinkLost)
    assert "first" in str(begun[1])
    assert ended == ("on_gap", gap)


async def test_what_was_left_is_not_heeded(site: Site, broker: Broker) -> None:
    """Neither its messages nor its activation; nor old messages after coming back."""
    await site.attachment.join([ONE, TWO])
    for name in (b"one", b"two"):
        broker.publish(name, b"old")
    await eventually(lambda: len(site.desk.mailbox) == 4)
    site.attachment.leave([ONE, GLOB])
    assert site.take() == [("on_activation", b"two"), (None, b"two", b"old")]
    broker.publish(b"two", b"old")
    await eventually(lambda: len(site.desk.mailbox) == 1)
    site.attachment.leave([TWO])
    await site.attachment.join([TWO])
    broker.publish(b"two", b"new")
    await eventually(lambda: len(site.desk.mailbox) == 3)
    assert [item for item in site.take() if item[0] is None] == [(None, b"two", b"new")]


async def test_a_join_that_comes_late_changes_nothing(site: Site) -> None:
    """Home may get to it when the consumer has changed its mind, or has ended."""
    await site.attachment._join((ONE, GLOB))
    assert site.desk.hub.wishes_of(site.attachment) == ()
    site.attachment.close()
    site.attachment.close()
    with pytest.raises(ClosedError):
        await site.attachment.join([ONE])
    assert site.desk.hub.wishes_of(site.attachment) == ()


async def test_of_two_joins_each_stands_for_itself(site: Site, broker: Broker) -> None:
    """The names of one that fails stay, if another waits for them or has had them."""
    with broker.freeze():
        joins = [
            asyncio.ensure_future(site.attachment.join(topics))
            for topics in ([ONE], [ONE, TWO], [TWO, GLOB])
        ]
        await asyncio.sleep(0)
        joins[0].cancel()
        joins[2].cancel()
        await asyncio.wait([joins[0], joins[2]])
        assert site.attachment.names(Kind.CHANNEL) == (b"one", b"two")
        assert site.attachment.names(Kind.PATTERN) == ()
    await joins[1]
    again = asyncio.ensure_future(site.attachment.join([TWO, GLOB]))
    await asyncio.sleep(0)
    again.cancel()
    await asyncio.wait([again])
    assert set(site.desk.hub.wishes_of(site.attachment)) == {ONE, TWO}


async def test_a_name_that_was_left_and_taken_again_meanwhile(site: Site, broker: Broker) -> None:
    """Belongs to who took it last."""
    with broker.freeze():
        first = asyncio.ensure_future(site.attachment.join([ONE]))
        await eventually(lambda: site.desk.hub._router.state(ONE) is State.JOINING)
        site.attachment.leave([ONE])
        second = asyncio.ensure_future(site.attachment.join([ONE]))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
    await second
    assert site.desk.hub.wishes_of(site.attachment) == (ONE,)


async def test_what_the_layer_sends_is_not_delivered(site: Site, broker: Broker) -> None:
    """Through whatever pattern."""
    everything = Topic(Kind.PATTERN, b"*")
    await site.attachment.join([everything])
    site.take()
    for name in (b"mpx:group:room", b"mpx", b"one"):
        broker.publish(name, b"")
    await eventually(lambda: len(site.desk.mailbox) == 2)
    assert site.take() == [(b"*", b"mpx", b""), (b"*", b"one", b"")]


async def test_it_ends_with_its_loop_only(site: Site) -> None:
    """See `Registered.outlives`."""
    other = asyncio.new_event_loop()
    assert site.attachment.outlives(other)
    other.close()
    await site.attachment.join([ONE])
    assert not site.attachment.outlives(asyncio.get_running_loop())
    assert site.attachment.closed
    assert site.desk.hub.wishes_of(site.attachment) == ()
