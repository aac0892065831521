"""Subscriptions without callbacks, and with handlers of single channels."""

from __future__ import annotations

import asyncio

from channels_mpx import Multiplexer, PubSubMessage
from tests.helpers import eventually
from tests.sites import Site, subscribers
from tests.unit.notes import Notes

# Without callbacks


async def test_subscription_can_be_iterated(mux: Multiplexer) -> None:
    """Each message once, in order, with its pattern, until it is closed."""
    async with mux.new_pattern_subscription("room.*") as rooms:
        for number in range(3):
            await mux.publish(f"room.{number}", b"%d" % number)
        got = []
        async for message in rooms:
            got.append(message)
            if len(got) == 3:
                rooms.close()
    names = [b"room.0", b"room.1", b"room.2"]
    assert got == [PubSubMessage(b"room.*", name, name[-1:]) for name in names]
    assert rooms.delivered == 3


# Handlers of single channels


async def test_handler_gets_its_channel_and_nobody_else(mux: Multiplexer) -> None:
    """The others go to the callback; a channel that is added again keeps its handler."""
    notes, own = Notes(), Notes()
    subscription = notes.channels(mux)
    subscription.add("one", own.on_message)
    subscription.add("one")
    subscription.add("two")
    await subscription.activated(5)
    for name in ("one", "two"):
        await mux.publish(name, b"1")
    await eventually(lambda: (b"two", b"1") in notes.lines)
    assert own.lines == [(b"one", b"1")]
    assert (b"one", b"1") not in notes.lines
    subscription.add("two", own.on_message)
    await mux.publish("two", b"2")
    await eventually(lambda: own.lines[1:] == [(b"two", b"2")])
    assert subscription.delivered == 3


async def test_handlers_survive_a_reconnection(site: Site, mux: Multiplexer) -> None:
    """The channel comes back, and its handler with it."""
    notes, own = Notes(), Notes()
    subscription = notes.watchful(mux)
    subscription.add("one", own.on_message)
    await subscription.activated(5)
    site.cut()
    await eventually(lambda: len(notes.gaps) == 1)
    await mux.publish("one", b"1")
    await eventually(lambda: own.lines == [(b"one", b"1")])
    assert (b"one", b"1") not in notes.lines


async def test_removed_channel_is_silent_at_once(mux: Multiplexer) -> None:
    """What waits is dropped too: neither its handler nor anybody else gets it."""
    notes, own = Notes(), Notes()
    subscription = notes.channels(mux)
    subscription.add("one", own.on_message)
    subscription.add("two")
    await subscription.activated(5)
    await eventually(lambda: len(notes.lines) == 2)

    async def on_three(channel: bytes, payload: bytes) -> None:
        subscription.remove("one")
        subscription.remove("two")

    subscription.add("three", on_three)
    await subscription.activated(5)
    await eventually(lambda: len(notes.lines) == 3)
    await asyncio.gather(*(mux.publish(name, b"1") for name in ("three", "one", "two")))
    await eventually(lambda: mux.statistics().received == 3 and not subscription.waiting)
    assert own.lines == []
    assert len(notes.lines) == 3
    assert subscription.delivered == 1


async def test_removal_before_the_acknowledgement(site: Site, mux: Multiplexer) -> None:
    """Who changes his mind leaves nothing, whether or not anybody waits for the activation."""
    subscription = mux.new_channel_subscription()
    for name in ("one", "two", "three"):
        subscription.add(name)
    waiting = asyncio.create_task(subscription.activated())
    subscription.remove("three")
    await asyncio.sleep(0)
    subscription.remove("two")
    await asyncio.wait_for(waiting, 5)
    subscription.remove("one")
    await subscription.activated(5)
    for name in (b"one", b"two", b"three"):
        await eventually(lambda name=name: subscribers(site, name) == 0)  # type: ignore[misc]
    assert mux.statistics().wanted == 0
