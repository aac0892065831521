"""Requests and replies: each reply comes to whoever asked, and to nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from channels_mpx import (
    ClosedError,
    RemoteError,
)
from tests.contract.asking import double, listening, pair
from tests.contract.conftest import MakeLayer
from tests.helpers import eventually
from tests.layers import answering, ask_many, receive, settle


def divide(event: dict[str, Any]) -> dict[str, Any]:
    """Return what a server answers, or fail."""
    return {"number": 1 / event["number"]}


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
    async with answering(owner, channel, double):
        replies = await ask_many(asker, channel, 10_000)
    assert replies == {number: double({"number": number}) for number in range(10_000)}
    assert asker.statistics().requests == 0
    assert asker.statistics().dropped == dict.fromkeys(asker.statistics().dropped, 0)
    assert owner.statistics().dropped == dict.fromkeys(owner.statistics().dropped, 0)
