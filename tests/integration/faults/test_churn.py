"""Great numbers: of groups, of kills, of members that come and go, of processes at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from channels_mpx import MultiplexedChannelLayer, router, supervisor
from channels_mpx.router import Router
from tests.helpers import eventually
from tests.layers import (
    QUICK,
    ROOT,
    calls,
    environment,
    group_subscriptions,
    is_active,
    kill_clients,
    open_layer,
    receive,
    resident_memory,
    settle,
)
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]

GROUPS = 20_000

#: Seconds that the best of ten reconnections with so many groups may take of this process's time;
#: and the best and the worst of the clock's, on two cores that have many other things to do. The
#: clock's without that are in docs/explanation/faults.md.
WORK, BEST, WORST = 0.15, 0.3, 2.0


async def join(layer: MultiplexedChannelLayer, channel: str, count: int) -> set[str]:
    """Make a channel a member of so many groups; return their names."""
    names = {f"g{number}" for number in range(count)}
    await asyncio.gather(*(layer.group_add(name, channel) for name in names))
    return names


async def back_after_kill(layer: MultiplexedChannelLayer, server: RedisServer) -> float:
    """Kill the connection; return the seconds until a gap is over again."""
    connection = layer.statistics().connection
    gap: Any = layer._hub._gap
    assert await asyncio.to_thread(kill_clients, server) == 1
    start = time.monotonic()
    await eventually(
        lambda: layer._hub._counters.epoch > connection.epoch and gap._began is None, 20
    )
    return time.monotonic() - start


@pytest.mark.timeout(180)
async def test_kills_under_churn_with_twenty_thousand_groups(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    """All of 20,000 groups are active again at once, in batches, while members come and go.

    Each of the links is taken for one that has lived for long: after those that have not, the
    pauses between attempts grow.
    """
    monkeypatch.setattr(supervisor, "STEADY", 0.0)
    server = make_redis()
    async with open_layer(server, **{**QUICK, "timeout": 30}) as layer:
        channel = await layer.new_channel()
        wanted = await join(layer, channel, GROUPS)
        visitors = [await layer.new_channel() for _ in range(8)]
        stop = asyncio.Event()

        async def churn(number: int) -> None:
            dice = random.Random(number)
            while not stop.is_set():
                name = f"visited{dice.randrange(20)}"
                await layer.group_add(name, visitors[number])
                await layer.group_discard(name, visitors[number])
                await asyncio.sleep(0.005)

        tasks = [asyncio.ensure_future(churn(number)) for number in range(8)]
        took, work = [], []
        for _ in range(10):
            start = time.process_time()
            took.append(await back_after_kill(layer, server))
            work.append(time.process_time() - start)
        stop.set()
        await asyncio.gather(*tasks)
        print(
            f"{GROUPS} groups active again after {min(took):.3f} to {max(took):.3f} s, "
            f"of which {min(work):.3f} to {max(work):.3f} s are ours"
        )
        if is_full:  # on a machine that does nothing else
            assert min(work) < WORK
            assert min(took) < BEST
            assert max(took) < WORST
        await eventually(lambda: group_subscriptions(server) == wanted)
        assert layer.statistics().connection.active == GROUPS + 1
        await layer.group_send("g7", {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}


@pytest.mark.parametrize("batch", [512, 1])
async def test_groups_come_back_in_batches(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """5,000 names take 10 commands of 512 names; the control: one by one they take 5,000."""
    monkeypatch.setattr(router, "BATCH", batch)
    server = make_redis()
    async with open_layer(server, **QUICK) as layer:
        channel = await layer.new_channel()
        await join(layer, channel, 4999)
        before = calls(server)["subscribe"]
        await back_after_kill(layer, server)
        assert calls(server)["subscribe"] - before == -(-5000 // batch)


async def test_subscriptions_that_stay_away_would_be_found(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a router that forgets its wishes with the link leaves groups behind."""
    made = Router.made

    def forget(self: Router) -> None:
        made(self)
        self._unsettled.clear()

    server = make_redis()
    async with open_layer(server, **QUICK) as layer:
        channel = await layer.new_channel()
        wanted = await join(layer, channel, 100)
        monkeypatch.setattr(Router, "made", forget)
        kill_clients(server)
        await eventually(lambda: layer.statistics().connection.epoch == 2)
        with pytest.raises(AssertionError):
            await eventually(lambda: group_subscriptions(server) == wanted, 0.5)
        assert not is_active(layer)


def leftovers(layer: MultiplexedChannelLayer) -> dict[str, int]:
    """Return the sizes of the tables in which consumers and groups leave their traces."""
    hub: Any = layer._hub
    process: Any = layer._process
    traffic = hub.life.traffic
    return {
        "topics": len(hub._router._channels) - 1,  # the inbox stays
        "wishes": len(hub._router._topics_of) - 1,
        "unsettled": len(hub._router._unsettled),
        "groups": len(process.groups._groups),
        "groups of": len(process.groups._groups_of),
        "suspended": len(process.groups._suspended),
        "mailboxes": len(process.inbox.mailboxes),
        "by number": len(process.inbox._by_local),
        "waiters": len(traffic._confirmations),
        "parked": len(traffic.parking),
        "deadlines": len(traffic.parking._deadlines),
    }


async def cycle(layer: MultiplexedChannelLayer, number: int) -> None:
    """Come, join, leave and go."""
    channel = await layer.new_channel()
    for group in (f"g{number % 50}", f"own{number}"):
        await layer.group_add(group, channel)
    if number % 2:
        await layer.group_discard(f"own{number}", channel)


async def cycles(layer: MultiplexedChannelLayer, count: int) -> None:
    """Do so many cycles, some hundred at a time."""
    for start in range(0, count, 250):
        await asyncio.gather(*(cycle(layer, number) for number in range(start, start + 250)))


@pytest.mark.timeout(1200)
async def test_add_discard_cycles_leave_nothing(make_redis: MakeRedis, is_full: bool) -> None:
    """Consumers and groups that come and go leave empty tables and flat memory."""
    count = 1_000_000 if is_full else 20_000
    server = make_redis()
    async with open_layer(server) as layer:
        await layer.new_channel()
        await cycles(layer, count // 4)  # so that tables have their size
        gc.collect()
        before = resident_memory()
        await cycles(layer, count * 3 // 4)
        gc.collect()
        growth = resident_memory() - before
        await eventually(lambda: not any(leftovers(layer).values()))
        assert not group_subscriptions(server)
        print(f"{count} cycles: {growth / 2**20:+.1f} MiB")
        assert growth < 5 * 2**20


async def test_leftovers_would_be_found(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a router that keeps what nobody wants is caught by the same count."""
    monkeypatch.setattr(Router, "_reconsider", lambda self, entry: None)
    server = make_redis()
    async with open_layer(server) as layer:
        await layer.new_channel()
        await cycles(layer, 250)
        gc.collect()
        with pytest.raises(AssertionError):
            await eventually(lambda: not any(leftovers(layer).values()), 0.5)
        assert leftovers(layer)["topics"] >= 250


async def test_random_adds_and_discards_agree_with_redis(
    make_redis: MakeRedis, is_full: bool
) -> None:
    """32 tasks and 64 names: whatever their order, at rest Redis has what is wanted."""
    server, each = make_redis(), 30_000 if is_full else 300
    async with open_layer(server, capacity=1000) as layer:
        channels = [await layer.new_channel() for _ in range(32)]
        member_of: list[set[str]] = [set() for _ in channels]

        async def wander(number: int) -> None:
            dice = random.Random(number)
            for _ in range(each):
                name = f"g{dice.randrange(64)}"
                if dice.random() < 0.4:
                    await layer.group_add(name, channels[number])
                    member_of[number].add(name)
                else:
                    await layer.group_discard(name, channels[number])
                    member_of[number].discard(name)

        await asyncio.gather(*(wander(number) for number in range(32)))
        wanted = set().union(*member_of)
        await eventually(lambda: group_subscriptions(server) == wanted)
        for name in sorted(wanted):
            await layer.group_send(name, {"type": "a", "group": name})
        for channel, names in zip(channels, member_of, strict=True):
            assert {message["group"] for message in await settle(layer, channel)} == names


@contextlib.asynccontextmanager
async def crowd(
    server: RedisServer, processes: int, groups: int, **config: Any
) -> AsyncIterator[Callable[[], bool]]:
    """Have so many processes be connected, with so many groups each.

    Yields:
        Whether all of them have lost the server, and been between two attempts to connect that are
        as far apart as they get.
    """
    command = [sys.executable, "-m", "tests.integration.faults.crowd", server.url]
    arguments = [str(processes), str(groups), json.dumps(config)]
    with (
        tempfile.NamedTemporaryFile() as told,
        subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=told,
            cwd=ROOT,
            env=environment(),
        ) as parent,
    ):
        try:
            await eventually(lambda: is_crowded(server, processes, groups), 60)
            yield lambda: len(set(Path(told.name).read_text().split())) == processes
        finally:
            assert parent.stdin is not None
            parent.stdin.close()
            assert await asyncio.to_thread(parent.wait, 60) == 0


def is_crowded(server: RedisServer, processes: int, groups: int) -> bool:
    """Whether every process has all of its groups, and its inbox."""
    joined = server.command("PUBSUB", "NUMSUB", "mpx:group:crowd")[1]
    if int(joined) != processes:
        return False
    return len(server.command("PUBSUB", "CHANNELS", "mpx:*")) == processes * (groups + 1) + 1


@pytest.mark.timeout(300)
async def test_a_crowd_reconnects_within_seconds(make_redis: MakeRedis, is_full: bool) -> None:
    """Processes that all lose their server at once are all active again within 5 s."""
    processes, groups = (200, 1000) if is_full else (20, 100)
    server = make_redis()
    async with crowd(server, processes, groups) as are_waiting:
        server.kill()
        await eventually(are_waiting, 30)
        server.start()
        start = time.monotonic()
        await eventually(lambda: is_crowded(server, processes, groups), 30)
        took = time.monotonic() - start
        print(f"{processes} processes with {groups} groups each: active again after {took:.2f} s")
        assert took < 5.0 or not is_full


async def test_a_crowd_that_waits_too_long_would_be_found(make_redis: MakeRedis) -> None:
    """The control: with pauses of a minute nobody is back in time."""
    server = make_redis()
    async with crowd(server, 3, 10, reconnect_delay=60, max_reconnect_delay=60, timeout=1):
        server.restart()
        with pytest.raises(AssertionError):
            await eventually(lambda: is_crowded(server, 3, 10), 1.0)
