"""Direct channels of loops that have gone, and of those that are elsewhere."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from channels_mpx import NoListener
from channels_mpx.inbox import DirectMailbox
from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK, reading


async def test_channels_of_a_closed_loop_end_when_nobody_reads_them() -> None:
    """Their names may be held for ever; after `expiry` nobody is expected there any more."""
    layer = Broker().layer(**QUICK, expiry=0.2)
    mine = await layer.new_channel()
    name = await asyncio.to_thread(lambda: asyncio.run(layer.new_channel()))
    await eventually(lambda: layer.statistics().channels == 1)
    assert name != mine
    await layer.aclose()


async def test_channel_of_a_closed_loop_lives_where_somebody_reads() -> None:
    """Another loop's consumer keeps it as if it had made it, and its memberships with it."""
    layer = Broker().layer(**QUICK, expiry=1)
    mine = await layer.new_channel()

    async def make() -> str:
        name = await layer.new_channel()
        await layer.group_add("room", name)
        return name

    name, other = [await asyncio.to_thread(lambda: asyncio.run(make())) for _ in range(2)]
    async with reading(layer, name) as reader:
        await eventually(lambda: layer.statistics().channels == 2)  # a tick has ended the other
        mailbox = layer._mailboxes[name]
        assert mailbox.loop is asyncio.get_running_loop()
        await layer.group_send("room", {"type": "a"})
        assert await reader == {"type": "a"}
    dormant = await asyncio.to_thread(lambda: asyncio.run(layer.new_channel()))
    await eventually(lambda: layer.statistics().channels == 2)  # and once more, unread
    assert layer._mailboxes[name] is mailbox
    assert mine
    assert other != dormant
    await layer.aclose()


async def test_channel_of_a_loop_that_rests_lives() -> None:
    """A loop that is not closed may run again, however long it rests."""
    layer = Broker().layer(**QUICK, expiry=0.2)
    mine, loop = await layer.new_channel(), asyncio.new_event_loop()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.to_thread(loop.run_until_complete, work)

    name = await run(layer.new_channel())
    closed = await asyncio.to_thread(lambda: asyncio.run(layer.new_channel()))
    await eventually(lambda: layer.statistics().channels == 2)  # that of the closed one has ended
    await layer.send(name, {"type": "a"})
    assert await run(layer.receive(name)) == {"type": "a"}
    loop.close()
    assert mine != closed
    await layer.aclose()


async def test_reader_that_died_with_its_loop_keeps_no_channel() -> None:
    """Its loop was closed without ending it: it waits for ever, and is nobody."""
    layer = Broker().layer(**QUICK, expiry=0.2)
    mine, loop = await layer.new_channel(), asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # it complains of the task

    async def begin() -> tuple[str, asyncio.Task[Any]]:
        name = await layer.new_channel()
        reader = asyncio.create_task(layer.receive(name))
        await eventually(lambda: layer._mailboxes[name].is_awaited)
        return name, reader

    name, reader = await asyncio.to_thread(loop.run_until_complete, begin())
    loop.close()
    await eventually(lambda: layer.statistics().channels == 1)
    assert mine != name
    assert not reader.done()
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


async def test_reader_that_comes_while_its_channel_goes_dormant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On another loop it may have looked just before: it is told of a gap, and hears its groups."""
    layer = Broker().layer(**QUICK, expiry=0.2, group_expiry=0.2, on_reconnect="close")
    mine = await layer.new_channel()  # which keeps the connection on this loop
    plain, wanted = DirectMailbox.arrival, list[DirectMailbox]()

    def late(mailbox: DirectMailbox) -> Any:
        while mailbox in wanted and not mailbox.is_dormant:
            time.sleep(0.01)
        return plain(mailbox)

    async def live() -> str:
        name = await layer.new_channel()
        await layer.group_add("room", name)
        wanted.append(layer._mailboxes[name])
        assert (await layer.receive(name))["type"] == "close"
        await layer.group_send("room", {"type": "fresh"})
        message = await layer.receive(name)
        return str(message["type"])

    monkeypatch.setattr(DirectMailbox, "arrival", late)
    thread = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(live())))
    await eventually(lambda: wanted and wanted[0].is_dormant)
    wanted.clear()
    assert await asyncio.wait_for(thread, 20) == "fresh"
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
