"""Memberships while others come and go, and while Redis refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK, open_layer, receive, receive_all
from tests.servers import RedisServer


async def test_two_adds_of_one_member_at_once_are_one_membership() -> None:
    """Both return, and each message comes once."""
    world = Broker()
    layer = world.layer(**QUICK)
    channel = await layer.new_channel()
    await asyncio.gather(*(layer.group_add("room", channel) for _ in range(2)))
    await layer.group_send("room", {"type": "a"})
    assert await receive_all(layer, channel) == [{"type": "a"}]
    process = layer._process
    assert "groups=" in repr(process) or "Groups 1" in repr(process)
    assert "members=1" in repr(process.groups._groups["room"])
    await layer.aclose()


async def test_discard_while_others_join_wins() -> None:
    """A membership that was ended before it was confirmed is none, and nobody waits for it."""
    world = Broker()
    layer = world.layer(**QUICK)
    stays, leaves = [await layer.new_channel() for _ in range(2)]
    adds = [asyncio.create_task(layer.group_add("room", name)) for name in (stays, leaves)]
    await asyncio.sleep(0)
    await layer.group_discard("room", leaves)
    await asyncio.gather(*adds)
    await layer.group_send("room", {"type": "a"})
    assert await receive(layer, stays) == {"type": "a"}
    assert await receive_all(layer, leaves) == []
    await layer.aclose()


async def test_discard_of_the_only_member_while_it_joins_is_prompt() -> None:
    """An add that was overtaken by its discard does not wait for a confirmation in vain."""
    layer = Broker().layer(timeout=3600)
    channel = await layer.new_channel()
    add = asyncio.create_task(layer.group_add("room", channel))
    await asyncio.sleep(0)
    await layer.group_discard("room", channel)
    await asyncio.wait_for(add, 20)
    assert layer.statistics().groups == 0
    await layer.aclose()


async def test_members_of_a_group_that_is_refused_are_told_by_the_log(
    make_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """A channel that wakes up finds its group forbidden: it lives on without it."""
    server = make_redis(users=["alice on >secret ~* &* +@all"])
    sleepy = {**QUICK, "expiry": 0.2, "group_expiry": 0.2}
    async with open_layer([server.url_for("alice", "secret")], **sleepy) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await eventually(lambda: layer.statistics().groups == 0)
        rules = ("resetchannels", "&mpx:inbox:*")
        server.command("ACL", "SETUSER", "alice", *rules)
        await eventually(lambda: layer.statistics().connection.state == "connected")
        reader = asyncio.create_task(layer.receive(channel))
        await eventually(
            lambda: "Redis refuses group room; its members get no messages" in caplog.text
        )
        assert layer.statistics().groups == 0
        await layer.send(channel, {"type": "a"})
        assert await reader == {"type": "a"}
