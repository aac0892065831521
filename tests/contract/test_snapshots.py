"""What tests of others look at: the groups and channels of this process."""

from __future__ import annotations

import asyncio
import gc

import pytest

from tests.contract.conftest import MakeLayer
from tests.helpers import eventually
from tests.layers import receive


async def test_groups_and_channels_are_seen(make_layer: MakeLayer) -> None:
    """Each member of this process, and each direct channel with what waits in it."""
    layer, other = await make_layer(), await make_layer()
    assert layer.groups == {} == layer.channels
    first, second, foreign = [await each.new_channel() for each in (layer, layer, other)]
    for group, channel in (("a", first), ("a", second), ("b", first), ("a", foreign)):
        await layer.group_add(group, channel)
    assert layer.groups == {"a": {first: True, second: True}, "b": {first: True}}
    assert await asyncio.to_thread(lambda: layer.groups) == layer.groups
    assert other.groups == {"a": {foreign: True}}
    for _ in range(2):
        await layer.send(first, {"type": "x"})
    assert await receive(layer, first) == {"type": "x"}
    await layer.send(first, {"type": "x"})
    await eventually(lambda: sum(layer.channels.values()) == 2)
    assert layer.channels == await asyncio.to_thread(lambda: layer.channels)
    assert layer.channels == {first: 2, second: 0}
    await layer.group_discard("b", first)
    await layer.clean_channel(second)
    assert layer.groups == {"a": {first: True}}
    assert layer.channels == {first: 2}


async def test_collected_names_do_not_count(make_layer: MakeLayer) -> None:
    """A consumer that is gone is gone at once, before anything else has run."""
    layer = await make_layer()
    name, stays = await layer.new_channel(), await layer.new_channel()
    for channel in (name, stays):
        await layer.group_add("room", channel)
    await layer.group_add("hall", name)
    del name, channel
    gc.collect()
    assert layer.groups == {"room": {stays: True}}
    assert layer.channels == {stays: 0}
    await layer.flush()
    assert layer.groups == {}


async def test_unconfirmed_membership_is_seen(make_layer: MakeLayer) -> None:
    """It is there from the call on, and says that Redis has yet to confirm it."""
    layer = await make_layer()
    channel = await layer.new_channel()
    adding = asyncio.ensure_future(layer.group_add("room", channel))
    seen = []
    while not adding.done():
        seen.append(layer.groups)
        await asyncio.sleep(0)
    assert {"room": {channel: False}} in seen
    assert layer.groups == {"room": {channel: True}}


async def test_expired_messages_do_not_count(make_layer: MakeLayer) -> None:
    """What nobody may get any more does not wait."""
    layer = await make_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "x"})
    await eventually(lambda: layer.channels == {channel: 1})
    layer._mailboxes[channel].expiry = 0.0
    assert layer.channels == {channel: 0}


@pytest.mark.parametrize("name", ["groups", "channels"])
async def test_snapshot_is_the_callers_own(make_layer: MakeLayer, name: str) -> None:
    """Whatever is done to it, the layer stays as it is."""
    layer = await make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    before = getattr(layer, name)
    getattr(layer, name).clear()
    assert getattr(layer, name) == before
    with pytest.raises(AttributeError):
        setattr(layer, name, {})
