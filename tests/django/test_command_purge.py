"""``mpx purge``: what it shows, asks and deletes."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable

import pytest

from tests.django.mpx import Manager, on_broker, setting
from tests.layers import calls
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]


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
