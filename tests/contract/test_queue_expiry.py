"""What expires in the queue of a worker channel makes room, and is counted."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from channels_mpx import RequestTimeout
from tests.contract.conftest import MakeLayer
from tests.helpers import eventually
from tests.layers import receive


def expired(*layers: Any) -> int:
    """Return how many messages have expired, by all who count them."""
    return sum(layer.statistics().dropped["expired"] for layer in layers)


async def test_expired_requests_make_room_wherever_they_are(make_layer: MakeLayer) -> None:
    """What nobody waits for any more does not keep others out, also behind what still may wait."""
    worker, sender = await make_layer(), await make_layer(capacity=5)
    await sender.send("work", {"number": 0})
    assert await receive(worker, "work") == {"number": 0}
    await sender.send("work", {"number": 1})
    for number in range(3):
        with pytest.raises(RequestTimeout):
            await sender.request("work", {"number": number}, timeout=0.001)
    await sender.send("work", {"number": 2})

    async def has_room() -> bool:
        try:
            await sender.send("work", {"number": 3})
        except sender.ChannelFull:
            return False
        return True

    await eventually(has_room)
    over = time.monotonic() + 0.1  # a hundred times what the last of them may wait
    await eventually(lambda: time.monotonic() > over)
    assert [(await receive(worker, "work"))["number"] for _ in range(3)] == [1, 2, 3]
    assert expired(worker, sender) == 3


async def test_full_queue_stays_full(make_layer: MakeLayer) -> None:
    """The control: what has not expired keeps its place."""
    worker, sender = await make_layer(), await make_layer(capacity=3)
    for number in range(3):
        await sender.send("work", {"number": number})
    for _ in range(3):
        with pytest.raises(sender.ChannelFull):
            await sender.send("work", {"number": 9})
    assert [(await receive(worker, "work"))["number"] for _ in range(3)] == [0, 1, 2]
    assert expired(worker, sender) == 0


async def test_jobs_that_expired_are_counted_by_who_finds_them(make_layer: MakeLayer) -> None:
    """A worker that comes too late counts what it has missed, and so does the next sender."""
    worker, sender = await make_layer(), await make_layer(expiry=0.2)
    for _ in range(4):
        await sender.send("work", {"type": "a"})
    await sender.send("other", {"type": "a"})

    await asyncio.sleep(0.21)  # by the server's clock, which nobody can ask without a message
    assert await eventually(lambda: found(worker, "work")) == 4
    await sender.send("other", {"type": "b"})
    assert expired(sender) == 1
    assert expired(worker) == 4


async def found(layer: Any, channel: str) -> int:
    """Look into a queue; return how many messages have expired for the layer."""
    entry = await layer._hub.call(layer._process.workers.pop, channel)
    assert entry is None, "it should have waited until all have expired"
    return expired(layer)
