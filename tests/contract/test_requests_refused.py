"""Requests that get no reply, and what is no request: an error that says why."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from channels.exceptions import ChannelFull, MessageTooLarge

from channels_mpx import (
    ClosedError,
    EncodingError,
    InvalidTimeout,
    NoListener,
    NotARequest,
    RemoteError,
    RequestTimeout,
)
from tests.contract.asking import NOBODY, double, listening, pair
from tests.contract.conftest import MakeLayer
from tests.helpers import eventually
from tests.layers import answering, receive, receive_all


@pytest.mark.parametrize("keys", [None, ["secret"]], ids=["clear", "encrypted"])
async def test_request_to_nobody_fails_at_once(make_layer: MakeLayer, keys: Any) -> None:
    """A process that is gone, a channel that was never made, a worker channel without readers."""
    asker, owner, channel = await pair(make_layer, symmetric_encryption_keys=keys)
    for name in (NOBODY, "a!b", f"{channel}99", "work"):
        for layer in (asker, owner):
            with pytest.raises(NoListener, match=name):
                await layer.request(name, {"type": "ask"}, timeout=30)
    assert await receive_all(owner, "work") == []
    assert owner.statistics().dropped["unknown"] == 2


async def test_request_to_a_full_channel_fails_at_once(make_layer: MakeLayer) -> None:
    """`ChannelFull` for whoever asks, in whatever process; what waits there stays."""
    asker, owner, channel = await pair(make_layer, capacity=2)
    for name in (channel, "work"):
        for number in range(2):
            await owner.send(name, {"number": number})
    await eventually(lambda: owner.statistics().waiting == 2)
    for name in (channel, "work"):
        for layer in (asker, owner):
            with pytest.raises(ChannelFull, match=name):
                await layer.request(name, {"type": "ask"}, timeout=30)
        assert [(await receive(owner, name))["number"] for _ in range(2)] == [0, 1]


async def test_channel_that_goes_away_sends_its_requests_back(make_layer: MakeLayer) -> None:
    """What its consumer has not taken was not handled; what it has taken is another matter."""
    asker, owner, channel = await pair(make_layer, timeout=30)
    name = str.__str__(channel)
    taken = asyncio.ensure_future(asker.request(name, {"number": 0}))
    event = await receive(owner, name)
    waiting = [asyncio.ensure_future(asker.request(name, {"number": n})) for n in range(3)]
    await asker.send(name, {"type": "no request"})
    await eventually(lambda: owner.statistics().waiting == 4)
    del channel
    for error in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(error, NoListener)
    await owner.reply(event, {"late": False})
    assert await taken == {"late": False}


async def test_request_without_a_reply_ends_at_its_deadline(make_layer: MakeLayer) -> None:
    """`RequestTimeout`; a reply that comes later is counted, and hurts nobody."""
    asker, owner, channel = await pair(make_layer, timeout=0.2)
    for timeout in (None, 0.1, 0):
        start = time.monotonic()
        with pytest.raises(RequestTimeout, match=channel) as caught:
            await asker.request(channel, {"type": "ask"}, timeout=timeout)
        expected = 0.2 if timeout is None else timeout
        assert time.monotonic() - start >= expected - 0.01
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.seconds == expected
    assert asker.statistics().requests == 0
    for _ in range(3):
        await owner.reply(await receive(owner, channel), {"type": "late"})
    await eventually(lambda: asker.statistics().dropped["late"] == 3)
    async with answering(owner, channel, double):
        assert (await asker.request(channel, {"number": 1}, timeout=10))["number"] == 2


async def test_worker_does_not_get_what_nobody_waits_for(make_layer: MakeLayer) -> None:
    """In a queue a request expires with its deadline, long before a message would."""
    asker, worker = await make_layer(), await make_layer()
    await asker.send("work", {"type": "first"})
    assert await receive(worker, "work") == {"type": "first"}
    await listening(worker, 1)  # it listens to the bell, and nobody reads
    with pytest.raises(RequestTimeout):
        await asker.request("work", {"type": "ask"}, timeout=0.1)
    # The time itself is what is tested: it expires that long after it has got into the queue.
    await asyncio.sleep(0.12)
    await asker.send("work", {"type": "second"})
    assert await receive_all(worker, "work") == [{"type": "second"}]


@pytest.mark.parametrize(
    "event",
    [
        *({}, {"type": "a"}, None, 5, "text"),
        *({"type": "a", "mpx.reply_to": value} for value in (None, 5, "", NOBODY, "work")),
    ],
)
async def test_reply_to_what_was_no_request(make_layer: MakeLayer, event: Any) -> None:
    """An event without an address is refused by a typed error, and nothing is sent."""
    layer = await make_layer()
    with pytest.raises(NotARequest, match=r"not with request\(\)"):
        await layer.reply(event, {"type": "a"})
    with pytest.raises(NotARequest):
        await layer.reply_error(event, ValueError("x"))
    assert layer.statistics().connection.commands == 0


async def test_messages_and_groups_are_no_requests(make_layer: MakeLayer) -> None:
    """What came by `send` and `group_send` has no address."""
    layer = await make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, {"type": "direct"})
    await layer.group_send("room", {"type": "group"})
    for kind in ("direct", "group"):
        event = await receive(layer, channel)
        assert event == {"type": kind}
        with pytest.raises(NotARequest, match=kind):
            await layer.reply(event, {"type": "a"})


async def test_request_refuses_what_cannot_be_asked(make_layer: MakeLayer) -> None:
    """Each bad argument has an error of its own, and nothing is sent."""
    layer = await make_layer(max_message_size=2048)
    channel = await layer.new_channel()
    commands = layer.statistics().connection.commands
    for timeout in (-1, "1", float("nan"), float("inf"), True):
        with pytest.raises(InvalidTimeout, match="timeout"):
            await layer.request(channel, {"type": "ask"}, timeout=timeout)
    for message in (None, [], {"value": object()}):
        with pytest.raises(EncodingError):
            await layer.request(channel, message)
    with pytest.raises(EncodingError, match=r"message\['mpx.reply_to'\].*layer's own"):
        await layer.request(channel, {"type": "ask", "mpx.reply_to": "x"})
    with pytest.raises(MessageTooLarge):
        await layer.request(channel, {"text": "x" * 3000})
    for name in ("", "with space", None, 5):
        with pytest.raises(TypeError, match="name must be a valid unicode string"):
            await layer.request(name, {"type": "ask"})
    assert layer.statistics().connection.commands == commands
    assert layer.statistics().requests == 0


async def test_reply_that_cannot_travel_is_its_senders_error(make_layer: MakeLayer) -> None:
    """The asker is not told; whoever replies may try another reply."""
    asker, owner, channel = await pair(make_layer, max_message_size=2048)
    asking = asyncio.ensure_future(asker.request(channel, {"number": 1}))
    event = await receive(owner, channel)
    with pytest.raises(EncodingError):
        await owner.reply(event, {"value": object()})
    with pytest.raises(MessageTooLarge) as caught:
        await owner.reply(event, {"text": "x" * 3000})
    await owner.reply_error(event, caught.value)
    with pytest.raises(RemoteError, match="MessageTooLarge"):
        await asking


async def test_aclose_fails_who_waits_for_a_reply(make_layer: MakeLayer) -> None:
    """`ClosedError`, for all of them, and the layer can be used again."""
    asker, owner, channel = await pair(make_layer)
    asking = [asyncio.ensure_future(asker.request(channel, {"number": n})) for n in range(3)]
    await eventually(lambda: owner.statistics().waiting == 3)
    await asker.aclose()
    for error in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(error, ClosedError)
    async with answering(owner, channel, lambda event: {"number": event["number"]}):
        assert await asker.request(channel, {"number": 7}) == {"number": 7}


async def test_aclose_sends_back_what_waits_for_its_consumers(make_layer: MakeLayer) -> None:
    """Who has asked a process that closes in good order need not wait for a deadline."""
    asker, owner, channel = await pair(make_layer, timeout=30)
    asking = asyncio.ensure_future(asker.request(channel, {"number": 1}))
    await eventually(lambda: owner.statistics().waiting == 1)
    await owner.aclose()
    with pytest.raises(NoListener):
        await asyncio.wait_for(asking, 5)


async def test_flush_sends_back_what_waits_for_its_consumers(make_layer: MakeLayer) -> None:
    """It was not handled; what a consumer has taken is another matter, and is answered."""
    asker, owner, channel = await pair(make_layer, timeout=30)
    taken = asyncio.ensure_future(asker.request(channel, {"number": 0}))
    event = await receive(owner, channel)
    waiting = [asyncio.ensure_future(asker.request(channel, {"number": n})) for n in range(3)]
    await asker.send(channel, {"type": "no request"})
    await eventually(lambda: owner.statistics().waiting == 4)
    await owner.flush()
    for error in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5):
        assert isinstance(error, NoListener)
    assert not taken.done()
    await owner.reply(event, {"number": 1})
    assert await taken == {"number": 1}
    assert asker.statistics().dropped["late"] == 0


async def test_request_that_expires_unread_is_sent_back(make_layer: MakeLayer) -> None:
    """Its deadline is far away, and nobody will ever read it."""
    asker, owner = await make_layer(timeout=30), await make_layer(expiry=0.2)
    channel = await owner.new_channel()
    await owner.send(channel, {"type": "no request"})
    with pytest.raises(NoListener):
        await asyncio.wait_for(asker.request(channel, {"number": 1}), 5)
    assert owner.statistics().dropped["expired"] == 2


async def test_request_that_is_read_in_time_is_not_sent_back(make_layer: MakeLayer) -> None:
    """The control: what was taken does not expire, however long its handler takes."""
    asker, owner = await make_layer(timeout=30), await make_layer(expiry=0.2)
    channel = await owner.new_channel()
    asking = asyncio.ensure_future(asker.request(channel, {"number": 1}))
    event = await receive(owner, channel)
    await owner.send(channel, {"type": "later"})
    await eventually(lambda: owner.statistics().dropped["expired"] == 1)
    await owner.reply(event, {"number": 2})
    assert await asking == {"number": 2}
