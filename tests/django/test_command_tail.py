"""``mpx tail``: what it hears, decodes and shows, and that it disturbs nobody."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable

import pytest
import redis

from channels_mpx import envelope
from channels_mpx.envelope import Form
from channels_mpx.management import tail
from channels_mpx.management.messages import Arrival, look_at
from channels_mpx.names import Kind, Namespace, Topic
from channels_mpx.testing import Broker
from tests.django.mpx import OPERATOR, Manager, Outcome, Output, on_broker, setting
from tests.helpers import eventually
from tests.layers import open_layer, receive, subscriptions
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]


@contextlib.asynccontextmanager
async def tailing(
    manager: Manager, *words: str, out: Output | None = None
) -> AsyncIterator[asyncio.Future[Outcome]]:
    """Run ``mpx tail`` beside the block, which begins when it listens; await it there."""
    err = Output()
    future = asyncio.ensure_future(manager("tail", *words, out=out, err=err))
    await eventually(lambda: "Listening to" in err.getvalue() or future.done())
    yield future
    await future


async def test_tail_decodes_groups(manager: Manager, redis_server: RedisServer) -> None:
    """Messages of a group come with time, lag, size and content; of other groups none."""
    message = {"type": "said", "text": "hällo", "data": b"\x00", "n": [1.5, None, float("inf")]}
    began = time.time()
    async with open_layer(redis_server) as layer:
        async with tailing(manager, "room", "--group", "--count", "1", "--json") as tail_json:
            await layer.group_send("other", {"type": "other"})
            await layer.group_send("room", message)
            outcome = await tail_json
        async with tailing(manager, "room", "--group", "--count", "2") as tail_text:
            await layer.group_send("room", {"type": "said", "text": "hällo\x1b[2J\x9b"})
            await layer.group_send("room", {"type": "said", "data": b"\x00"})
            text = (await tail_text).out
    found = outcome.document
    assert (found["kind"], found["name"]) == ("group", "room")
    assert 0 <= found["lag"] <= time.time() - began + 0.01
    assert found["size"] > 40
    assert found["message"] == {**message, "data": {"base64": "AA=="}, "n": [1.5, None, None]}
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3}  room  \+\d+\.\d\d ms  \d+ B  "
        r'\{"type": "said", "text": "hällo\\u001b\[2J\\x9b"\}\n'
        r".*  \{'type': 'said', 'data': b'\\x00'\}\n",
        text,
    )


async def test_tail_without_names_hears_all_groups(
    manager: Manager, redis_server: RedisServer
) -> None:
    """And neither bells nor inboxes nor other prefixes."""
    async with open_layer(redis_server) as layer, open_layer(redis_server, prefix="x") as other:
        async with tailing(manager, "--count", "2", "--json") as future:
            await layer.send(await layer.new_channel(), {"type": "direct"})
            await layer.send("work", {"type": "job"})
            await other.group_send("a", {"type": "x"})
            await layer.group_send("a", {"type": "a"})
            await layer.group_send("b", {"type": "b"})
            documents = (await future).documents
    assert [document["name"] for document in documents] == ["a", "b"]


async def test_tail_disturbs_nobody(manager: Manager, redis_server: RedisServer) -> None:
    """The layer of its own process has no channel, no group and nothing that was dropped."""
    async with open_layer(redis_server) as layer:
        await layer.group_add("room", channel := await layer.new_channel())
        async with tailing(manager, "room", "--group", "--count", "1") as future:
            await layer.group_send("room", {"type": "x"})
            await future
        assert await receive(layer, channel) == {"type": "x"}
    from channels.layers import get_channel_layer

    numbers = get_channel_layer().statistics()
    assert (numbers.channels, numbers.groups, numbers.delivered) == (0, 0, 0)
    assert set(numbers.dropped.values()) == {0}
    await eventually(lambda: not subscriptions(redis_server))


async def test_tail_shows_plain_channels_and_patterns(
    manager: Manager, redis_server: RedisServer
) -> None:
    """Text is text, and what is not is as Python writes bytes."""
    payloads = ["sunny ☀", b"\xff\x00", "two\nlines", ""]
    shown = ["sunny ☀", r"b'\xff\x00'", r"b'two\nlines'", ""]
    with redis.Redis(port=redis_server.port) as client:
        async with tailing(manager, "wea*", "--pattern", "--count", "4") as future:
            for payload in payloads:
                client.publish("weather", payload)
            rows = (await future).out.splitlines()
        async with tailing(manager, "weather", "--count", "2", "--json") as future:
            client.publish("weather", "a")
            client.publish("weather", b"\xff")
            documents = (await future).documents
    assert [row.split("  ", 3)[1] for row in rows] == ["weather"] * 4
    assert [row.split("  ", 3)[3:] for row in rows] == [[text] for text in shown[:3]] + [[""]]
    assert [document["payload"] for document in documents] == ["a", {"base64": "/w=="}]
    assert [document["lag"] for document in documents] == [None, None]


async def test_tail_says_what_cannot_be_decoded(
    manager: Manager, redis_server: RedisServer
) -> None:
    """Garbage in a group is shown as such, with the reason, and counted."""
    garbage = envelope.wrap(Form.GROUP, b"\xc1")
    with redis.Redis(port=redis_server.port) as client:
        async with tailing(manager, "room", "--group", "--count", "2") as future:
            client.publish("mpx:group:room", "hello")
            client.publish("mpx:group:room", garbage)
            outcome = await future
    first, second = outcome.out.splitlines()
    assert first.endswith("  room  5 B  undecodable: only 5 bytes: hello")
    assert re.search(r"  room  \+\S+ ms  11 B  undecodable: .*: b'\\x01", second)
    assert outcome.err.endswith("2 undecodable\n")
    with redis.Redis(port=redis_server.port) as client:
        async with tailing(manager, "room", "--group", "--count", "2", "--json") as future:
            client.publish("mpx:group:room", "hello")
            client.publish("mpx:group:room", garbage)
            first, second = (await future).documents
    assert (first["problem"], first["payload"], first["lag"]) == ("only 5 bytes", "hello", None)
    assert (second["kind"], "message" in second) == ("group", False)
    assert second["payload"] == {"base64": base64.b64encode(garbage).decode()}


def test_everything_under_the_prefix_is_understood() -> None:
    """Bells, probes and direct messages too, which a pattern may bring; nothing raises."""
    names, codec = Namespace("mpx"), Broker().layer().codec

    def look(channel: bytes, payload: bytes) -> tuple[str, str, str]:
        sighting = look_at(Arrival(0.0, channel, payload), names, codec)
        return sighting.kind, sighting.name, sighting.text()

    direct = envelope.wrap(Form.DIRECT, codec.encode({"type": "x"}), target=b"7")
    assert look(b"mpx:inbox:abc", direct) == ("direct", "abc!7", '{"type": "x"}')
    assert look(b"mpx:inbox:abc", envelope.wrap(Form.PROBE, b"")) == ("probe", "abc", "(probe)")
    assert look(b"mpx:bell:work", b"") == ("bell", "work", "(bell)")
    assert look(b"mpx:", b"") == ("", "", "undecodable: only 0 bytes: ")
    assert look(b"mpx:new:thing", b"\xff") == (
        "new",
        "thing",
        r"undecodable: only 1 bytes: b'\xff'",
    )
    assert look(b"mpx2:group:a", b"x") == ("plain", "mpx2:group:a", "x")


async def test_tail_ends_in_time(manager: Manager, redis_server: RedisServer) -> None:
    """--timeout is an end like any other, unless a number of messages was expected."""
    async with tailing(manager, "room", "--group", "--timeout", "0.1") as future:
        outcome = await future
        assert outcome.code == 0
        assert outcome.err.endswith("\n0 messages, 0 B in 0.1 s\n")
    async with tailing(manager, "weather", "--timeout", "0.1", "--count", "2") as future:
        outcome = await future
        assert outcome.code == 1
        assert outcome.err.startswith("Listening to the channel weather in Redis (a group takes")
        assert outcome.err.endswith("Only 0 of 2 messages came within 0.1 s.")


async def test_tail_ends_in_time_under_load(manager: Manager, redis_server: RedisServer) -> None:
    """--timeout ends it also if there is always another message."""
    async with open_layer(redis_server) as layer:
        async with tailing(manager, "room", "--group", "--timeout", "0.2") as future:
            while not future.done():
                await layer.group_send("room", {"type": "x"})
            assert (await future).code == 0


async def test_tail_tells_of_gaps(make_redis: MakeRedis) -> None:
    """A lost connection is said, and that it is back; what comes then is shown."""
    server = make_redis()
    layers = {"default": setting(server.url, max_reconnect_delay=0.05)}
    with Manager(layers) as manager:
        async with tailing(manager, "weather", "sea", "--count", "1") as future:
            server.restart()
            await eventually(lambda: server.command("PUBSUB", "NUMSUB", "weather", "sea")[3] == 1)
            server.command("PUBLISH", "weather", "sunny")
            outcome = await future
    assert "the connection is lost, messages may be missing: " in outcome.err
    assert "listening to weather again" in outcome.err
    assert outcome.out.endswith("sunny\n")


async def test_tail_that_is_not_allowed(make_redis: MakeRedis) -> None:
    """Redis's refusal is told, also if only one of several names is refused."""
    server = make_redis(users=[f"site on >pw resetchannels ~mpx:* &mpx:* {OPERATOR}"])
    with Manager({"default": setting(server.url_for("site", "pw"))}) as manager:
        outcome = await manager("tail", "mpx:group:a", "weather", "--channel")
        assert (outcome.code, outcome.out) == (1, "")
        assert "NOPERM" in outcome.err
        assert "Listening" not in outcome.err
        await eventually(lambda: not subscriptions(server))
        outcome = await manager("tail")  # a pattern must stand in the ACL literally
        assert "NOPERM" in outcome.err


def test_tail_that_is_too_slow_drops_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits to be shown is bounded in messages and in bytes."""
    monkeypatch.setattr(tail, "MOST_MESSAGES", 2)
    monkeypatch.setattr(tail, "MOST_BYTES", 100)
    topic = Topic(Kind.CHANNEL, b"a")
    ear = tail.Ear()
    for _ in range(3):
        ear.deliver(topic, b"a", b"x")
    assert ear.missed == 1
    assert [ear.take(0) is not None for _ in range(3)] == [True, True, False]
    ear.deliver(topic, b"a", b"x" * 200)
    ear.deliver(topic, b"a", b"x")
    assert ear.missed == 2
    assert ear.take(0) is not None
    ear.deliver(topic, b"a", b"x")
    assert ear.missed == 2
    ear.refused(topic, ValueError("no more"))
    assert [ear.take(0) for _ in range(2)][1] == "no more"


async def test_tail_tells_what_it_did_not_show(
    manager: Manager, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The summary counts it."""
    monkeypatch.setattr(tail, "MOST_MESSAGES", 0)
    async with tailing(manager, "weather", "--timeout", "0.2") as future:
        redis_server.command("PUBLISH", "weather", "sunny")
        assert (await future).err.endswith("; 1 not shown: too many at once\n")


async def test_long_messages_are_cut_for_people(
    manager: Manager, redis_server: RedisServer
) -> None:
    """A terminal gets the beginning, a pipe everything."""
    with redis.Redis(port=redis_server.port) as client:
        for is_tty, length in ((True, 2000), (False, 5000)):
            out = Output(is_tty)
            async with tailing(manager, "weather", "--count", "1", out=out) as future:
                client.publish("weather", "x" * 5000)
                text = (await future).out
            assert text.count("x") == length
            assert ("3,000 more characters" in text) is is_tty


async def test_tail_in_memory_hears_its_own_process() -> None:
    """Over memory:// it works where it is called, and says that this is all."""
    with on_broker() as (broker, manager):
        layer = broker.layer()
        async with tailing(manager, "room", "--group", "--count", "1") as future:
            await layer.group_send("room", {"type": "x"})
            outcome = await future
        await layer.aclose()
    assert outcome.out.endswith('{"type": "x"}\n')
    assert outcome.err.startswith("memory:// has only the messages of this very process.\n")
