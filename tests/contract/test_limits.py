"""What the layer promises beyond the oracle: bounds, expiry, types and sizes, closing."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest
from channels.exceptions import ChannelFull, MessageTooLarge

from channels_mpx import ClosedError, EncodingError, UnknownChannel
from tests.contract.conftest import MakeLayer
from tests.helpers import eventually
from tests.layers import receive, receive_all

MEGABYTE = 2**20


async def fill(layer: Any, channel: str) -> int:
    """Send until the channel is full; return how many messages went in."""
    for number in range(1000):
        try:
            await layer.send(channel, {"number": number})
        except ChannelFull:
            return number
    raise AssertionError("it is never full")


async def test_channel_capacity_goes_by_glob_and_by_regex(make_layer: MakeLayer) -> None:
    """`channel_capacity` takes globs and compiled patterns; the first that matches decides."""
    layer = await make_layer(
        capacity=3, channel_capacity={"chat.*": 2, re.compile(r"^(chat|big)\."): 7}
    )
    for prefix, expected in (("chat.", 2), ("big.", 7), ("other.", 3)):
        channel = await layer.new_channel(prefix)
        assert await fill(layer, channel) == expected
    assert await fill(layer, "big.queue") == 7
    assert await fill(layer, "some-queue") == 3


async def test_send_raises_channel_full_for_a_worker_channel(make_layer: MakeLayer) -> None:
    """The sender to a worker channel learns that it is full, in whatever process, and it drains."""
    sender, worker = await make_layer(capacity=3), await make_layer(capacity=3)
    assert await fill(sender, "work") == 3
    assert [(await receive(worker, "work"))["number"] for _ in range(3)] == [0, 1, 2]
    await sender.send("work", {"number": 4})
    assert await receive(worker, "work") == {"number": 4}


async def test_statistics_count_what_a_full_channel_loses(make_layer: MakeLayer) -> None:
    """Messages of another process that do not fit are dropped and counted exactly."""
    sender, owner = await make_layer(), await make_layer(capacity=3)
    channel = await owner.new_channel()
    for number in range(10):
        await sender.send(channel, {"number": number})
    await eventually(lambda: owner.statistics().dropped["full"] == 7)
    assert owner.statistics().waiting == 3
    assert owner.statistics().deepest == (channel, 3)
    assert [m["number"] for m in await receive_all(owner, channel)] == [0, 1, 2]
    assert owner.statistics().delivered == 3


async def test_unread_messages_expire(make_layer: MakeLayer) -> None:
    """What nobody reads for `expiry` seconds is dropped, in direct and in worker channels."""
    layer = await make_layer(expiry=0.2)
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "old"})
    await layer.send("work", {"type": "old"})
    await asyncio.sleep(0.3)  # the time itself is what is tested
    await layer.send(channel, {"type": "new"})
    await layer.send("work", {"type": "new"})
    assert await receive(layer, channel) == {"type": "new"}
    assert await receive(layer, "work") == {"type": "new"}
    assert layer.statistics().dropped["expired"] == 2


async def test_unread_messages_stay_before_their_expiry(make_layer: MakeLayer) -> None:
    """The negative control: with a longer `expiry` the same messages are there."""
    layer = await make_layer(expiry=30)
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "old"})
    await layer.send("work", {"type": "old"})
    await asyncio.sleep(0.3)  # the time itself is what is tested
    assert await receive(layer, channel) == {"type": "old"}
    assert await receive(layer, "work") == {"type": "old"}


EVERYTHING = {
    "bytes": b"\x00\xff",
    "text": "naïve ☃ \U0001f600 \x00",
    "integers": [0, -1, 2**63 - 1, -(2**63)],
    "floats": [0.5, -0.0, 1e308, 5e-324],
    "nested": {"list": [[], {}, [{"deep": [1]}]], "": ""},
    "none": None,
    "booleans": [True, False],
}


@pytest.mark.parametrize("keys", [None, ["secret"]], ids=["clear", "encrypted"])
async def test_messages_travel_unchanged(make_layer: MakeLayer, keys: Any) -> None:
    """Everything that the specification allows arrives equal and of the same type."""
    sender = await make_layer(symmetric_encryption_keys=keys)
    owner = await make_layer(symmetric_encryption_keys=keys)
    channel = await owner.new_channel()
    await owner.group_add("room", channel)
    await sender.send(channel, EVERYTHING)
    await sender.group_send("room", EVERYTHING)
    await sender.send("work", EVERYTHING)
    for source in (channel, channel, "work"):
        got = await receive(owner, source)
        assert got == EVERYTHING
        assert repr(got) == repr(EVERYTHING)


@pytest.mark.parametrize("form", ["msgpack", "json"])
async def test_tuples_arrive_as_lists(make_layer: MakeLayer, form: str) -> None:
    """A tuple, also inside of something, arrives as a list, whatever the serializer."""
    layer = await make_layer(serializer_format=form)
    channel = await layer.new_channel()
    await layer.send(channel, {"flat": (1, 2), "nested": [{"a": ("x", None, 0.5)}]})
    assert await receive(layer, channel) == {"flat": [1, 2], "nested": [{"a": ["x", None, 0.5]}]}


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"a": {"when": object()}}, "when"),
        ({"a": [1, 2**64]}, "[1]"),
        ({"a": {1: "x"}}, "1"),
        ({"set": {1, 2}}, "set"),
    ],
)
async def test_send_names_what_cannot_travel(
    make_layer: MakeLayer, message: Any, path: str
) -> None:
    """A value without a form on the wire is an error at the sender that names its key."""
    layer = await make_layer()
    channel = await layer.new_channel()
    for attempt in (layer.send(channel, message), layer.group_send("room", message)):
        with pytest.raises(EncodingError, match=re.escape(path)):
            await attempt
    assert layer.statistics().waiting == 0


async def test_message_too_large_leaves_nothing(make_layer: MakeLayer) -> None:
    """Over `max_message_size` the sender gets `MessageTooLarge`, and no byte leaves."""
    layer = await make_layer(max_message_size=2000)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    before = layer.statistics().connection
    message = {"text": "x" * 2000}
    for attempt in (
        layer.send(channel, message),
        layer.send("work", message),
        layer.group_send("room", message),
    ):
        with pytest.raises(MessageTooLarge, match="max_message_size is 2000"):
            await attempt
    after = layer.statistics().connection
    assert (after.commands, after.bytes_written) == (before.commands, before.bytes_written)
    await layer.send(channel, {"text": "x" * 1800})
    assert len((await receive(layer, channel))["text"]) == 1800


@pytest.mark.parametrize("size", [1, 5])
async def test_large_messages_arrive(make_layer: MakeLayer, size: int) -> None:
    """Messages of 1 MB and of 5 MB are carried by every kind of channel."""
    layer = await make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    data = bytes(range(256)) * (size * MEGABYTE // 256)
    await layer.send(channel, {"data": data})
    assert (await receive(layer, channel))["data"] == data
    await layer.group_send("room", {"data": data})
    assert (await receive(layer, channel))["data"] == data
    await layer.send("work", {"data": data})
    assert (await receive(layer, "work"))["data"] == data


async def test_key_rotation_loses_no_message(make_layer: MakeLayer) -> None:
    """A process with the new key first and one with the old key first understand each other."""
    old = await make_layer(symmetric_encryption_keys=["old", "new"])
    new = await make_layer(symmetric_encryption_keys=["new", "old"])
    for sender, owner in ((old, new), (new, old)):
        channel = await owner.new_channel()
        await sender.send(channel, {"type": "a"})
        assert await receive(owner, channel) == {"type": "a"}


async def test_aclose_ends_readers_and_the_layer_can_be_used_again(make_layer: MakeLayer) -> None:
    """Whoever waits gets `ClosedError`, channels end, and the next verb connects again."""
    layer = await make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    direct = asyncio.ensure_future(layer.receive(channel))
    worker = asyncio.ensure_future(layer.receive("work"))
    await eventually(lambda: layer.statistics().connection.active == 3)
    await layer.aclose()
    for reader in (direct, worker):
        with pytest.raises(ClosedError):
            await asyncio.wait_for(reader, 5)
    await layer.aclose()
    assert layer.statistics().connection.state == "idle"
    assert (layer.statistics().channels, layer.statistics().groups) == (0, 0)
    with pytest.raises(UnknownChannel):
        await layer.receive(channel)
    again = await layer.new_channel()
    await layer.group_add("room", again)
    await layer.group_send("room", {"type": "a"})
    assert await receive(layer, again) == {"type": "a"}


async def test_aclose_on_an_unused_layer_does_nothing(make_layer: MakeLayer) -> None:
    """Closing what was never connected connects nothing."""
    layer = await make_layer()
    await layer.aclose()
    assert layer.statistics().connection.epoch == 0


async def test_flush_lets_waiting_readers_go_on(make_layer: MakeLayer) -> None:
    """A consumer that waits during a flush keeps its channel and gets what comes afterwards."""
    layer = await make_layer()
    channel = await layer.new_channel()
    direct = asyncio.ensure_future(receive(layer, channel))
    worker = asyncio.ensure_future(receive(layer, "work"))
    await eventually(lambda: layer.statistics().connection.active >= 2)
    await layer.flush()
    await layer.send(channel, {"type": "direct"})
    await layer.send("work", {"type": "worker"})
    assert await direct == {"type": "direct"}
    assert await worker == {"type": "worker"}


async def test_flush_leaves_other_prefixes_alone(make_layer: MakeLayer) -> None:
    """Queues under another prefix survive a flush, glob characters notwithstanding."""
    ours, theirs = await make_layer(prefix="a.b"), await make_layer(prefix="a-b")
    longer = await make_layer(prefix="a.b.c")
    for layer in (ours, theirs, longer):
        await layer.send("work", {"type": "kept"})
    await ours.flush()
    for layer in (theirs, longer):
        assert await receive(layer, "work") == {"type": "kept"}
    with pytest.raises(asyncio.TimeoutError):
        await receive(ours, "work", 0.2)


async def test_statistics_count_what_is_sent_and_how_long_it_took(make_layer: MakeLayer) -> None:
    """By kind, where it is sent; the lag where it arrives. What is too large is not sent."""
    sender, owner = await make_layer(max_message_size=1024), await make_layer()
    began = time.time()
    assert owner.statistics().lag is None
    channel = await owner.new_channel()
    await owner.group_add("room", channel)
    await sender.send(channel, {"type": "hello"})
    await sender.group_send("room", {"type": "hello"})
    await sender.group_send("room", {"type": "hello"})
    await sender.send("work", {"type": "hello"})
    with pytest.raises(MessageTooLarge):
        await sender.send(channel, {"text": "x" * 1024})
    asked = asyncio.ensure_future(sender.request(channel, {"type": "ask"}))
    while (event := await receive(owner, channel))["type"] != "ask":
        pass
    await owner.reply(event, {"type": "answer"})
    await asked
    assert sender.statistics().sent == {"group": 2, "direct": 2, "worker": 1, "reply": 0}
    assert owner.statistics().sent == {"group": 0, "direct": 0, "worker": 0, "reply": 1}
    lag = owner.statistics().lag
    assert lag is not None
    assert 0 <= lag.last <= lag.most <= time.time() - began + 0.01
