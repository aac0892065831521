"""A subscription that is full drops by its policy, or closes, and tells it."""

from __future__ import annotations

import asyncio

import pytest

from channels_mpx import Multiplexer, SubscriptionIsClosed, SubscriptionOverflow
from tests.helpers import eventually
from tests.sites import Site, subscribers
from tests.unit.notes import Notes


async def flood(mux: Multiplexer, channel: str, count: int) -> None:
    """Publish numbers from 0, and return when they have arrived."""
    before = mux.statistics().received
    for number in range(count):
        await mux.publish(channel, b"%d" % number)
    await eventually(lambda: mux.statistics().received >= before + count)


async def test_drop_oldest_keeps_the_newest(
    mux: Multiplexer, caplog: pytest.LogCaptureFixture
) -> None:
    """What has waited longest is dropped, counted, and logged once per episode."""
    subscription = mux.new_channel_subscription(capacity=3, overflow="drop_oldest")
    subscription.add("one")
    await subscription.activated(5)
    await flood(mux, "one", 10)
    assert (subscription.waiting, subscription.dropped, subscription.delivered) == (3, 7, 0)
    got = [await subscription.get_message(0) for _ in range(3)]
    assert [message.payload for message in got if message] == [b"7", b"8", b"9"]
    assert caplog.text.count("is full; dropping messages") == 1
    assert caplog.text.count("has caught up; 7 messages were dropped") == 1


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "close"])
async def test_notices_take_no_room_from_messages(mux: Multiplexer, overflow: str) -> None:
    """A mailbox for one message holds one, whatever else there is to tell."""
    notes = Notes()
    subscription = mux.new_channel_subscription(
        on_activation=notes.on_activation, capacity=1, overflow=overflow
    )
    for name in ("one", "two"):
        subscription.add(name)
    await subscription.activated(5)
    for _ in range(2):
        await flood(mux, "one", 1)
        assert subscription.dropped == 0
        assert not subscription.closed
        message = await subscription.get_message(0)
        assert message is not None
    assert len(notes.lines) == 2
    await flood(mux, "one", 2)
    assert subscription.dropped == 1


async def test_overflow_by_bytes(mux: Multiplexer) -> None:
    """Channels and payloads are counted, and one message always fits."""
    subscription = mux.new_channel_subscription(max_bytes=100)
    subscription.add("one")
    await subscription.activated(5)
    await mux.publish("one", b"x" * 1000)
    await mux.publish("one", b"y")
    await eventually(lambda: subscription.dropped == 1)
    message = await subscription.get_message(0)
    assert message is not None
    assert message.payload == b"x" * 1000


async def test_overflow_that_closes(site: Site, mux: Multiplexer) -> None:
    """Whoever reads gets what waited, without a hole, and then the reason; others go on."""
    strict = mux.new_channel_subscription(capacity=3, overflow="close")
    patient = mux.new_channel_subscription()
    for subscription in (strict, patient):
        subscription.add("one")
        await subscription.activated(5)
    waiting = asyncio.create_task(strict.activated())
    await waiting
    await flood(mux, "one", 10)
    await eventually(lambda: strict.closed)
    assert strict.dropped == 1
    got = [await strict.get_message(0) for _ in range(3)]
    with pytest.raises(SubscriptionOverflow, match="because 3 messages waited") as caught:
        [message async for message in strict]
    assert isinstance(caught.value, SubscriptionIsClosed)
    assert [message.payload for message in got if message] == [b"0", b"1", b"2"]
    with pytest.raises(SubscriptionOverflow):
        await strict.get_message(0)
    with pytest.raises(SubscriptionIsClosed):
        strict.add("two")
    assert patient.waiting == 10
    assert mux.statistics().epoch == 1
    assert subscribers(site, b"one") == 1
    patient.close()
    await eventually(lambda: subscribers(site, b"one") == 0)


async def test_overflow_that_closes_is_told_to_on_disconnect(mux: Multiplexer) -> None:
    """Callbacks get what waited and then the reason; close() in between stops even that."""
    for is_closed_early in (False, True):
        gate, got, errors = asyncio.Event(), [], []

        async def on_message(
            channel: bytes,
            payload: bytes,
            gate: asyncio.Event = gate,
            got: list[bytes] = got,
        ) -> None:
            await gate.wait()
            got.append(payload)

        subscription = mux.new_channel_subscription(
            on_message, errors.append, capacity=2, overflow="close"
        )
        subscription.add("one")
        await subscription.activated(5)
        await flood(mux, "one", 5)
        await eventually(lambda subscription=subscription: subscription.closed)  # type: ignore[misc]
        if is_closed_early:
            subscription.close()
        gate.set()
        if not is_closed_early:
            await eventually(lambda errors=errors: len(errors) == 1)  # type: ignore[misc]
            assert isinstance(errors[0], SubscriptionOverflow)
            assert got == [b"0", b"1", b"2"]
        assert subscription.waiting == 0
        task = subscription._reader._task
        assert task is not None
        await asyncio.wait([task], timeout=5)
        assert task.done()
        assert len(got) == (0 if is_closed_early else 3)
