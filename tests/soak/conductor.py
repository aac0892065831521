"""Starts a server, a proxy and members, has a fault happen every 3 s, and asks for the accounts."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.children import Child
from tests.helpers import eventually
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.soak.faults import FAULTS, USER, World

#: Seconds from the beginning of one fault to that of the next.
INTERVAL = 3.0

#: A record of the layer about what the faults do to it; see `docs/reference/logging.md`.
EXPECTED = re.compile(r"\d\d:\d\d:\d\d channels_mpx\.\w+ channels_mpx: ")


class Member:
    """A process of the soak, from outside; see `tests.soak.member`.

    Args:
        name: Its name.
        url: The server, behind the proxy.
        members: Everybody's names.
    """

    def __init__(self, name: str, url: str, members: list[str]) -> None:
        self.name = name
        self.log = self.complaints = ""
        config = {"url": url, "name": name, "members": members}
        self._child = Child("tests.soak.member", config, "-W", "error")
        self._asking = asyncio.Lock()

    async def start(self) -> None:
        """Start the process."""
        await self._child.start()

    async def ask(self, verb: str, *arguments: Any) -> Any:
        """Have it do something; return its answer."""
        async with self._asking:
            return await self._child.ask(verb, *arguments, timeout=120)

    async def end(self) -> int:
        """End the process; return its exit status."""
        status = await self._child.end()
        self.log = self._child.errors
        # Losses, refusals and drops are logged, rightly; everything else is a complaint.
        lines = (line for line in self.log.splitlines() if not EXPECTED.match(line))
        self.complaints = "\n".join(lines)
        self._child.close()
        return status


@dataclass
class Outcome:
    """What a soak has found.

    Attributes:
        seed: Of the random choices.
        seconds: How long faults happened.
        faults: How often each happened.
        back: Seconds from the end of each fault until every member was active again.
        sent: What each sender was told, by its name.
        times: When each of its messages was given away, and when that was answered, by its name.
        results: What each member heard, and how it fared.
        restarts: When the server lost its data.
        problems: What went wrong besides.
    """

    seed: int
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    back: list[float] = field(default_factory=list)
    sent: dict[str, Any] = field(default_factory=dict)
    times: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    restarts: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


async def soak(seconds: float, seed: int, count: int, logs: Path | None = None) -> Outcome:
    """Run a soak.

    Args:
        seconds: How long faults happen.
        seed: Of the random choices.
        count: How many members.
        logs: A directory for what the members log.
    """
    outcome = Outcome(seed)
    with RedisServer(users=[f"{USER} on >pw ~mpx:* &* +@all"]) as server:
        async with Proxy(server.host, server.port) as proxy:
            names = [f"m{number}" for number in range(count)]
            url = server.url_for(USER, "pw", port=proxy.port)
            members = [Member(name, url, names) for name in names]
            await asyncio.gather(*(member.start() for member in members))
            try:
                await _play(outcome, server, proxy, members, seconds)
            finally:
                for member in members:
                    if await member.end() != 0:
                        outcome.problems.append(f"{member.name} did not end in order")
                    if logs is not None:
                        (logs / f"{member.name}.log").write_text(member.log)
                    if member.complaints:
                        outcome.problems.append(f"{member.name}: {member.complaints[-2000:]}")
    return outcome


async def _play(
    outcome: Outcome, server: RedisServer, proxy: Proxy, members: list[Member], seconds: float
) -> None:
    channels = dict(
        zip(
            [member.name for member in members],
            await asyncio.gather(*(member.ask("join") for member in members)),
            strict=True,
        )
    )
    await asyncio.gather(*(member.ask("start", channels) for member in members))
    dice = random.Random(outcome.seed)

    async def block(length: float) -> None:
        await dice.choice(members).ask("block", length)

    world = World(server, proxy, dice, block)
    start = time.monotonic()
    while (now := time.monotonic()) - start < seconds:
        fault = dice.choice(FAULTS)
        outcome.faults[fault.__name__] += 1
        began = time.time()
        await fault(world)
        over = time.monotonic()
        clock = time.strftime("%H:%M:%S", time.localtime(began))
        print(f"{clock}  {fault.__name__}, {over - now:.1f} s long", flush=True)
        await eventually(lambda: _is_well(server, len(members)), 30)
        outcome.back.append(time.monotonic() - over)
        await asyncio.sleep(max(0.0, now + INTERVAL - time.monotonic()))
    outcome.seconds = time.monotonic() - start
    outcome.restarts = world.restarts
    await asyncio.gather(*(member.ask("stop") for member in members))
    await asyncio.sleep(INTERVAL)  # so that the slow ones have caught up
    for member in members:
        outcome.sent |= await member.ask("finish")
        outcome.times |= await member.ask("times")
    for member in members:
        outcome.results[member.name] = await member.ask("account", outcome.sent)


def _is_well(server: RedisServer, members: int) -> bool:
    """Whether every member is subscribed to every room and to the news."""
    names = ("mpx:group:room0", "mpx:group:room1", "mpx:group:room2", "soak:news")
    flat = server.command("PUBSUB", "NUMSUB", *names)
    return all(int(number) == members for number in flat[1::2])
