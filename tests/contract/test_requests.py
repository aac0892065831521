"""Requests and replies: each reply comes to whoever asked, or an error that says why there is none."""

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
    MultiplexedChannelLayer,
    NoListener,
    NotARequest,
    RemoteError,
    RequestTimeout,
)
from tests.contract.conftest import MakeLayer
from tests.helpers import eventually
from tests.layers import answering, receive, receive_all, settle

NOBODY = "specific.0123456789abcdev!1"


def double(event: dict[str, Any]) -> dict[str, Any]:
    """Return what a server answers."""
    return {"type": "doubled", "number": 2 * event["number"]}


def divide(event: dict[str, Any]) -> dict[str, Any]:
    """Return what a server answers, or fail."""
    return {"number": 1 / event["number"]}


async def pair(
    make_layer: MakeLayer, **config: Any
) -> tuple[MultiplexedChannelLayer, MultiplexedChannelLayer, str]:
    """Return who asks, who answers, and a channel of the second."""
    asker, owner = await make_layer(**config), await make_layer(**config)
    return asker, owner, await owner.new_channel()


async def listening(layer: MultiplexedChannelLayer, topics: int) -> None:
    """Return when a layer is subscribed to so many topics: its inbox, and bells."""
    await eventually(lambda: layer.statistics().connection.active == topics)


@pytest.mark.parametrize("kind", ["direct", "worker"])
@pytest.mark.parametrize(
    "config",
    [{}, {"serializer_format": "json"}, {"symmetric_encryption_keys": ["secret"]}],
    ids=["msgpack", "json", "encrypted"],
)
async def test_request_returns_the_reply(
    make_layer: MakeLayer, kind: str, config: dict[str, Any]
) -> None:
    """The receiver's reply comes back, from the same process and from another one."""
    asker, owner, channel = await pair(make_layer, **config)
    channel = channel if kind == "direct" else "work"
    async with answering(owner, channel, double):
        await listening(owner, 1 if kind == "direct" else 2)
        for layer in (asker, owner):
            for number in (21, -3):
                reply = await layer.request(channel, {"type": "double", "number": number})
                assert reply == {"type": "doubled", "number": 2 * number}
            assert layer.statistics().requests == 0


async def test_request_arrives_as_a_message_with_an_address(make_layer: MakeLayer) -> None:
    """The receiver gets what was sent, and one key more; nested values are its own."""
    asker, owner, channel = await pair(make_layer)
    message = {"type": "ask", "nested": {"list": [1]}}
    asking = asyncio.ensure_future(asker.request(channel, message))
    event = await receive(owner, channel)
    assert event.pop("mpx.reply_to").startswith(asker.statistics().connection.process)
    assert event == message == {"type": "ask", "nested": {"list": [1]}}
    assert asker.statistics().requests == 1
    asking.cancel()


async def test_replies_find_their_requests_in_any_order(make_layer: MakeLayer) -> None:
    """Who asks first may be answered last."""
    asker, owner, channel = await pair(make_layer)
    asking = [asyncio.ensure_future(asker.request(channel, {"number": n})) for n in range(5)]
    events = [await receive(owner, channel) for _ in range(5)]
    for event in reversed(events):
        await owner.reply(event, {"echo": event["number"]})
    assert await asyncio.gather(*asking) == [{"echo": number} for number in range(5)]


async def test_reply_may_come_from_whoever_has_the_event(make_layer: MakeLayer) -> None:
    """A receiver can pass a request on: the event holds all that a reply needs."""
    asker, owner, channel = await pair(make_layer)
    other = await make_layer()
    elsewhere = await other.new_channel()
    asking = asyncio.ensure_future(asker.request(channel, {"number": 4}))
    await owner.send(elsewhere, await receive(owner, channel))
    event = await receive(other, elsewhere)
    await other.reply(event, double(event))
    assert (await asking)["number"] == 8


async def test_error_of_the_receiver_reaches_the_asker(make_layer: MakeLayer) -> None:
    """As `RemoteError` with class and text, and the receiver goes on."""
    asker, owner, channel = await pair(make_layer)
    async with answering(owner, channel, divide):
        with pytest.raises(RemoteError, match="ZeroDivisionError: division by zero") as caught:
            await asker.request(channel, {"number": 0})
        assert (caught.value.type, caught.value.text) == ("ZeroDivisionError", "division by zero")
        assert await asker.request(channel, {"number": 4}) == {"number": 0.25}


@pytest.mark.parametrize("keys", [None, ["secret"]], ids=["clear", "encrypted"])
async def test_request_to_nobody_fails_at_once(make_layer: MakeLayer, keys: Any) -> None:
    """A process that is gone, a channel that was never made, a worker channel without readers."""
    asker, owner, channel = await pair(make_layer, symmetric_encryption_keys=keys)
    start = time.monotonic()
    for name in (NOBODY, "a!b", f"{channel}99", "work"):
        for layer in (asker, owner):
            with pytest.raises(NoListener, match=name):
                await layer.request(name, {"type": "ask"}, timeout=30)
    assert time.monotonic() - start < 5
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
        assert expected - 0.01 <= time.monotonic() - start < expected + 3
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.seconds == expected
    assert asker.statistics().requests == 0
    for _ in range(3):
        await owner.reply(await receive(owner, channel), {"type": "late"})
    await eventually(lambda: asker.statistics().dropped["late"] == 3)
    async with answering(owner, channel, double):
        assert (await asker.request(channel, {"number": 1}, timeout=10))["number"] == 2


async def test_second_reply_is_counted_and_dropped(make_layer: MakeLayer) -> None:
    """The first one counts, and nobody gets it who asks next."""
    asker, owner, channel = await pair(make_layer)
    for number in range(2):
        asking = asyncio.ensure_future(asker.request(channel, {"number": number}))
        event = await receive(owner, channel)
        for copy in range(2):
            await owner.reply(event, {"number": number, "copy": copy})
        assert await asking == {"number": number, "copy": 0}
    await eventually(lambda: asker.statistics().dropped["late"] == 2)


async def test_reply_to_a_process_that_is_gone_is_counted(make_layer: MakeLayer) -> None:
    """Nobody is there to count it, but the one who replies."""
    asker, owner, channel = await pair(make_layer)
    asking = asyncio.ensure_future(asker.request(channel, {"number": 1}))
    event = await receive(owner, channel)
    await asker.aclose()
    with pytest.raises(ClosedError):
        await asking
    await owner.reply(event, {"number": 2})
    await owner.reply_error(event, ValueError("x"))
    assert owner.statistics().dropped["late"] == 2
    assert asker.statistics().requests == 0


async def test_cancelled_request_leaves_nothing(make_layer: MakeLayer) -> None:
    """Neither a waiting request nor a sleeper that a reply could wake."""
    asker, owner, channel = await pair(make_layer)
    asking = asyncio.ensure_future(asker.request(channel, {"number": 1}))
    event = await receive(owner, channel)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await eventually(lambda: asker.statistics().requests == 0)
    await owner.reply(event, {"number": 2})
    await eventually(lambda: asker.statistics().dropped["late"] == 1)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asker.request(channel, {"number": 1}), 0.05)
    await eventually(lambda: asker.statistics().requests == 0)


async def test_worker_does_not_get_what_nobody_waits_for(make_layer: MakeLayer) -> None:
    """In a queue a request expires with its deadline, long before a message would."""
    asker, worker = await make_layer(), await make_layer()
    await asker.send("work", {"type": "first"})
    assert await receive(worker, "work") == {"type": "first"}
    await listening(worker, 1)  # it listens to the bell, and nobody reads
    with pytest.raises(RequestTimeout):
        await asker.request("work", {"type": "ask"}, timeout=0.1)
    await asyncio.sleep(0.12)  # it expires that long after it has got into the queue
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


async def test_requests_and_messages_keep_one_order(make_layer: MakeLayer) -> None:
    """A request is a message like any other on its way."""
    asker, owner, channel = await pair(make_layer)
    mine, asking = await asker.new_channel(), []
    for number in range(0, 20, 2):
        await asker.send(channel, {"number": number})
        asking.append(asyncio.ensure_future(asker.request(channel, {"number": number + 1})))
        await asyncio.sleep(0)
    events = [await receive(owner, channel) for _ in range(20)]
    assert [event["number"] for event in events] == list(range(20))
    assert ["mpx.reply_to" in event for event in events] == [False, True] * 10
    for event in events[1::2]:
        await owner.reply(event, {})
    await asyncio.gather(*asking)
    assert await settle(owner, channel) == []
    assert await settle(asker, mine) == []


async def test_ten_thousand_requests_in_flight_are_not_lost_or_crossed(
    make_layer: MakeLayer,
) -> None:
    """64 at a time, each with the reply to its own question."""
    asker, owner, channel = await pair(make_layer)
    numbers = iter(range(10_000))
    replies: dict[int, int] = {}

    async def ask() -> None:
        for number in numbers:
            replies[number] = (await asker.request(channel, {"number": number}))["number"]

    async with answering(owner, channel, double):
        await asyncio.gather(*(ask() for _ in range(64)))
    assert replies == {number: 2 * number for number in range(10_000)}
    assert asker.statistics().requests == 0
    assert asker.statistics().dropped == dict.fromkeys(asker.statistics().dropped, 0)
    assert owner.statistics().dropped == dict.fromkeys(owner.statistics().dropped, 0)
