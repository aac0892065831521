"""Every message that was published is delivered or dropped, and counted once."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from channels_mpx import MultiplexedChannelLayer
from channels_mpx.body import Body
from tests.contract.conftest import MakeLayer
from tests.helpers import eventually
from tests.layers import reading, receive

KEYS: Any = {"symmetric_encryption_keys": ["ours"]}
OTHER_KEYS: Any = {"symmetric_encryption_keys": ["theirs"]}


def accounted(layer: MultiplexedChannelLayer) -> int:
    """Return how many messages have come to an end."""
    numbers = layer.statistics()
    return numbers.delivered + sum(numbers.dropped.values())


async def test_direct_channel_counts_garbage_as_dropped_only(make_layer: MakeLayer) -> None:
    """Whether its bodies waited, found a reader waiting, or did not fit."""
    owner = await make_layer(capacity=6, **KEYS)
    friend, stranger = await make_layer(**KEYS), await make_layer(**OTHER_KEYS)
    channel = await owner.new_channel()
    async with reading(owner, channel) as reader:
        await eventually(lambda: owner._mailboxes[channel].is_awaited)
        for sender in (stranger, stranger, friend):
            await sender.send(channel, {"type": "a"})
        assert await reader == {"type": "a"}
    for _ in range(4):
        await stranger.send(channel, {"type": "b"})
        await friend.send(channel, {"type": "b"})
    await eventually(lambda: accounted(owner) + owner.statistics().waiting == 11)
    for _ in range(3):
        assert await receive(owner, channel) == {"type": "b"}
    numbers = owner.statistics()
    assert (numbers.delivered, numbers.waiting) == (4, 0)
    assert numbers.dropped == {
        "full": 2, "expired": 0, "ended": 0, "malformed": 5, "unknown": 0, "late": 0,
    }  # fmt: skip
    await owner.clean_channel(channel)
    assert accounted(owner) == 11


@pytest.mark.parametrize("ends", ["name", "clean_channel", "aclose"])
async def test_what_waits_in_a_channel_that_ends_is_counted(
    make_layer: MakeLayer, ends: str
) -> None:
    """Nobody will ever get it: neither what was taken nor a notice is among it."""
    owner, sender = await make_layer(on_disconnect="gap.opened"), await make_layer()
    channel = await owner.new_channel()
    for _ in range(3):
        await sender.send(channel, {"type": "a"})
    await eventually(lambda: owner.statistics().waiting == 3)
    await receive(owner, channel)
    owner._mailboxes[channel].force(Body.made(owner.codec, {"type": "gap.opened"}, math.inf))
    if ends == "name":
        del channel
    elif ends == "clean_channel":
        await owner.clean_channel(channel)
    else:
        await owner.aclose()
    await eventually(lambda: owner.statistics().channels == 0)
    assert (owner.statistics().delivered, owner.statistics().dropped["ended"]) == (1, 2)


async def test_group_counts_garbage_once_and_delivers_it_to_nobody(make_layer: MakeLayer) -> None:
    """However many members take it."""
    owner = await make_layer(**KEYS)
    friend, stranger = await make_layer(**KEYS), await make_layer(**OTHER_KEYS)
    channels = [await owner.new_channel() for _ in range(3)]
    for channel in channels:
        await owner.group_add("room", channel)
    await stranger.group_send("room", {"type": "a"})
    await friend.group_send("room", {"type": "a"})
    for channel in channels:
        assert await receive(owner, channel) == {"type": "a"}
    numbers = owner.statistics()
    assert (numbers.delivered, numbers.dropped["malformed"]) == (3, 1)


async def test_worker_channel_counts_garbage_as_dropped_only(make_layer: MakeLayer) -> None:
    """Whether it waited in the queue or was popped for who waits."""
    worker = await make_layer(**KEYS)
    friend, stranger = await make_layer(**KEYS), await make_layer(**OTHER_KEYS)
    for sender in (stranger, friend, stranger):
        await sender.send("work", {"type": "a"})
    assert await receive(worker, "work") == {"type": "a"}
    async with reading(worker, "work") as reader:
        await eventually(lambda: worker.statistics().dropped["malformed"] == 2)
        await stranger.send("work", {"type": "b"})
        await friend.send("work", {"type": "b"})
        assert await reader == {"type": "b"}
    numbers = worker.statistics()
    assert (numbers.delivered, numbers.dropped["malformed"], accounted(worker)) == (2, 3, 5)


async def test_reader_that_goes_away_has_got_nothing(make_layer: MakeLayer) -> None:
    """A message that goes back is counted when somebody gets it, and only then."""
    layer = await make_layer()
    channel = await layer.new_channel()
    for name in (channel, "work"):
        readers = [asyncio.ensure_future(layer.receive(name)) for _ in range(3)]
        await asyncio.sleep(0)
        await layer.send(name, {"type": "a"})
        for reader in readers:
            reader.cancel()
        ends = await asyncio.gather(*readers, return_exceptions=True)
        if not any(isinstance(end, dict) for end in ends):
            assert await receive(layer, name) == {"type": "a"}
    assert layer.statistics().delivered == 2
