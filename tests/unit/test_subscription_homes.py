"""Subscriptions made without a loop, and wishes of which a home never hears, outlive any home."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from channels_mpx import (
    ChannelSubscription,
    MultiplexedChannelLayer,
    Multiplexer,
    SubscriptionIsClosed,
)
from tests.helpers import eventually, wait_until
from tests.layers import QUICK
from tests.sites import MemorySite
from tests.unit.notes import Notes


def test_subscription_without_a_loop_is_called_in_the_background(
    threads_only: Multiplexer,
) -> None:
    """Made where no loop runs, its callbacks run at home, wherever that is."""
    got: list[tuple[bytes, str]] = []

    def on_message(channel: bytes, payload: bytes) -> None:
        got.append((payload, threading.current_thread().name))

    subscription = threads_only.new_channel_subscription(on_message)
    assert subscription._tie.loop is None
    subscription.add("one")
    wait_until(lambda: threads_only.statistics().active == 1)
    assert asyncio.run(threads_only.publish("one", b"1")) == 1
    wait_until(lambda: len(got) == 1)
    payload, name = got[0]
    assert payload == b"1"
    assert name.endswith(".home")
    second = threads_only.new_channel_subscription(on_message)
    second.add("one")
    asyncio.run(threads_only.publish("one", b"2"))
    wait_until(lambda: len(got) == 3)
    subscription.remove("one")
    second.close()
    wait_until(lambda: threads_only.statistics().active == 0)
    subscription.close()


def test_closing_before_anything_was_connected_is_enough(broker: MemorySite) -> None:
    """A subscription without channels has nothing to give back."""
    mux = Multiplexer(broker.url)
    subscription = mux.new_channel_subscription(print)
    subscription.close()
    assert subscription.closed
    assert mux.statistics().state == "idle"
    mux.close()


@pytest.mark.parametrize("is_home", [True, False])
def test_loop_that_ends_closes_its_subscriptions(broker: MemorySite, is_home: bool) -> None:
    """Those of an ended loop are closed: at once if it was home, after a tick if it was not.

    Those without a loop go on in the background.
    """
    layer = MultiplexedChannelLayer(hosts=[broker.url], **QUICK, expiry=60 if is_home else 0.2)
    mux = layer.multiplexer
    outer, inner = Notes(), Notes()
    lasting = outer.channels(mux)
    if not is_home:
        lasting.add("one")
        wait_until(lambda: len(outer.lines) == 1)

    async def live() -> ChannelSubscription:
        subscription = inner.channels(mux)
        subscription.add("one")
        await eventually(lambda: len(inner.lines) == 1)
        await asyncio.to_thread(lasting.add, "one")
        await eventually(lambda: len(outer.lines) == 1)
        return subscription

    ended = asyncio.run(live())
    if not is_home:
        wait_until(lambda: ended.closed)
    assert ended.closed
    assert not lasting.closed
    wait_until(lambda: mux.statistics().active == 1)
    assert asyncio.run(mux.publish("one", b"1")) == 1
    wait_until(lambda: (b"one", b"1") in outer.lines)
    assert (b"one", b"1") not in inner.lines
    with pytest.raises(SubscriptionIsClosed):
        ended.add("two")
    layer.sync.close()


def test_loop_that_ends_alone_leaves_nothing(threads_only: Multiplexer) -> None:
    """When the last subscription's loop has ended, nothing is wanted and nothing runs."""

    async def live() -> ChannelSubscription:
        subscription = Notes().channels(threads_only)
        subscription.add("one")
        await eventually(lambda: threads_only.statistics().active == 1)
        return subscription

    ended = asyncio.run(live())
    assert ended.closed
    assert threads_only.statistics().wanted == 0
    assert threads_only.statistics().state == "idle"
    ended.close()


def test_callbacks_go_on_elsewhere_while_the_last_one_still_ends(
    threads_only: Multiplexer,
) -> None:
    """A callback that is slow to end with its loop does not keep the others from the next home."""
    got: list[bytes] = []
    begun = threading.Event()

    async def on_message(channel: bytes, payload: bytes) -> None:
        got.append(payload)
        if payload == b"slow":
            begun.set()
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.3)

    lasting = threads_only.new_channel_subscription(on_message)

    async def live() -> None:
        keeper = Notes().channels(threads_only)
        keeper.add("other")
        await eventually(lambda: threads_only.statistics().active == 1)
        await asyncio.to_thread(lasting.add, "one")
        await eventually(lambda: threads_only.statistics().active == 2)
        await threads_only.publish("one", b"slow")
        await eventually(begun.is_set)

    asyncio.run(live())
    wait_until(lambda: threads_only.statistics().active == 1)
    asyncio.run(threads_only.publish("one", b"after"))
    wait_until(lambda: got == [b"slow", b"after"])
    lasting.close()


def test_wish_is_not_lost_with_the_home_that_it_was_posted_to(threads_only: Multiplexer) -> None:
    """What another thread wants while home is ending is wanted at the next one."""
    notes = Notes()
    lasting = notes.channels(threads_only)

    async def live() -> None:
        keeper = Notes().channels(threads_only)
        keeper.add("other")
        await eventually(lambda: threads_only.statistics().active == 1)
        # The job waits, since this loop is blocked, and is refused with all that wait.
        thread = threading.Thread(target=lasting.add, args=("one",))
        thread.start()
        thread.join()
        home = threads_only._hub._residence.current
        assert home is not None
        home.courier.close()

    asyncio.run(live())
    wait_until(lambda: ("active", b"one") in notes.lines)


def while_home_ends(mux: Multiplexer, monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Have a thread do something at the last moment of the home on this loop."""
    life = mux._hub.life
    assert life is not None
    end = life.end

    def end_and_act() -> None:
        end()
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()

    monkeypatch.setattr(life, "end", end_and_act)


def test_wish_of_the_last_moment(
    threads_only: Multiplexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is posted to a home that is over, and does not know it yet, is not lost."""
    lasting = threads_only.new_channel_subscription()

    async def live() -> None:
        keeper = threads_only.new_channel_subscription()
        keeper.add("other")
        await keeper.activated(5)
        while_home_ends(threads_only, monkeypatch, lambda: lasting.add("one"))

    asyncio.run(live())
    wait_until(lambda: threads_only.statistics().active == 1)
    assert threads_only.sync.publish("one", b"1") == 1
    assert lasting.sync.get_message(5) is not None


def test_wish_that_home_hears_of_too_late(broker: MemorySite) -> None:
    """A subscription that is closed by then wants nothing any more."""
    mux = Multiplexer(broker.url)
    subscription = mux.new_pattern_subscription("a*")
    subscription.close()
    subscription._begin(subscription._topic)
    wait_until(lambda: not mux.statistics().wanted)
    mux.close()


def test_wishes_survive_any_number_of_short_homes(threads_only: Multiplexer) -> None:
    """A thread that adds channels while homes come and go gets all of them."""
    lasting = threads_only.new_channel_subscription()
    names = [b"%d" % number for number in range(200)]

    def add() -> None:
        for name in names:
            lasting.add(name)

    async def live() -> None:
        keeper = Notes().channels(threads_only)
        keeper.add("other")
        await keeper.activated(5)

    thread = threading.Thread(target=add)
    thread.start()
    while thread.is_alive():
        asyncio.run(live())
    thread.join()
    lasting.sync.activated(10)
    assert lasting.channels == tuple(names)
    assert len(threads_only._hub.wishes_of(lasting._ear)) == len(names)
    lasting.close()
