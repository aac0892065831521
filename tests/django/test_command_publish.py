"""``mpx publish``: whom it reaches, and what it tells of that."""

from __future__ import annotations

from typing import Any

import redis

from tests.django.mpx import Manager, on_broker
from tests.layers import open_layer, receive
from tests.servers import RedisServer


async def test_publish_reaches_what_it_names(manager: Manager, redis_server: RedisServer) -> None:
    """A group, a consumer's channel, a worker's channel, a Redis channel; receivers are told."""
    message = '{"type": "said", "text": "hällo"}'
    said = {"type": "said", "text": "hällo"}
    async with open_layer(redis_server) as layer:
        channel = await layer.new_channel()
        assert (
            await manager("publish", "room", message, "--group")
        ).out == "Redis gave it to 0 receivers.\n"
        await layer.group_add("room", channel)
        assert (
            await manager("publish", "room", message, "--group")
        ).out == "Redis gave it to 1 receiver.\n"
        assert await receive(layer, channel) == said
        outcome = await manager("publish", channel, message, "--channel", "--json")
        assert outcome.document == {"name": channel, "receivers": 1}
        assert await receive(layer, channel) == said
        outcome = await manager("publish", "work", message, "--channel")
        assert outcome.out == "Put into the queue of work.\n"
        assert await receive(layer, "work") == said
    with redis.Redis(port=redis_server.port) as client, client.pubsub() as pubsub:
        pubsub.subscribe("weather")
        assert pubsub.get_message(timeout=5)
        outcome = await manager("publish", "weather", "sunny \udcff", "--json")
        assert outcome.document == {"name": "weather", "receivers": 1}
        heard: Any = pubsub.get_message(timeout=5)
        assert heard["data"] == b"sunny \xff"


async def test_publish_to_nobody_has_a_hint(manager: Manager, redis_server: RedisServer) -> None:
    """That is no error, but whoever has meant a group or a channel of the layer learns of it."""
    message = '{"type": "said"}'
    hint = (
        "Nobody listens to the channel room in Redis. A group takes --group, a channel of the"
        " layer --channel.\n"
    )
    outcome = await manager("publish", "room", message)
    assert (outcome.code, outcome.out, outcome.err) == (0, "Redis gave it to 0 receivers.\n", hint)
    outcome = await manager("publish", "room", message, "--json")
    assert (outcome.code, outcome.document["receivers"], outcome.err) == (0, 0, hint)
    outcome = await manager("publish", "room", message, "--group")
    assert (outcome.code, outcome.err) == (0, "")
    with redis.Redis(port=redis_server.port) as client, client.pubsub() as pubsub:
        pubsub.subscribe("room")
        assert pubsub.get_message(timeout=5)
        outcome = await manager("publish", "room", message)
    assert (outcome.out, outcome.err) == ("Redis gave it to 1 receiver.\n", "")


async def test_publish_tells_who_is_full_or_gone(manager: Manager) -> None:
    """What the layer raises is a sentence, and so is a channel that nobody has."""
    message = '{"type": "x"}'
    for _ in range(100):
        assert (await manager("publish", "work", message, "--channel")).code == 0
    outcome = await manager("publish", "work", message, "--channel")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "The channel work is full: as many messages wait as may."
    outcome = await manager("publish", "room", f'{{"type": "{"x" * 9_000_000}"}}', "--group")
    assert "max_message_size is 8388608" in outcome.err


def test_publish_in_memory_says_whom_it_reaches() -> None:
    """Over memory:// no other process can hear it."""
    with on_broker() as (broker, manager):
        broker.layer()  # reads the outbox
        outcome = manager.run("publish", "room", '{"type": "x"}', "--group")
    assert outcome.out == "Redis gave it to 0 receivers.\n"
    assert outcome.err == "memory:// reaches this very process only.\n"
