"""Direct channels of loops that have gone, and of those that are elsewhere."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from channels_mpx import NoListener
from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK


async def test_channels_of_a_closed_loop_are_dropped() -> None:
    """Their names may be held for ever; nobody can read there any more."""
    layer = Broker().layer(**QUICK, expiry=0.2)
    mine = await layer.new_channel()
    name = await asyncio.to_thread(lambda: asyncio.run(layer.new_channel()))
    await eventually(lambda: layer.statistics().channels == 1)
    assert name != mine
    await layer.aclose()


async def test_unread_channel_of_another_loop_goes_dormant() -> None:
    """It leaves its groups, and what it holds expires."""
    layer = Broker().layer(**QUICK, expiry=0.2, group_expiry=0.2)
    mine = await layer.new_channel()
    over, names = threading.Event(), list[str]()

    async def live() -> None:
        names.append(await layer.new_channel())
        await layer.group_add("room", names[0])
        await layer.send(names[0], {"type": "a"})
        await asyncio.to_thread(over.wait)

    thread = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(live())))
    await eventually(lambda: layer.statistics().waiting == 1)
    await eventually(lambda: layer.statistics().groups == 0)
    assert layer.statistics().channels == 2
    over.set()
    await thread
    assert mine
    await layer.aclose()


async def test_what_has_expired_on_another_loop_keeps_nothing_out() -> None:
    """A channel with nothing but old messages takes a new one, and its sender hears of no fullness."""
    layer = Broker().layer(**QUICK, capacity=2)
    mine = await layer.new_channel()  # which keeps the connection on this loop
    is_sent, names = threading.Event(), list[str]()

    async def live() -> None:
        names.append(await layer.new_channel())
        await asyncio.to_thread(is_sent.wait)
        assert await layer.receive(names[0]) == {"type": "fresh"}

    reading = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(live())))
    await eventually(lambda: names)
    for _ in range(2):
        await layer.send(names[0], {"type": "old"})
    mailbox = layer._mailboxes[names[0]]
    await eventually(lambda: len(mailbox) == 2)
    (first, second) = mailbox.items or ()
    first.arrived = second.arrived = time.monotonic() - 100
    try:
        await layer.send(names[0], {"type": "fresh"})
    finally:
        is_sent.set()
    await reading
    assert (layer.statistics().dropped["expired"], layer.statistics().dropped["full"]) == (2, 0)
    assert mailbox.bytes_in == mailbox.bytes_out
    assert mine
    await layer.aclose()


async def test_request_that_expires_is_sent_back_by_a_reader_of_another_loop() -> None:
    """It finds the request too old when it looks at last; the answer leaves from home."""
    world = Broker(**QUICK)
    layer, asker = world.layer(expiry=0.2), world.layer(timeout=30)
    mine = await layer.new_channel()  # which keeps the connection on this loop
    is_sent, names = threading.Event(), list[str]()

    async def live() -> None:
        names.append(await layer.new_channel())
        await asyncio.to_thread(is_sent.wait)
        assert await layer.receive(names[0]) == {"type": "fresh"}

    reading = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(live())))
    await eventually(lambda: names)
    asking = asyncio.create_task(asker.request(names[0], {"type": "ask"}))
    await eventually(lambda: layer.statistics().waiting == 1)
    (request,) = layer._mailboxes[names[0]].items or ()
    await eventually(lambda: time.monotonic() - request.arrived > 0.2)
    assert not asking.done()
    await layer.send(names[0], {"type": "fresh"})
    is_sent.set()
    with pytest.raises(NoListener):
        await asyncio.wait_for(asking, 5)
    await reading
    assert layer.statistics().dropped["expired"] == 1
    assert mine
    await asker.aclose()
    await layer.aclose()
