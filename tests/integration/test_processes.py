"""Two processes and one server."""

from __future__ import annotations

import asyncio

import pytest

from channels_mpx import ForeignChannel, MultiplexedChannelLayer, UnknownChannel
from tests.helpers import eventually
from tests.layers import Peer, group_subscriptions, receive
from tests.servers import RedisServer


async def test_group_send_crosses_processes(layer: MultiplexedChannelLayer, peer: Peer) -> None:
    """Members in both processes hear a group, whoever sends."""
    ours, theirs = await layer.new_channel(), await peer.call("new_channel")
    await layer.group_add("room", ours)
    await peer.call("group_add", "room", theirs)
    await layer.group_send("room", {"from": "us"})
    await peer.call("group_send", "room", {"from": "them"})
    expected = [{"from": "us"}, {"from": "them"}]
    assert [await receive(layer, ours) for _ in range(2)] == expected
    assert [await peer.call("receive", theirs) for _ in range(2)] == expected


async def test_send_crosses_processes(layer: MultiplexedChannelLayer, peer: Peer) -> None:
    """A direct channel can be sent to from another process, in order."""
    ours, theirs = await layer.new_channel(), await peer.call("new_channel")
    for number in range(20):
        await layer.send(theirs, {"number": number})
        await peer.call("send", ours, {"number": number})
    assert [(await receive(layer, ours))["number"] for _ in range(20)] == list(range(20))
    assert [(await peer.call("receive", theirs))["number"] for _ in range(20)] == list(range(20))


async def test_group_add_of_a_foreign_channel_is_acknowledged(
    layer: MultiplexedChannelLayer, peer: Peer
) -> None:
    """When `group_add` returns, the other process's channel hears the group's next message."""
    theirs = await peer.call("new_channel")
    for number in range(20):
        await layer.group_add(f"room{number}", theirs)
        await layer.group_send(f"room{number}", {"number": number})
    got = [(await peer.call("receive", theirs))["number"] for _ in range(20)]
    assert got == list(range(20))


async def test_group_discard_of_a_foreign_channel_is_acknowledged(
    layer: MultiplexedChannelLayer, peer: Peer, redis_server: RedisServer
) -> None:
    """When `group_discard` returns, the other process's channel does not hear the group."""
    theirs = await peer.call("new_channel")
    for _ in range(20):
        await layer.group_add("room", theirs)
        await layer.group_discard("room", theirs)
        await layer.group_send("room", {"type": "lost"})
    await layer.send(theirs, {"type": "direct"})
    assert await peer.call("receive", theirs) == {"type": "direct"}
    await eventually(lambda: not group_subscriptions(redis_server))


async def test_group_add_fails_quickly_when_the_owner_is_gone(
    layer: MultiplexedChannelLayer, peer: Peer, redis_server: RedisServer
) -> None:
    """A channel of a process that was killed is unknown: nobody waits for an answer from there."""
    theirs = await peer.call("new_channel")
    await peer.kill()
    await eventually(lambda: inbox_is_gone(redis_server, theirs))
    assert await refuses(layer, theirs)  # at its deadline it would be another error


def inbox_is_gone(server: RedisServer, channel: str) -> bool:
    """Whether Redis has noticed that the process of a channel is not there any more."""
    process = channel.partition("!")[0].rpartition(".")[2]
    return not any(process in name for name in server.command("PUBSUB", "CHANNELS"))


async def refuses(layer: MultiplexedChannelLayer, channel: str) -> bool:
    """Whether `group_add` says that the channel is unknown."""
    try:
        await layer.group_add("room", channel)
    except UnknownChannel:
        return True
    return False


async def test_group_add_fails_for_an_unknown_channel_of_a_live_owner(
    layer: MultiplexedChannelLayer, peer: Peer
) -> None:
    """A live owner says that it has no such channel, and one that has let go of it says so too."""
    theirs = await peer.call("new_channel")
    with pytest.raises(UnknownChannel, match="9999"):
        await layer.group_add("room", f"{theirs.partition('!')[0]}!9999")
    await layer.group_add("room", theirs)
    await peer.call("drop", theirs)
    await eventually(lambda: refuses(layer, theirs))


async def test_group_discard_is_silent_when_the_owner_is_gone(
    layer: MultiplexedChannelLayer, peer: Peer, redis_server: RedisServer
) -> None:
    """A membership that died with its process is discarded without an error."""
    theirs = await peer.call("new_channel")
    await layer.group_add("room", theirs)
    await layer.group_discard("room", f"{theirs.partition('!')[0]}!9999")
    await peer.kill()
    await eventually(lambda: inbox_is_gone(redis_server, theirs))
    await layer.group_discard("room", theirs)  # at its deadline it would be an error


async def test_send_to_a_process_that_is_gone_is_silent(
    layer: MultiplexedChannelLayer, peer: Peer
) -> None:
    """Nobody knows whether a direct channel is read, so sending to a dead one raises nothing."""
    theirs = await peer.call("new_channel")
    await peer.kill()
    await layer.send(theirs, {"type": "a"})


async def test_receive_refuses_a_foreign_channel(
    layer: MultiplexedChannelLayer, peer: Peer
) -> None:
    """Only the owner can receive."""
    theirs = await peer.call("new_channel")
    with pytest.raises(ForeignChannel, match="another process"):
        await asyncio.wait_for(layer.receive(theirs), 5)


async def test_killed_process_leaves_no_subscription(
    layer: MultiplexedChannelLayer, peer: Peer, redis_server: RedisServer
) -> None:
    """What a process that was killed was subscribed to, Redis forgets with its connection."""
    theirs = await peer.call("new_channel")
    await peer.call("group_add", "room", theirs)
    assert group_subscriptions(redis_server) == {"room"}
    await peer.kill()
    await eventually(lambda: not group_subscriptions(redis_server))


async def test_sync_group_add_reaches_a_foreign_channel(
    layer: MultiplexedChannelLayer, peer: Peer
) -> None:
    """A view or a task can add a consumer of a server process to a group."""
    theirs = await peer.call("new_channel")
    await asyncio.to_thread(layer.sync.group_add, "room", theirs)
    await asyncio.to_thread(layer.sync.group_send, "room", {"type": "a"})
    assert await peer.call("receive", theirs) == {"type": "a"}
    await asyncio.to_thread(layer.sync.group_discard, "room", theirs)
    with pytest.raises(UnknownChannel):
        await asyncio.to_thread(layer.sync.group_add, "room", f"{theirs}999")
