"""The messages that tell consumers of gaps: never lost, and never many."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from channels.exceptions import ChannelFull

from channels_mpx import MultiplexedChannelLayer
from channels_mpx.gap import Gap
from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK, receive, receive_all

LOST, BACK = {"on_disconnect": "lost"}, {"on_reconnect": "back"}
HASTY = {**QUICK, "reconnect_delay": 0.001, "max_reconnect_delay": 0.001}


@pytest.fixture
async def world() -> AsyncIterator[Broker]:
    """A broker whose layers reconnect at once."""
    with Broker(capacity=3, **HASTY) as world:
        yield world


def types(messages: Iterable[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]


async def send(layer: MultiplexedChannelLayer, channel: str, *kinds: str) -> None:
    for kind in kinds:
        await layer.send(channel, {"type": kind})


def outage(layer: MultiplexedChannelLayer, seconds: float = 0.5) -> Gap:
    """Tell a layer of an outage, as its connection does, in no time; return the gap."""
    gap = Gap(2, "cut", seconds)
    layer._process.gap_opened("cut")
    layer._process.gap_closed(gap)
    return gap


async def test_two_gaps_that_are_one_have_the_reason_and_the_begin_of_the_first(
    world: Broker,
) -> None:
    """For consumers and for subscriptions alike."""
    layer = world.layer(**LOST, **BACK)
    channel = await layer.new_channel()
    gaps, gate = list[Gap](), asyncio.Event()
    news = layer.multiplexer.new_channel_subscription(
        on_activation=lambda name: gate.wait(), on_message=print, on_gap=gaps.append
    )
    news.add("news")
    await news.activated(5)
    for number, reason in enumerate(("first", "second"), 2):
        world.kill_connections(reason)
        await eventually(lambda number=number: layer.statistics().connection.epoch == number)
        await world.recovered()
    lost, back = await receive(layer, channel), await receive(layer, channel)
    gate.set()
    await eventually(lambda: gaps)
    assert (lost["reason"], back["reason"], gaps[0].reason) == ("first",) * 3
    assert back["epoch"] == gaps[0].epoch == 3
    assert back["since"] == pytest.approx(gaps[0].since.timestamp(), abs=0.001)
    news.close()


async def test_full_mailbox_gets_both(world: Broker) -> None:
    """In order, after what waits; neither is a drop, and the layer's messages go on afterwards."""
    layer, sender = world.layer(**LOST, **BACK), world.layer()
    channel = await layer.new_channel()
    await send(sender, channel, *"abcd")
    await eventually(lambda: layer.statistics().dropped["full"] == 1)
    world.kill_connection(layer)
    await eventually(lambda: layer.statistics().connection.epoch == 2)
    await world.recovered()
    assert layer.statistics().dropped["full"] == 1
    heard = [await receive(layer, channel) for _ in range(5)]
    assert types(heard) == ["a", "b", "c", "lost", "back"]
    assert heard[3] == {"type": "lost", "reason": "killed by the test"}
    assert heard[4]["seconds"] > 0
    await send(sender, channel, "e")
    assert types([await receive(layer, channel)]) == ["e"]


async def test_full_mailbox_would_get_neither(world: Broker) -> None:
    """The control: put like a message, a notice is dropped."""
    layer = world.layer(**LOST)
    channel = await layer.new_channel()
    await send(layer, channel, *"abc")
    notice = layer._process._notice(type="lost")
    assert not layer._mailboxes[channel].put(notice)
    assert layer.statistics().dropped["full"] == 1


async def test_waiting_reader_hears_of_every_gap(world: Broker) -> None:
    """Who keeps up is told of each apart."""
    layer = world.layer(**LOST, **BACK)
    channel = await layer.new_channel()
    for _ in range(3):
        outage(layer)
        assert types([await receive(layer, channel) for _ in range(2)]) == ["lost", "back"]


async def test_thousand_outages_that_nobody_reads_of(world: Broker) -> None:
    """They are one gap to whoever hears of them at last, as long as all of them together."""
    layer = world.layer(**LOST, **BACK)
    channel = await layer.new_channel()
    for _ in range(1000):
        world.kill_connection(layer)
        await world.recovered()
    assert layer.statistics().connection.epoch == 1001
    assert layer.statistics().waiting == 2
    lost, back = [await receive(layer, channel) for _ in range(2)]
    assert types((lost, back)) == ["lost", "back"]
    assert back["seconds"] > 0.1
    assert await receive_all(layer, channel) == []


async def test_outages_between_messages_are_bounded_by_the_capacity(world: Broker) -> None:
    """A gap before which something came is told apart; but what does not fit does not come."""
    layer, sent = world.layer(capacity=10, **LOST, **BACK), 0
    channel = await layer.new_channel()
    for _ in range(10_000):
        with contextlib.suppress(ChannelFull):
            await send(layer, channel, "a")
            sent += 1
        outage(layer)
    assert sent == 4
    assert layer.statistics().waiting == 12
    assert types(await receive_all(layer, channel)) == ["a", "lost", "back"] * 4


async def test_gaps_with_something_between_are_told_apart(world: Broker) -> None:
    """So that whoever reads knows where messages are missing."""
    layer = world.layer(capacity=10, **LOST, **BACK)
    channel = await layer.new_channel()
    await send(layer, channel, "a")
    outage(layer)
    await send(layer, channel, "b")
    outage(layer)
    outage(layer)
    await send(layer, channel, "c")
    heard = types(await receive_all(layer, channel))
    assert heard == ["a", "lost", "back", "b", "lost", "back", "c"]


async def test_gap_after_one_half_heard_goes_on(world: Broker) -> None:
    """Whoever has heard of the begin only hears of the end when it is over, and how long it was."""
    layer = world.layer(**LOST, **BACK)
    channel = await layer.new_channel()
    first = outage(layer, 30.0)
    assert types([await receive(layer, channel)]) == ["lost"]
    layer._process.gap_opened("cut")
    assert await receive_all(layer, channel) == []
    layer._process.gap_closed(Gap(2, "cut", 0.1))
    (back,) = await receive_all(layer, channel)
    assert (back["type"], back["seconds"] >= 30.0) == ("back", True)
    assert back["since"] == first.since.timestamp()
    second = outage(layer, 0.25)
    (lost, back) = await receive_all(layer, channel)
    assert (types((lost, back)), back["seconds"]) == (["lost", "back"], 0.25)
    assert back["since"] == second.since.timestamp()


@pytest.mark.parametrize(
    ("config", "heard"), [(LOST, ["lost"]), (BACK, ["back"]), ({}, [])], ids=["lost", "back", "no"]
)
async def test_one_kind_of_notice_alone(
    world: Broker, config: dict[str, str], heard: list[str]
) -> None:
    """Each is bounded without the other; who has asked for none gets none."""
    layer = world.layer(**config)
    channel = await layer.new_channel()
    for _ in range(100):
        outage(layer)
    assert types(await receive_all(layer, channel)) == heard
    outage(layer)
    assert types(await receive_all(layer, channel)) == heard


async def test_begin_is_told_again_after_a_gap_that_was_forgotten(world: Broker) -> None:
    """A gap without an end, because nobody was there, does not keep the next one from being told."""
    layer = world.layer(**LOST, **BACK)
    channel = await layer.new_channel()
    layer._process.gap_opened("cut")
    outage(layer)
    assert types(await receive_all(layer, channel)) == ["lost", "back"]


async def test_notices_do_not_expire(world: Broker) -> None:
    """What waits behind them does, and makes room, though nobody has read."""
    layer = world.layer(expiry=0.2, **LOST, **BACK)
    channel = await layer.new_channel()
    outage(layer)
    await send(layer, channel, "a")
    await eventually(lambda: layer.statistics().dropped["expired"] == 1)
    assert layer.statistics().waiting == 2
    assert types(await receive_all(layer, channel)) == ["lost", "back"]


async def test_notices_survive_a_flush(world: Broker) -> None:
    """Messages do not."""
    layer = world.layer(**LOST, **BACK)
    channel = await layer.new_channel()
    await send(layer, channel, "a")
    outage(layer)
    await layer.flush()
    assert types(await receive_all(layer, channel)) == ["lost", "back"]


async def test_notices_beside_a_reader_in_another_thread(world: Broker) -> None:
    """Begin and end alternate, whatever is taken out in between."""
    layer = world.layer(capacity=10, **LOST, **BACK)
    heard: list[str] = []
    names: list[str] = []
    is_there = threading.Event()

    async def read() -> None:
        names.append(await layer.new_channel())
        is_there.set()
        while not heard or heard[-1] != "end":
            heard.extend(types([await layer.receive(names[0])]))

    home = await layer.new_channel()
    reader = asyncio.ensure_future(asyncio.to_thread(lambda: asyncio.run(read())))
    await asyncio.to_thread(is_there.wait)
    for number in range(2000):
        outage(layer)
        if number % 50 == 0:
            await asyncio.sleep(0)
    await eventually(lambda: len(layer._mailboxes[names[0]]) == 0)
    await send(layer, names[0], "end")
    await asyncio.wait_for(reader, 10)
    told = heard[:-1]
    assert told == ["lost", "back"] * (len(told) // 2)
    assert told
    assert types([await receive(layer, home) for _ in range(2)]) == ["lost", "back"]
