"""Channels and memberships live as long as their consumer, and not a moment longer."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.testing import ApplicationCommunicator
from django.test import override_settings

from channels_mpx import MultiplexedChannelLayer, UnknownChannel
from tests.helpers import eventually
from tests.layers import QUICK, group_subscriptions, kill_clients, open_layer, reading, receive
from tests.proxy import Proxy
from tests.servers import RedisServer

#: Options with which a channel goes dormant at the pace of a test.
SLEEPY: dict[str, Any] = {"expiry": 0.2, "group_expiry": 0.2}


async def is_clean(layer: MultiplexedChannelLayer, server: RedisServer) -> bool:
    """Whether no channel, group or group subscription is left."""
    gc.collect()
    statistics = layer.statistics()
    counts = (statistics.channels, statistics.groups, statistics.connection.wanted)
    return counts == (0, 0, 1) and not group_subscriptions(server)


class Raising(AsyncConsumer):
    """Joins a group and fails when it is told to."""

    channel_layer: Any
    channel_name: str

    async def join(self, message: dict[str, Any]) -> None:
        """Join, and say so."""
        await self.channel_layer.group_add("room", self.channel_name)
        await self.send({"type": "joined"})

    async def fail(self, message: dict[str, Any]) -> None:
        """Raise."""
        raise ZeroDivisionError("on purpose")


@pytest.mark.parametrize("by_group", [False, True])
async def test_consumer_that_raises_leaves_nothing(
    redis_server: RedisServer, by_group: bool
) -> None:
    """After a handler's exception no channel, no member and no subscription stays behind."""
    config = {
        "BACKEND": "channels_mpx.MultiplexedChannelLayer",
        "CONFIG": {"hosts": [redis_server.url]},
    }
    with override_settings(CHANNEL_LAYERS={"default": config}):
        from channels.layers import get_channel_layer

        layer = get_channel_layer()
        for _ in range(5):
            consumer = ApplicationCommunicator(Raising.as_asgi(), {"type": "test"})
            await consumer.send_input({"type": "join"})
            assert await consumer.receive_output(5) == {"type": "joined"}
            assert group_subscriptions(redis_server) == {"room"}
            if by_group:
                await layer.group_send("room", {"type": "fail"})
            else:
                await consumer.send_input({"type": "fail"})
            with pytest.raises(ZeroDivisionError):
                await consumer.wait(5)
            del consumer
        await eventually(lambda: is_clean(layer, redis_server))
        await layer.aclose()


async def test_consumer_that_is_cancelled_leaves_nothing(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """Cancelling a reader, as servers do on shutdown, drops its channel and its groups."""

    async def consumer() -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        while True:
            await layer.receive(channel)

    tasks = [asyncio.ensure_future(consumer()) for _ in range(10)]
    await eventually(lambda: layer.statistics().groups == 1 and layer.statistics().channels == 10)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    del task
    tasks.clear()
    await eventually(lambda: is_clean(layer, redis_server))


async def test_letting_go_of_a_name_drops_its_channel(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """When nobody holds a channel's name any more, the channel is gone with its groups."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    copy = "".join(channel)
    assert layer.statistics().channels == 1
    del channel
    await eventually(lambda: is_clean(layer, redis_server))
    with pytest.raises(UnknownChannel):
        await receive(layer, copy)
    with pytest.raises(UnknownChannel):
        await layer.group_add("room", copy)
    await layer.send(copy, {"type": "a"})
    await eventually(lambda: layer.statistics().dropped["unknown"] == 1)


async def test_channel_that_a_copy_of_its_name_is_awaited_on_delays_no_other(
    layer: MultiplexedChannelLayer,
) -> None:
    """It lives until nobody waits there any more; the others end with their names, not with a tick."""
    channel = await layer.new_channel()
    mailbox = layer._mailboxes[channel]
    async with reading(layer, "".join(channel)):
        await eventually(lambda: mailbox.is_awaited)
        del channel
        gc.collect()
        await asyncio.sleep(0)  # the sweep of that one
        names = [await layer.new_channel() for _ in range(10)]
        assert layer.statistics().channels == 11
        names.clear()
        await eventually(lambda: layer.statistics().channels == 1)


async def test_name_that_is_collected_in_the_middle_of_a_sweep_is_swept(
    layer: MultiplexedChannelLayer,
) -> None:
    """Its channel ends as soon as any other's, though a sweep is under way that may not see it."""
    first = [await layer.new_channel() for _ in range(2)]
    later = [await layer.new_channel()]
    dropped = layer._process.inbox.dropped

    def drop(mailbox: Any) -> None:
        dropped(mailbox)
        later.clear()

    layer._process.inbox.dropped = drop
    first.clear()
    await eventually(lambda: layer.statistics().channels == 0)


async def test_holding_a_name_keeps_its_channel(layer: MultiplexedChannelLayer) -> None:
    """The negative control: while somebody holds the name, the channel stays."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    gc.collect()
    await layer.group_send("room", {"type": "a"})
    assert layer.statistics().channels == 1
    assert await receive(layer, channel) == {"type": "a"}


async def test_channel_that_nobody_reads_stays_a_member(redis_server: RedisServer) -> None:
    """Its messages expire one by one; a fresh one arrives however long nobody has read."""
    async with open_layer(redis_server, expiry=0.2) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for number in (1, 2):
            await layer.group_send("room", {"type": "old"})
            await eventually(lambda number=number: layer.statistics().dropped["expired"] == number)
        assert group_subscriptions(redis_server) == {"room"}
        async with reading(layer, channel) as reader:
            await layer.group_send("room", {"type": "fresh"})
            assert await reader == {"type": "fresh"}
        assert layer.statistics().dormant == 0


async def test_channel_that_nobody_reads_goes_dormant_and_comes_back(
    redis_server: RedisServer,
) -> None:
    """Unread for `group_expiry` s a channel leaves its groups; its next `receive` brings them back."""
    async with open_layer(redis_server, **SLEEPY) as layer:
        channel = await layer.new_channel()
        await layer.group_add("red", channel)
        await layer.group_add("blue", channel)
        await eventually(lambda: not group_subscriptions(redis_server))
        assert layer.statistics().channels == 1
        await layer.group_send("red", {"type": "missed"})
        async with reading(layer, channel) as reader:
            await eventually(lambda: group_subscriptions(redis_server) == {"red", "blue"})
            await layer.group_send("red", {"type": "red"})
            assert await reader == {"type": "red"}
            await layer.group_send("blue", {"type": "blue"})
            assert await receive(layer, channel) == {"type": "blue"}


async def test_channel_that_is_read_does_not_go_dormant(redis_server: RedisServer) -> None:
    """The negative control: a consumer that waits for longer than `group_expiry` stays a member."""
    async with open_layer(redis_server, **SLEEPY) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        async with reading(layer, channel) as reader:
            await asyncio.sleep(0.6)  # the time itself is what is tested
            assert group_subscriptions(redis_server) == {"room"}
            await layer.group_send("room", {"type": "a"})
            assert await reader == {"type": "a"}


async def test_discard_while_dormant_is_not_forgotten(redis_server: RedisServer) -> None:
    """A membership that was discarded while its channel was dormant does not come back."""
    async with open_layer(redis_server, **SLEEPY) as layer:
        channel = await layer.new_channel()
        await layer.group_add("left", channel)
        await layer.group_add("kept", channel)
        await eventually(lambda: not group_subscriptions(redis_server))
        await layer.group_discard("left", channel)
        async with reading(layer, channel) as reader:
            await eventually(lambda: "kept" in group_subscriptions(redis_server))
            await layer.group_send("left", {"type": "left"})
            await layer.group_send("kept", {"type": "kept"})
            assert await reader == {"type": "kept"}


async def test_dormant_channel_that_is_dropped_leaves_nothing(redis_server: RedisServer) -> None:
    """A consumer that never reads again and goes away leaves no trace."""
    async with open_layer(redis_server, **SLEEPY) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await eventually(lambda: not group_subscriptions(redis_server))
        del channel
        await eventually(lambda: is_clean(layer, redis_server))


async def test_dormancy_is_counted_logged_and_told(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator finds it, and its reader hears of a gap that covers all that may be missing."""
    notices = {"on_disconnect": "gap.opened", "on_reconnect": "gap.closed"}
    async with open_layer(redis_server, **SLEEPY, **notices) as layer:
        channel = await layer.new_channel()
        for group in ("red", "blue"):
            await layer.group_add(group, channel)
        for episode in (1, 2):
            await eventually(lambda: not group_subscriptions(redis_server))
            began = time.monotonic()
            await layer.group_send("red", {"type": "missed"})
            missed = time.monotonic()
            opened = await receive(layer, channel)
            assert opened == {"type": "gap.opened", "reason": "it was not read for 0.2 s"}
            closed = await receive(layer, channel)
            assert closed["type"] == "gap.closed"
            assert (closed["reason"], closed["epoch"]) == (opened["reason"], 1)
            assert closed["seconds"] >= missed - began
            assert group_subscriptions(redis_server) == {"red", "blue"}
            assert layer.statistics().dormant == episode
        records = [row for row in caplog.messages if "leaves its groups" in row]
        assert len(records) == 2
        assert records[0].startswith(f"channels_mpx: channel {channel} has not been read for ")


async def test_gap_of_the_connection_while_dormant_is_one_with_it(
    redis_server: RedisServer,
) -> None:
    """The reader finds one begin and one end, whose length is that of all of it."""
    notices = {"on_disconnect": "gap.opened", "on_reconnect": "gap.closed"}
    began = time.monotonic()
    async with open_layer(redis_server, **SLEEPY, **QUICK, **notices) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await eventually(lambda: layer.statistics().dormant == 1)
        mailbox = layer._mailboxes[channel]
        asleep, _ = mailbox.dormant_since
        kill_clients(redis_server)
        await eventually(lambda: len(mailbox) == 2)
        read = time.monotonic()
        assert (await receive(layer, channel))["type"] == "gap.opened"
        closed = await receive(layer, channel)
        assert closed["type"] == "gap.closed"
        assert read - asleep <= closed["seconds"] <= time.monotonic() - began
        assert len(mailbox) == 0


async def test_channel_without_groups_is_never_dormant(redis_server: RedisServer) -> None:
    """It misses nothing, so nobody is told of a gap; a group that it joins late is its own."""
    async with open_layer(redis_server, **SLEEPY, on_disconnect="gap.opened") as layer:
        channel, other = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", other)
        await eventually(lambda: layer.statistics().dormant == 1)
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}


async def test_group_that_is_left_while_coming_back_holds_up_no_end_of_the_gap(
    redis_server: RedisServer, proxy: Proxy
) -> None:
    """The end is told when all that is still wanted is confirmed, to each by itself."""
    url = redis_server.url_for(port=proxy.port)
    quiet = {"ping_interval": 30, "ping_timeout": 30, "on_reconnect": "gap.closed"}
    async with open_layer([url], **SLEEPY, **quiet) as layer:
        names = [await layer.new_channel() for _ in range(2)]
        for name in names:
            await layer.group_add("room", name)
        await eventually(lambda: layer.statistics().dormant == 2)
        proxy.stall()
        first, second = [asyncio.ensure_future(receive(layer, name)) for name in names]
        await eventually(lambda: layer.statistics().groups == 1)
        assert not first.done()
        await layer.group_discard("room", names[0])
        assert (await first)["type"] == "gap.closed"
        assert not second.done()
        proxy.resume()
        assert (await second)["type"] == "gap.closed"


async def test_ten_thousand_add_discard_cycles_leave_counts_at_zero(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """Consumers and groups that come and go, 10,000 times, add up to nothing."""

    async def cycle(number: int) -> None:
        channel = await layer.new_channel()
        for group in (f"g{number % 50}", f"own{number}"):
            await layer.group_add(group, channel)
        if number % 2:
            await layer.group_discard(f"g{number % 50}", channel)
            await layer.group_discard(f"own{number}", channel)

    for start in range(0, 10_000, 500):
        await asyncio.gather(*(cycle(number) for number in range(start, start + 500)))
    await eventually(lambda: is_clean(layer, redis_server), 10)
    assert layer.statistics().waiting == 0


async def test_a_websocket_consumer_that_disconnects_leaves_nothing(
    redis_server: RedisServer,
) -> None:
    """A consumer with `groups` that is closed by its client leaves no trace."""
    from channels.layers import get_channel_layer
    from channels.testing import WebsocketCommunicator

    class Room(AsyncJsonWebsocketConsumer):
        groups: list[str] = ["room"]  # noqa: RUF012

    config = {
        "BACKEND": "channels_mpx.MultiplexedChannelLayer",
        "CONFIG": {"hosts": [redis_server.url]},
    }
    with override_settings(CHANNEL_LAYERS={"default": config}):
        layer = get_channel_layer()
        for _ in range(3):
            communicator = WebsocketCommunicator(Room.as_asgi(), "/")
            await communicator.connect(10)
            assert group_subscriptions(redis_server) == {"room"}
            await communicator.disconnect()
            del communicator
        await eventually(lambda: is_clean(layer, redis_server))
        await layer.aclose()
