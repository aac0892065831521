"""What waits in subscriptions, and what became of their messages, in numbers."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest

from channels_mpx import MultiplexedChannelLayer, Multiplexer
from channels_mpx.statistics import HubStatistics, SubscriptionStatistics
from tests.helpers import eventually
from tests.layers import QUICK

NOTHING: dict[str, Any] = {"full": 0, "removed": 0}


def numbers(mux: Multiplexer) -> SubscriptionStatistics:
    """Return the numbers of its subscriptions."""
    return mux.statistics().subscriptions


async def fill(mux: Multiplexer, channel: str, count: int) -> None:
    """Publish so many messages, and wait until all have come."""
    received = mux.statistics().received
    for number in range(count):
        await mux.publish(channel, b"%d" % number)
    await eventually(lambda: mux.statistics().received == received + count)


async def test_what_waits_and_what_was_dropped(mux: Multiplexer) -> None:
    """Of all subscriptions together; the one in which most waits is named."""
    assert isinstance(mux.statistics(), HubStatistics)
    assert numbers(mux) == SubscriptionStatistics(0, 0, None, 0, NOTHING)
    slow = mux.new_channel_subscription(capacity=5)
    for name in ("news", "weather", "sport"):
        slow.add(name)
    rooms = mux.new_pattern_subscription("room.*")
    await slow.activated(5)
    await rooms.activated(5)
    await fill(mux, "news", 12)
    await fill(mux, "room.1", 2)
    deepest = ("ChannelSubscription news +2", 5)
    assert numbers(mux) == SubscriptionStatistics(2, 7, deepest, 0, {**NOTHING, "full": 7})
    for _ in range(4):
        await slow.get_message(0)
    deepest = ("PatternSubscription room.*", 2)
    assert numbers(mux) == SubscriptionStatistics(2, 3, deepest, 4, {**NOTHING, "full": 7})
    slow.clear()
    slow.add("news")
    assert slow._tie.name == "ChannelSubscription news"


async def test_callbacks_are_counted_too(mux: Multiplexer) -> None:
    """What they got, not what they were told; and what waited for a channel that was removed."""
    gate, got = asyncio.Event(), []

    async def on_message(channel: bytes, payload: bytes) -> None:
        got.append(payload)
        await gate.wait()

    subscription = mux.new_channel_subscription(on_message, on_activation=print)
    subscription.add("one")
    subscription.add("two")
    await subscription.activated(5)
    await fill(mux, "one", 3)
    await fill(mux, "two", 4)
    assert (numbers(mux).delivered, numbers(mux).waiting) == (1, 6)
    subscription.remove("two")
    gate.set()
    await eventually(lambda: numbers(mux).waiting == 0)
    assert len(got) == numbers(mux).delivered == subscription.delivered == 3
    assert numbers(mux).dropped == {"full": 0, "removed": 4}


async def test_readers_drop_what_was_removed(mux: Multiplexer) -> None:
    """It is counted as such, and not as delivered."""
    async with mux.new_channel_subscription() as subscription:
        subscription.add("one")
        subscription.add("two")
        await subscription.activated(5)
        await fill(mux, "one", 2)
        await fill(mux, "two", 1)
        subscription.remove("one")
        message = await subscription.get_message(5)
        assert message is not None
        assert message.channel == b"two"
    assert (numbers(mux).delivered, numbers(mux).dropped["removed"]) == (1, 2)


async def test_closed_subscriptions_do_not_take_the_counters_back(
    mux: Multiplexer, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither when they are closed nor when they are gone; what waited in them is not there."""
    caplog.set_level(logging.ERROR, "channels_mpx.multiplexer")  # records would hold them
    for round_ in (1, 2, 3):
        subscription = mux.new_channel_subscription(capacity=2)
        subscription.add("one")
        await subscription.activated(5)
        await fill(mux, "one", 5)
        await subscription.get_message(0)
        totals = (round_, {**NOTHING, "full": 3 * round_})
        assert (numbers(mux).delivered, numbers(mux).dropped) == totals
        subscription.close()
        closed = SubscriptionStatistics(0, 0, None, *totals)
        assert numbers(mux) == closed
        del subscription
        gc.collect()
        assert numbers(mux) == closed
        # Of those that are gone only the sum is left.
        assert len(mux._registry._meters) == 0


async def test_nobody_has_to_ask(mux: Multiplexer) -> None:
    """Whoever makes and closes subscriptions for ever does not fill the memory with counters."""
    for _ in range(50):
        mux.new_channel_subscription().close()
        gc.collect()
    assert len(mux._registry._meters) <= 1
    assert numbers(mux).count == 0


async def test_message_in_hand_when_it_is_closed(mux: Multiplexer) -> None:
    """The reader gets it, and it counts."""
    subscription = mux.new_pattern_subscription("num*")
    await subscription.activated(5)
    reader = asyncio.create_task(subscription.get_message())
    await eventually(lambda: subscription._mailbox.is_awaited)
    subscription._ear.deliver(subscription._topic, b"number", b"1")
    subscription.close()
    message = await reader
    assert message is not None
    assert numbers(mux).delivered == subscription.delivered == 1


async def test_layer_has_those_of_its_multiplexer() -> None:
    """Apart from its channels, and so has its multiplexer; consumers' messages are not twice."""
    layer = MultiplexedChannelLayer(hosts=["memory://subscription-numbers"], **QUICK)
    mux, channel = layer.multiplexer, await layer.new_channel()
    async with mux.new_pattern_subscription("room.*", capacity=50) as rooms:
        for number in range(200):
            await mux.publish("room.1", b"%d" % number)
        await eventually(lambda: rooms.dropped == 150)
        await layer.send(channel, {"type": "a"})
        now = layer.statistics()
        assert (now.waiting, now.deepest, now.dropped["full"]) == (1, (channel, 1), 0)
        deepest = ("PatternSubscription room.*", 50)
        assert now.subscriptions == SubscriptionStatistics(
            1, 50, deepest, 0, {**NOTHING, "full": 150}
        )
        assert numbers(mux) == now.subscriptions
    await layer.aclose()
    assert layer.statistics().subscriptions.dropped["full"] == 150
