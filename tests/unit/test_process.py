"""What a process does for all of its channels."""

from __future__ import annotations

import asyncio
import time

import pytest

from channels_mpx.body import Body
from channels_mpx.exceptions import DecodingError, LinkLost
from channels_mpx.memory import MemoryBroker, MemoryDialer
from channels_mpx.scripts import POP
from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK, open_layer, receive
from tests.servers import RedisServer
from tests.unit.test_resp import Diary


async def test_flush_finds_its_queues_among_many_keys(redis_server: RedisServer) -> None:
    """A scan of many rounds deletes what is ours and leaves the rest."""
    populate = "for number = 1, 5000 do redis.call('SET', 'strange:' .. number, '') end"
    redis_server.command("EVAL", populate, 0)
    async with open_layer(redis_server) as layer:
        for number in range(3):
            await layer.send(f"work{number}", {"type": "a"})
        await layer.flush()
        assert redis_server.command("DBSIZE") == 5000


async def test_group_discard_of_a_channel_that_is_gone_is_silent() -> None:
    """There is nothing to end."""
    layer = Broker().layer(**QUICK)
    channel = await layer.new_channel()
    await layer.group_discard("room", f"{channel}999")
    await layer.close()


async def test_garbage_in_hand_when_its_channel_ends_is_not_delivered() -> None:
    """Its consumer opens it later; by then the count of the channel has moved."""
    layer = Broker().layer(**QUICK)
    channel = await layer.new_channel()
    desk = layer.desk(channel)
    await layer.send(channel, {"type": "a"})
    desk.mailbox.put(Body(layer.codec, b"garbage", 0, False, time.monotonic()))
    assert desk.mailbox.take()
    body = desk.mailbox.take()
    assert isinstance(body, Body)
    assert layer.statistics().delivered == 2
    await layer.clean_channel(channel)
    with pytest.raises(DecodingError) as caught:
        body.open()
    desk.reject(body, caught.value)
    assert (layer.statistics().delivered, layer.statistics().dropped["malformed"]) == (1, 1)
    await layer.aclose()


async def test_message_in_hand_when_its_channel_ends_is_delivered() -> None:
    """Whoever was just handed it gets it a moment later, and it counts."""
    layer = Broker().layer(**QUICK)
    channel = await layer.new_channel()
    mailbox = layer._mailboxes[channel]
    for read in (layer.receive(channel), mailbox.get()):
        reader = asyncio.ensure_future(read)
        await eventually(lambda: mailbox.is_awaited)
        mailbox.put(Body.made(layer.codec, {"type": "a"}, time.monotonic()))
        if mailbox.taken:
            await layer.clean_channel(channel)
        assert await reader
    assert layer.statistics().delivered == 2
    await layer.aclose()


async def test_deepest_of_several_channels() -> None:
    """The first of those in which most waits, wherever it stands among them."""
    layer = Broker().layer(**QUICK)
    channels = [await layer.new_channel() for _ in range(4)]
    assert layer.statistics().deepest is None
    for channel, count in zip(channels, (1, 3, 0, 3), strict=True):
        for _ in range(count):
            await layer.send(channel, {"type": "a"})
    numbers = layer.statistics()
    assert (numbers.waiting, numbers.deepest) == (7, (channels[1], 3))
    await layer.aclose()


async def test_channel_that_ends_where_no_loop_runs() -> None:
    """There nobody can have anything in hand."""
    layer = Broker().layer(**QUICK)
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "a"})
    assert await receive(layer, channel)
    await asyncio.to_thread(layer._process.inbox.drop, channel)
    assert layer.statistics().delivered == 1
    await layer.aclose()


async def test_script_on_a_lost_memory_link_fails() -> None:
    """A link in memory ends like any other; a broker that has forgotten it does not mind."""
    broker = MemoryBroker()
    link = await MemoryDialer(broker, "memory://test").dial(Diary())
    broker.links.clear()
    link.lose("the test says so")
    with pytest.raises(LinkLost):
        await link.run(POP, (b"key",), ())
