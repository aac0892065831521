"""``mpx ping``: what it measures, what it tells of losses, and how it ends."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from channels_mpx.management.ping import Echo, percentiles
from channels_mpx.names import Kind, Topic
from channels_mpx.server import Server
from channels_mpx.testing import Broker
from tests.django.mpx import Manager, Output, on_broker, setting
from tests.helpers import eventually
from tests.layers import calls, kill_clients, subscriptions
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]


async def test_ping_measures(manager: Manager, redis_server: RedisServer) -> None:
    """Every message comes back, and beside each goes a PING; nothing stays subscribed."""
    redis_server.command("CONFIG", "RESETSTAT")
    began = time.monotonic()
    outcome = await manager("ping", "--count", "20", "--interval", "0", "--json")
    took = time.monotonic() - began
    found = outcome.document
    assert (outcome.code, found["sent"], found["lost"], found["reasons"]) == (0, 20, 0, {})
    for times in (found["message"], found["ping"]):
        assert list(times) == ["p50", "p90", "p99", "max"]
        assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"] < took
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
