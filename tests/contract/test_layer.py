"""The contract of every channel layer, on memory, on Redis, and on Channels' own as an oracle."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer, InMemoryChannelLayer

from tests.layers import receive


async def test_receive_returns_what_was_sent(layer: Any) -> None:
    """A message sent to a direct channel arrives there, unchanged."""
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "a", "text": "ä€"})
    assert await receive(layer, channel) == {"type": "a", "text": "ä€"}


async def test_receive_waits_for_a_message(layer: Any) -> None:
    """A reader that comes first gets the message that comes later."""
    channel = await layer.new_channel()
    reader = asyncio.ensure_future(receive(layer, channel))
    await asyncio.sleep(0)
    assert not reader.done()
    await layer.send(channel, {"type": "a"})
    assert await reader == {"type": "a"}


async def test_receive_keeps_the_order_of_one_sender(layer: Any) -> None:
    """Messages of one sender are received in the order in which they were sent."""
    channel = await layer.new_channel()
    for start in range(0, 100, 5):
        for number in range(start, start + 5):
            await layer.send(channel, {"number": number})
        got = [(await receive(layer, channel))["number"] for _ in range(5)]
        assert got == list(range(start, start + 5))


async def test_receive_gives_each_channel_its_own(layer: Any) -> None:
    """What is sent to one channel does not appear in another."""
    first, second = await layer.new_channel(), await layer.new_channel()
    await layer.send(first, {"to": 1})
    await layer.send(second, {"to": 2})
    assert await receive(layer, second) == {"to": 2}
    assert await receive(layer, first) == {"to": 1}


async def test_new_channel_is_unique_and_valid(layer: Any) -> None:
    """Names of channels never repeat, are valid, specific to a process, and keep their prefix."""
    names = [await layer.new_channel() for _ in range(200)]
    assert len(set(names)) == 200
    for name in names:
        assert BaseChannelLayer.channel_name_regex.match(name)
        assert len(name) < BaseChannelLayer.MAX_NAME_LENGTH
        assert "!" in name
    assert (await layer.new_channel("chat.")).startswith("chat.")


async def test_group_send_reaches_each_member_once(layer: Any) -> None:
    """A channel that was added twice gets one copy, and so does each other member."""
    first, second = await layer.new_channel(), await layer.new_channel()
    for channel in (first, first, second):
        await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "a"})
    await layer.group_send("room", {"type": "end"})
    for channel in (first, second):
        assert [await receive(layer, channel) for _ in range(2)] == [{"type": "a"}, {"type": "end"}]


async def test_group_discard_ends_a_membership(layer: Any) -> None:
    """After the discard nothing comes through the group; other members are not concerned."""
    gone, stays = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", gone)
    await layer.group_add("room", stays)
    await layer.group_discard("room", gone)
    await layer.group_send("room", {"type": "a"})
    assert await receive(layer, stays) == {"type": "a"}
    await layer.send(gone, {"type": "direct"})
    assert await receive(layer, gone) == {"type": "direct"}


async def test_group_discard_of_a_stranger_is_silent(layer: Any) -> None:
    """Discarding from an unknown group, or a channel that is no member, changes nothing."""
    member, other = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", member)
    await layer.group_discard("room", other)
    await layer.group_discard("nowhere", member)
    await layer.group_send("room", {"type": "a"})
    assert await receive(layer, member) == {"type": "a"}


async def test_group_add_after_discard_joins_again(layer: Any) -> None:
    """Memberships may end and begin again any number of times."""
    channel = await layer.new_channel()
    for number in range(5):
        await layer.group_add("room", channel)
        await layer.group_send("room", {"number": number})
        assert await receive(layer, channel) == {"number": number}
        await layer.group_discard("room", channel)
        await layer.group_send("room", {"number": "lost"})


async def test_group_send_to_an_unknown_group_is_silent(layer: Any) -> None:
    """Sending to a group without members raises nothing."""
    await layer.group_send("nobody", {"type": "a"})


async def test_group_send_tells_groups_apart(layer: Any) -> None:
    """A channel in two groups hears both; a channel in one hears that one."""
    both, one = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("red", both)
    await layer.group_add("blue", both)
    await layer.group_add("blue", one)
    await layer.group_send("red", {"from": "red"})
    await layer.group_send("blue", {"from": "blue"})
    assert [await receive(layer, both) for _ in range(2)] == [{"from": "red"}, {"from": "blue"}]
    assert await receive(layer, one) == {"from": "blue"}


@pytest.mark.parametrize(
    "name", ["", "with space", "ü", "a" * 100, "slash/", "a!b!c", b"bytes", None, 5]
)
async def test_verbs_refuse_bad_names(layer: Any, name: Any) -> None:
    """A name that Channels does not allow raises its TypeError, whatever the verb."""
    channel = await layer.new_channel()
    for verb in (
        layer.send(name, {"type": "a"}),
        layer.group_add("room", name),
        layer.group_add(name, channel),
        layer.group_discard(name, channel),
        layer.group_send(name, {"type": "a"}),
    ):
        with pytest.raises(TypeError, match="name must be a valid unicode string"):
            await verb


async def test_send_accepts_the_longest_name(layer: Any) -> None:
    """A name of 99 characters is allowed everywhere, one of 100 is not."""
    channel = await layer.new_channel()
    await layer.group_add("g" * 99, channel)
    await layer.group_send("g" * 99, {"type": "a"})
    assert await receive(layer, channel) == {"type": "a"}
    await layer.send("w" * 99, {"type": "w"})
    assert await receive(layer, "w" * 99) == {"type": "w"}


@pytest.mark.parametrize("message", [None, "text", b"bytes", ["list"], 5])
async def test_send_refuses_what_is_not_a_dict(layer: Any, message: Any) -> None:
    """A message that is not a dict raises an error where it is sent."""
    channel = await layer.new_channel()
    with pytest.raises((TypeError, AssertionError)):
        await layer.send(channel, message)
    if not isinstance(layer, InMemoryChannelLayer):
        with pytest.raises(TypeError, match="a message is a dict"):
            await layer.group_send("room", message)


async def test_send_raises_channel_full_in_the_same_process(layer: Any) -> None:
    """Once `capacity` messages wait in a direct channel, its own process learns that it is full."""
    channel = await layer.new_channel()
    for number in range(5):
        await layer.send(channel, {"number": number})
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"number": 5})
    assert [(await receive(layer, channel))["number"] for _ in range(5)] == list(range(5))
    await layer.send(channel, {"number": 6})
    assert await receive(layer, channel) == {"number": 6}


async def test_group_send_never_raises_channel_full(layer: Any) -> None:
    """A full member loses messages; the sender and the other members do not notice."""
    full, empty = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", full)
    await layer.group_add("room", empty)
    for number in range(8):
        await layer.group_send("room", {"number": number})
        assert await receive(layer, empty) == {"number": number}
    assert [(await receive(layer, full))["number"] for _ in range(5)] == list(range(5))


async def test_receive_isolates_readers_from_each_other(layer: Any) -> None:
    """What one receiver does to a flat or nested message no other receiver and no sender sees."""
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    for message in ({"n": 1}, {"n": {"list": [1, {"deep": 2}]}}):
        await layer.group_send("room", message)
        first = await receive(layer, channels[0])
        first["n"] = "changed" if message == {"n": 1} else first["n"]["list"][1].update(deep=3)
        first["new"] = True
        for channel in channels[1:]:
            assert await receive(layer, channel) == message
    assert message == {"n": {"list": [1, {"deep": 2}]}}


async def test_send_takes_the_message_as_it_is_now(layer: Any) -> None:
    """Changing a message after sending it changes nothing for its reader."""
    channel = await layer.new_channel()
    message = {"list": [1]}
    await layer.send(channel, message)
    message["list"].append(2)
    assert await receive(layer, channel) == {"list": [1]}


async def test_receive_timeouts_lose_nothing(layer: Any) -> None:
    """A reader that gives up again and again while messages come still gets every one of them."""
    channel = await layer.new_channel()
    got: list[int] = []

    async def read() -> None:
        while len(got) < 200:
            try:
                message = await asyncio.wait_for(layer.receive(channel), 0.0005)
            except asyncio.TimeoutError:
                continue
            got.append(message["number"])

    reader = asyncio.ensure_future(read())
    for number in range(200):
        while True:
            try:
                await layer.send(channel, {"number": number})
                break
            except ChannelFull:
                await asyncio.sleep(0.001)
    await asyncio.wait_for(reader, 20)
    assert got == list(range(200))


async def test_flush_forgets_messages_and_memberships(layer: Any) -> None:
    """After a flush nothing that was sent before arrives, groups are empty, the layer goes on."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send("work", {"type": "old"})
    await layer.send(channel, {"type": "old"})
    await layer.flush()
    await layer.group_send("room", {"type": "old"})
    fresh = await layer.new_channel()
    await layer.group_add("room", fresh)
    await layer.group_send("room", {"type": "new"})
    assert await receive(layer, fresh) == {"type": "new"}
    await layer.send("work", {"type": "new"})
    assert await receive(layer, "work") == {"type": "new"}


async def test_layer_has_the_attributes_of_the_specification(layer: Any) -> None:
    """`extensions` and `group_expiry` say what the layer offers."""
    assert {"groups", "flush"} <= set(layer.extensions)
    assert layer.group_expiry == 86400
