"""``mpx status``: what it tells is what is there, for people, pipes and programs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable

import pytest
import redis

from channels_mpx import MultiplexedChannelLayer
from tests.django.mpx import Manager, Output, setting
from tests.helpers import eventually
from tests.integration.test_connection import MINIMAL
from tests.layers import calls, open_layer, reading
from tests.servers import RedisServer


@pytest.fixture
async def busy(redis_server: RedisServer) -> AsyncIterator[list[MultiplexedChannelLayer]]:
    """Two processes: both in room, one in lobby, one reads mail, and three thumbnails wait."""
    async with open_layer(redis_server) as one, open_layer(redis_server) as two:
        channels = [await one.new_channel(), await one.new_channel(), await two.new_channel()]
        for layer, channel in zip((one, one, two), channels, strict=True):
            await layer.group_add("room", channel)
        await one.group_add("lobby", channels[0])
        for _ in range(3):
            await one.send("thumbnails", {"type": "make"})
        async with reading(two, "mail"):
            await eventually(lambda: "mpx:bell:mail" in bells(redis_server))
            yield [one, two]


def bells(server: RedisServer) -> list[str]:
    """Return the bells that somebody listens to."""
    found: list[str] = server.command("PUBSUB", "CHANNELS", "mpx:bell:*")
    return found


Busy = list[MultiplexedChannelLayer]


async def test_document_has_everything(manager: Manager, busy: Busy) -> None:
    """Server, connections, groups with their processes, patterns, queues; and no notes."""
    subscription = busy[0].multiplexer.new_pattern_subscription("metrics.*")
    await subscription.activated(5)
    found = (await manager("status", "--json")).document
    assert (found["layer"], found["prefix"]) == ("default", "mpx")
    assert found["address"] == busy[0].statistics().connection.address
    assert found["role"] == "master"
    assert re.fullmatch(r"\d+\.\d+\.\d+", found["server"]["version"])
    assert found["server"]["memory"] > 100_000
    assert found["groups"] == [{"name": "room", "processes": 2}, {"name": "lobby", "processes": 1}]
    assert found["queues"] == [
        {"name": "mail", "length": 0, "readers": 1},
        {"name": "thumbnails", "length": 3, "readers": 0},
    ]
    assert (found["patterns"], found["listening"], found["notes"]) == (1, 2, [])
    processes = found["processes"]
    assert [process["is_this"] for process in processes].count(True) == 1
    assert sorted(process["subscriptions"] for process in processes) == [0, 3, 3]
    assert sorted(process["patterns"] for process in processes) == [0, 0, 1]
    assert all(process["name"].startswith("channels_mpx:") for process in processes)
    assert all(process["output_buffer"] >= 0 for process in processes)
    subscription.close()


async def test_text_has_everything(manager: Manager, busy: Busy) -> None:
    """A pipe gets plain lines, one thing in each."""
    out = (await manager("status")).out
    assert re.search(r"^Layer default, prefix mpx, on 127\.0\.0\.1:\d+$", out, re.M)
    assert re.search(
        r"^Redis \S+, master, up .*, memory .* without a limit, \d+ clients$", out, re.M
    )
    assert "\n3 connections, 2 with an inbox under mpx:\n" in out
    assert len(re.findall(r"^  channels_mpx:\S+:\d+ +127\.0\.0\.1:\d+ ", out, re.M)) == 2
    assert len(re.findall(r"^  channels_mpx:\S+ \(this command\) ", out, re.M)) == 1
    assert re.search(r"^2 groups\n  group  processes\n  room           2\n", out, re.M)
    assert re.search(r"^  mail +0 +1$", out, re.M)
    assert re.search(r"^  thumbnails +3 +0$", out, re.M)
    assert "\x1b" not in out


async def test_nothing_there_is_told_too(manager: Manager) -> None:
    """An empty server has zeros, and no tables without rows."""
    out = (await manager("status")).out
    assert "\n0 groups\n" in out
    assert "\n0 worker channels\n" in out
    assert "group  processes" not in out


async def test_other_prefixes_are_not_counted(manager: Manager, redis_server: RedisServer) -> None:
    """Of another site on the server only its connections are seen."""
    async with open_layer(redis_server, prefix="mpx2") as other:
        await other.group_add("room", channel := await other.new_channel())
        await other.send("work", {"type": "x"})
        found = (await manager("status", "--json")).document
        assert (found["groups"], found["queues"], found["listening"]) == ([], [], 0)
        assert len(found["processes"]) == 2
        assert channel


async def test_own_client_name_is_found(redis_server: RedisServer) -> None:
    """With ``client_name`` the connections have that name."""
    layers = {"default": setting(redis_server.url, client_name="my-site")}
    async with open_layer(redis_server, client_name="my-site") as layer:
        await layer.new_channel()
        with Manager(layers) as manager:
            found = (await manager("status", "--json")).document
    assert [process["name"] for process in found["processes"]] == ["my-site", "my-site"]


async def test_names_cannot_disturb_the_terminal(
    manager: Manager, redis_server: RedisServer
) -> None:
    """Whoever may subscribe can choose a name; it is shown escaped."""
    with redis.Redis(port=redis_server.port) as client, client.pubsub() as pubsub:
        pubsub.subscribe(b"mpx:group:\x1b[2J\xff\n")
        assert pubsub.get_message(timeout=5)
        outcome = await manager("status", "--json")
        assert outcome.document["groups"] == [{"name": r"\x1b[2J\xff\n", "processes": 1}]
        assert r"  \x1b[2J\xff\n          1" in (await manager("status")).out


async def test_lists_are_cut_for_people(manager: Manager, redis_server: RedisServer) -> None:
    """A terminal shows 20 of a list, a pipe all, and --limit decides for both."""
    for number in range(25):
        redis_server.command("RPUSH", f"mpx:queue:work{number:02}", "x")
    assert (await manager("status")).out.count("  work") == 25
    watched = (await manager("status", out=Output(is_tty=True))).out
    assert watched.count("  work") == 20
    assert "… and 5 more; see --limit" in watched
    assert (await manager("status", "--limit", "3")).out.count("  work") == 3
    found = (await manager("status", "--limit", "3", "--json")).document
    assert [queue["name"] for queue in found["queues"]] == ["work00", "work01", "work02"]


async def test_queues_are_found_by_scan_in_batches(
    manager: Manager, redis_server: RedisServer
) -> None:
    """Many keys, ours and others', take several SCANs and never KEYS."""
    for number in range(2500):
        redis_server.command("SET", f"cache:{number}", "x")
    redis_server.command("RPUSH", "mpx:queue:work", "a", "b")
    redis_server.command("SET", "mpx:queue:odd", "not a list")
    redis_server.command("CONFIG", "RESETSTAT")
    outcome = await manager("status", "--json")
    used = calls(redis_server)
    assert outcome.document["queues"] == [
        {"name": "odd", "length": None, "readers": 0},
        {"name": "work", "length": 2, "readers": 0},
    ]
    assert used["scan"] >= 3
    assert used["llen"] == 2
    assert "keys" not in used
    assert re.search(r"^  odd +no list +0$", (await manager("status")).out, re.M)


# What the ACL forbids


async def test_what_is_forbidden_is_noted(make_redis: Callable[..., RedisServer]) -> None:
    """With the rights of the layer alone there is a queue to see, and a note for all the rest."""
    server = make_redis(users=[f"site on >pw resetchannels ~mpx:* &mpx:* -@all {MINIMAL}"])
    server.command("RPUSH", "mpx:queue:work", "a")
    with Manager({"default": setting(server.url_for("site", "pw"))}) as manager:
        found = (await manager("status", "--json")).document
        out = (await manager("status")).out
    assert found["role"] == "master"
    assert found["queues"] == [{"name": "work", "length": 1, "readers": None}]
    missing = ("server", "processes", "listening", "groups", "patterns")
    assert [found[name] for name in missing] == [None] * 5
    kinds = [note.partition(":")[0] for note in found["notes"]]
    assert sorted(kinds) == [
        "groups", "inboxes", "patterns", "processes", "readers of worker channels", "server"
    ]  # fmt: skip
    assert "\nRedis, master\n" in out
    assert re.search(r"^not shown, processes: NOPERM .*'client\|list'", out, re.M)
    assert re.search(r"^  work +1 +\?$", out, re.M)


async def test_scan_may_be_forbidden_too(make_redis: Callable[..., RedisServer]) -> None:
    """Then queues are missing, with a note, and so is nothing else."""
    server = make_redis(users=["site on >pw ~* &* +@all -scan -client|id"])
    with Manager({"default": setting(server.url_for("site", "pw"))}) as manager:
        found = (await manager("status", "--json")).document
        out = (await manager("status")).out
    assert found["queues"] is None
    assert [note.partition(":")[0] for note in found["notes"]] == ["queues"]
    assert found["processes"][0]["is_this"] is False
    assert "not shown, queues: NOPERM" in out


# Watching


async def test_pipe_gets_one_picture_after_the_other(manager: Manager) -> None:
    """With --watch, until Ctrl-C, which is no error."""
    out = Output(enough=("Layer default", 3))
    outcome = await manager("status", "--watch", "0.01", out=out)
    assert (outcome.code, outcome.err) == (0, "")
    assert len(re.findall(r"^\d\d:\d\d:\d\d$", outcome.out, re.M)) == 3
    assert "\x1b" not in outcome.out


async def test_programs_get_one_document_after_the_other(manager: Manager) -> None:
    """With --watch and --json, one in each line."""
    out = Output(enough=('"layer"', 3))
    documents = (await manager("status", "--watch", "0.01", "--json", out=out)).documents
    assert len({document["time"] for document in documents}) == 3


async def test_terminal_gets_pictures_in_place(
    manager: Manager, busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fits the screen and is drawn over the last; the cursor comes back."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "10")
    out = Output(is_tty=True, enough=("Layer default", 2))
    outcome = await manager("status", "--watch", "0.01", "--no-color", out=out)
    assert outcome.code == 0
    assert outcome.out.startswith("\x1b[?25l\x1b[2J")
    assert outcome.out.endswith("\x1b[?25h")
    first = outcome.out.split("\x1b[H")[1].removesuffix("\x1b[J")
    rows = first.removesuffix("\n").split("\n")
    assert len(rows) == 9
    assert all(row.endswith("\x1b[K") and len(row) <= 40 + len("\x1b[K") for row in rows)
    assert re.fullmatch(r"\d\d:\d\d:\d\d, every 0\.01 s; Ctrl-C ends\x1b\[K", rows[0])
    assert re.fullmatch(r"… \d+ more lines\x1b\[K", rows[-1])


@pytest.mark.parametrize("is_tty", [True, False])
async def test_lost_server_ends_no_watching(
    make_redis: Callable[..., RedisServer], is_tty: bool
) -> None:
    """What is wrong is shown, on the screen or on stderr, until the server is back."""
    server = make_redis()
    out, err = Output(is_tty), Output()
    layers = {"default": setting(server.url, timeout=0.1, max_reconnect_delay=0.05)}
    with Manager(layers) as manager:
        words = ("status", "--watch", "0.01")
        watching = asyncio.ensure_future(manager(*words, out=out, err=err))
        await eventually(lambda: "Layer default" in out.getvalue())
        server.kill()
        told = out if is_tty else err
        await eventually(lambda: "No link to Redis" in told.getvalue())
        server.start()
        out.end_after("Layer default", out.getvalue().count("Layer default") + 1)
        assert (await watching).code == 0
