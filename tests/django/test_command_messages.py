"""``mpx ping``, ``tail``, ``publish`` and ``purge``: messages out, messages in, messages gone."""

from __future__ import annotations

import asyncio
import base64
import builtins
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis

from channels_mpx import envelope
from channels_mpx.envelope import Form
from channels_mpx.management import tail
from channels_mpx.management.formats import age, milliseconds, size
from channels_mpx.management.messages import Arrival, look_at
from channels_mpx.management.ping import Echo, percentiles
from channels_mpx.names import Kind, Namespace, Topic
from channels_mpx.server import Server
from channels_mpx.testing import Broker
from tests.django.mpx import OPERATOR, Manager, Outcome, Output, setting
from tests.helpers import eventually
from tests.layers import calls, kill_clients, open_layer, receive, subscriptions
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]


@pytest.fixture
def manager(redis_server: RedisServer) -> Iterator[Manager]:
    """Commands on the shared server."""
    with Manager({"default": setting(redis_server.url)}) as manager:
        yield manager


@contextlib.contextmanager
def on_broker() -> Iterator[tuple[Broker, Manager]]:
    """Commands on a broker that fails on demand."""
    broker = Broker()
    hosts = f"memory://{broker._name}"
    with Manager({"default": setting(hosts)}) as manager:
        yield broker, manager


# Ping


async def test_ping_measures(manager: Manager, redis_server: RedisServer) -> None:
    """Every message comes back, and beside each goes a PING; nothing stays subscribed."""
    redis_server.command("CONFIG", "RESETSTAT")
    outcome = await manager("ping", "--count", "20", "--interval", "0", "--json")
    found = outcome.document
    assert (outcome.code, found["sent"], found["lost"], found["reasons"]) == (0, 20, 0, {})
    for times in (found["message"], found["ping"]):
        assert list(times) == ["p50", "p90", "p99", "max"]
        assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"] < 5
    assert calls(redis_server)["publish"] == 20
    await eventually(lambda: not subscriptions(redis_server))


async def test_ping_is_a_table_for_people(manager: Manager) -> None:
    """A pipe gets the table only; a terminal is shown how far it is, and that goes away."""
    pattern = (
        r"Layer default on 127\.0\.0\.1:\d+: 3 messages to this process, 0 lost\n"
        r" +p50 +p90 +p99 +max\n"
        r"  message( +\d+\.\d\d ms){4}\n"
        r"  PING   ( +\d+\.\d\d ms){4}\n"
    )
    assert re.fullmatch(pattern, (await manager("ping", "--count", "3")).out)
    out = (await manager("ping", "--count", "3", "--no-color", out=Output(is_tty=True))).out
    assert out.startswith("\r1 of 3\x1b[K\r\r2 of 3\x1b[K\r\r3 of 3\x1b[K\r\r\x1b[K\r")
    assert re.fullmatch(pattern, out.rpartition("\r")[2])


def test_ping_tells_what_is_lost() -> None:
    """A message that does not come back is counted with the reason, and the code is 1."""
    with on_broker() as (broker, manager), broker.drop(1):
        outcome = manager.run("ping", "--count", "2", "--timeout", "0.02", "--json")
    assert outcome.code == 1
    assert outcome.err == "2 messages lost: 2 × not back within 0.02 s"
    assert (outcome.document["sent"], outcome.document["lost"]) == (2, 2)
    assert outcome.document["message"]["p50"] is None


async def test_ping_outlives_the_connection(make_redis: MakeRedis) -> None:
    """What is under way when the link is lost is lost; the next ones go on with the next link."""
    server = make_redis()
    out = Output(is_tty=True)
    with Manager({"default": setting(server.url, timeout=0.3)}) as manager:
        words = ("ping", "--count", "60", "--interval", "0.01")
        pinging = asyncio.ensure_future(manager(*words, out=out))
        await eventually(lambda: "10 of 60" in out.getvalue())
        server.freeze()
        await eventually(lambda: kill_after_thaw(server, out))
        outcome = await pinging
    assert outcome.code == 1
    assert re.search(r"^\d+ messages? lost: ", outcome.err)
    sent, lost = re.search(r"(\d+) messages to this process, (\d+) lost", outcome.out).groups()  # type: ignore[union-attr]
    assert int(sent) == 60
    assert 1 <= int(lost) < 60


def kill_after_thaw(server: RedisServer, out: Output) -> bool:
    """Let a message be lost while the server is frozen, then cut the connection."""
    seen = out.getvalue().count(" of 60")
    if seen < 12:
        return False
    server.thaw()
    return kill_clients(server) > 0


async def test_ping_can_be_ended_early(manager: Manager) -> None:
    """Ctrl-C shows what was measured until then."""
    out = Output(is_tty=True, enough=("3 of 100", 1))
    outcome = await manager("ping", out=out)
    assert outcome.code == 0
    assert "2 messages to this process, 0 lost" in outcome.out


def test_ping_counts_no_late_message() -> None:
    """What comes back after its time is lost all the same, and the next one is measured."""
    broker = Broker()
    layer = broker.layer()
    echo = Echo(Server(layer), timeout=0.02)
    echo.open()
    with broker.freeze():
        echo.ping()
    echo.ping()
    echo.close()
    layer.sync.close()
    assert (echo.sent, echo.lost, len(echo.messages), len(echo.pings)) == (
        2, {"not back within 0.02 s": 1}, 1, 1
    )  # fmt: skip


async def test_ping_never_raises_into_the_reader() -> None:
    """A message that comes in the moment in which its time is over finds nobody."""
    echo = Echo(Server(Broker().layer()), timeout=1)
    back: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    back.cancel()
    echo._awaited = b"x", back
    echo.deliver(Topic(Kind.CHANNEL, b"a"), b"a", b"x")
    assert echo.messages == []


def test_percentiles_are_times_that_occurred() -> None:
    """By nearest rank; of nothing there are none."""
    assert percentiles([0.3, 0.1, 0.2]) == {"p50": 0.2, "p90": 0.3, "p99": 0.3, "max": 0.3}
    assert percentiles(range(1, 101)) == {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert set(percentiles([]).values()) == {None}


# Tail


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
    assert 0 <= found["lag"] < 10
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


# Publish


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


# Purge


@pytest.fixture
def queues(redis_server: RedisServer) -> RedisServer:
    """A server with two queues, and keys that are none of the layer's."""
    redis_server.command("RPUSH", "mpx:queue:mail", "a", "b", "c")
    redis_server.command("RPUSH", "mpx:queue:work", "a")
    redis_server.command("RPUSH", "mpx2:queue:work", "a")
    redis_server.command("SET", "mpx:other", "a")
    return redis_server


def answer(monkeypatch: pytest.MonkeyPatch, text: str | None) -> list[str]:
    """Answer every question with a text, or not at all; return the prompts."""
    prompts: list[str] = []

    def reply(prompt: str = "") -> str:
        prompts.append(prompt)
        if text is None:
            raise EOFError
        return text

    monkeypatch.setattr(builtins, "input", reply)
    return prompts


def keys(server: RedisServer) -> set[str]:
    """Return all keys of a server."""
    return set(server.command("KEYS", "*"))


async def test_purge_shows_asks_and_deletes(
    manager: Manager, queues: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All queues of the layer, and nothing else."""
    prompts = answer(monkeypatch, "yes")
    queues.command("CONFIG", "RESETSTAT")
    outcome = await manager("purge", "--all")
    assert re.fullmatch(
        r"On 127\.0\.0\.1:\d+, under the prefix mpx:\n"
        r"  channel  waiting\n"
        r"  mail           3\n"
        r"  work           1\n"
        r"Delete 4 messages in 2 queues\? They cannot be brought back\. Type 'yes' to do it:\n"
        r"Deleted 4 messages\.\n",
        outcome.out,
    )
    assert len(prompts) == 1
    used = calls(queues)
    assert not used.keys() & {"keys", "flushdb", "flushall", "del"}
    assert keys(queues) == {"mpx2:queue:work", "mpx:other"}


@pytest.mark.parametrize("text", ["no", "y", "", None])
async def test_purge_takes_nothing_but_yes(
    manager: Manager, queues: RedisServer, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    """Any other answer deletes nothing; no answer at all is an error."""
    before = keys(queues)
    answer(monkeypatch, text)
    outcome = await manager("purge", "mail")
    assert keys(queues) == before
    if text is None:
        assert (outcome.code, outcome.err[:15]) == (1, "Nobody answers;")
    else:
        assert outcome.code == 0
        assert outcome.out.endswith("Nothing was deleted.\n")


@pytest.mark.parametrize("error", [RuntimeError("input(): lost sys.stdin"), OSError(5, "EIO")])
async def test_purge_without_a_stdin(
    manager: Manager, queues: RedisServer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Nobody can answer where it is closed, nor in the background of a terminal."""

    def fail() -> str:
        raise error

    monkeypatch.setattr(builtins, "input", fail)
    before = keys(queues)
    outcome = await manager("purge", "mail")
    assert (outcome.code, outcome.err[:15]) == (1, "Nobody answers;")
    assert keys(queues) == before


async def test_purge_of_what_is_gone_meanwhile(
    manager: Manager, queues: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that was read while it asked is not counted, and what came is."""

    def reply() -> str:
        queues.command("UNLINK", "mpx:queue:work")
        queues.command("RPUSH", "mpx:queue:mail", "d")
        return "YES "

    monkeypatch.setattr(builtins, "input", reply)
    assert (await manager("purge", "--all")).out.endswith("Deleted 4 messages.\n")


async def test_purge_of_named_channels(manager: Manager, queues: RedisServer) -> None:
    """Only those that were named go; a name twice, or of nothing, changes nothing."""
    outcome = await manager("purge", "mail", "mail", "none", "--no-input", "--json")
    assert outcome.document == {"layer": "default", "deleted": {"mail": 3}}
    assert keys(queues) == {"mpx:queue:work", "mpx2:queue:work", "mpx:other"}
    outcome = await manager("purge", "mail", "--noinput")
    assert (outcome.code, outcome.out) == (0, "Nothing waits there.\n")
    outcome = await manager("purge", "mail", interactive=False, json=True)
    assert outcome.document["deleted"] == {}


async def test_purge_of_a_queue_that_is_none(manager: Manager, redis_server: RedisServer) -> None:
    """Whatever is under the name of a queue goes."""
    redis_server.command("SET", "mpx:queue:odd", "x")
    outcome = await manager("purge", "--all", "--no-input")
    assert "  odd      no list\n" in outcome.out
    assert keys(redis_server) == set()


async def test_purge_of_many(manager: Manager, redis_server: RedisServer) -> None:
    """More than fit into one batch."""
    for number in range(2100):
        redis_server.command("RPUSH", f"mpx:queue:{number}", "x")
    outcome = await manager("purge", "--all", "--no-input")
    assert outcome.out.endswith("Deleted 2,100 messages.\n")
    assert keys(redis_server) == set()


async def test_purge_that_is_not_allowed(make_redis: MakeRedis) -> None:
    """Redis's refusal is told, of counting as of deleting."""
    server = make_redis(users=["a on >pw ~* &* +@all -unlink", "b on >pw ~* &* +@all -llen"])
    server.command("RPUSH", "mpx:queue:work", "a")
    for user, command in (("a", "unlink"), ("b", "llen")):
        with Manager({"default": setting(server.url_for(user, "pw"))}) as manager:
            outcome = await manager("purge", "--all", "--no-input")
        assert outcome.code == 1
        assert re.search(f"refused {command.upper()}: NOPERM .*'{command}'", outcome.err)
    assert keys(server) == {"mpx:queue:work"}


def test_purge_in_memory_works_in_its_process() -> None:
    """Over memory:// it deletes what this process has."""
    with on_broker() as (broker, manager):
        broker.layer()
        manager.run("publish", "work", '{"type": "x"}', "--channel")
        outcome = manager.run("purge", "--all", "--no-input")
        assert outcome.out.endswith("Deleted 1 message.\n")
        assert outcome.err == "memory:// has only the queues of this very process.\n"
        assert not broker.queues


# Values for people


def test_sizes_and_times_have_units() -> None:
    """The largest unit that leaves a number above 1."""
    assert [size(n) for n in (0, 1023, 1024, 1536 * 1024, 5 * 2**30)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 GiB"
    ]  # fmt: skip
    assert [age(n) for n in (0.4, 59, 60, 7200, 200_000)] == ["0 s", "59 s", "1 min", "2 h", "2 d"]
    assert [milliseconds(s) for s in (None, 0.0002, 1.5)] == ["-", "0.20 ms", "1500.00 ms"]
