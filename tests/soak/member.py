"""One process of the soak: it sends and hears everything, and keeps account.

It reads commands as JSON lines, and answers each with one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
import threading
import time
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

from channels_mpx import Gap, LinkError, MultiplexedChannelLayer
from tests.children import serve
from tests.helpers import eventually
from tests.layers import is_active, resident_memory
from tests.sequences import NOTICES, Hearing, Outcome, Outcomes, Sender

ROOMS = ("room0", "room1", "room2")
NEWS = "soak:news"
WORK = "work"

#: Seconds between two messages of one sender, on average.
PAUSE = 0.02

#: Seconds until what was refused is tried again: the pace of a site, and no wait for a condition.
AGAIN = 0.1

#: What stands before each record: the time, so that it can be compared with that of the faults.
LOG_FORMAT = "%(asctime)s %(name)s %(message)s"

#: Seconds between two looks at descriptors, threads and memory.
LOOK = 5.0

#: Messages that the slow subscription holds, and seconds that it takes for each.
SLOW_CAPACITY, SLOW_PAUSE = 50, 0.02

OPTIONS: dict[str, Any] = {
    "timeout": 5,
    "ping_interval": 0.5,
    "ping_timeout": 1.0,
    "probe_interval": 2.0,
    "channel_capacity": {"whole.*": 10**6, WORK: 10**6},
    **NOTICES,
}


class Jobs:
    """Which messages of the worker channel this process has handled, and how often."""

    def __init__(self) -> None:
        self.counts: dict[str, bytearray] = {}

    def handle(self, sender: str, number: int) -> None:
        """Note a message."""
        counts = self.counts.setdefault(sender, bytearray())
        counts.extend(bytes(max(0, number + 1 - len(counts))))
        counts[number] += 1


class Member:
    """All that one process sends and hears.

    Args:
        url: The server, behind the proxy.
        name: Its own name.
        members: Everybody's names.
    """

    def __init__(self, url: str, name: str, members: list[str]) -> None:
        self._layer = MultiplexedChannelLayer(hosts=[url], **OPTIONS)
        self._name = name
        self._members = members
        self._hearings: dict[str, Hearing] = {}
        self._listens_to: dict[str, list[str]] = {}
        self._senders: list[Sender] = []
        self._sent_at = array("d")
        self._jobs = Jobs()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._sending: list[asyncio.Task[None]] = []
        self._resources: list[tuple[int, int, int]] = []
        self._channels: list[str] = []
        self._slow: Any = None

    # Commands

    async def do(self, verb: str, *arguments: Any) -> Any:
        """Carry out one command."""
        return await getattr(self, verb)(*arguments)

    async def join(self) -> str:
        """Begin to listen; return the name of the channel for direct messages."""
        rooms = [f"{member}>{room}" for member in self._members for room in ROOMS]
        for number in range(2):
            channel = await self._listen(f"groups {number}", rooms)
            for room in ROOMS:
                await self._layer.group_add(room, channel)
        direct = await self._listen("direct", [f"{it}>{self._name}" for it in self._members])
        self._subscribe("news", {"capacity": 10**6}, 0)
        self._slow = self._subscribe("slow news", {"capacity": SLOW_CAPACITY}, SLOW_PAUSE)
        await self._slow.activated(10)
        self._tasks.append(asyncio.ensure_future(self._work()))
        self._tasks.append(asyncio.ensure_future(self._look()))
        return direct

    async def start(self, channels: Mapping[str, str]) -> None:
        """Begin to send."""
        layer, mine = self._layer, f"{self._name}>"
        for room in ROOMS:
            self._add_sender(mine + room, lambda it, room=room: layer.group_send(room, it))
        for member, channel in channels.items():
            self._add_sender(mine + member, lambda it, channel=channel: layer.send(channel, it))
        self._add_sender(mine + NEWS, lambda it: layer.multiplexer.publish(NEWS, json.dumps(it)))
        self._add_sender(mine + WORK, self._push)
        dice = random.Random(self._name)
        for sender in self._senders:
            work = sender.run(self._stop, PAUSE * dice.uniform(0.5, 1.5))
            self._sending.append(asyncio.ensure_future(work))

    async def block(self, seconds: float) -> None:
        """Block the event loop."""
        time.sleep(seconds)

    async def stop(self) -> None:
        """Stop sending, and return when all is well again."""
        self._stop.set()
        await asyncio.wait_for(asyncio.gather(*self._sending), 30)
        await eventually(lambda: is_active(self._layer), 30)

    async def finish(self) -> dict[str, Any]:
        """Send a last message from each sender; return what became of all."""
        for sender in self._senders:
            while await sender.step() is not Outcome.TAKEN:
                await asyncio.sleep(AGAIN)
        return {
            sender.name: {
                "count": sender.outcomes.count,
                "others": {n: outcome.value for n, outcome in sender.outcomes.others.items()},
            }
            for sender in self._senders
        }

    async def times(self) -> dict[str, Any]:
        """Return when each message of each sender was given away, and when that was answered."""
        return {
            sender.name: {"asked": _rounded(sender.asked), "told": _rounded(sender.told)}
            for sender in self._senders
        }

    async def account(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Hear the last messages, and return what became of all that there was to hear."""
        outcomes = {name: read_outcomes(what) for name, what in sent.items()}
        accounts = {}
        for what, hearing in self._hearings.items():
            mine = {name: outcomes[name] for name in self._listens_to[what]}
            is_complete = await self._completed(hearing, mine)
            account = hearing.account(mine)
            accounts[what] = {
                **vars(account),
                "is_complete": is_complete,
                "gaps": hearing.gaps,
                "holes": hearing.holes(),
            }
        numbers = self._layer.statistics()
        return {
            "accounts": accounts,
            "dropped": numbers.dropped,
            "slow dropped": self._slow.dropped,
            "reconnections": numbers.connection.reconnections,
            "refused": numbers.connection.refused,
            "epoch": numbers.connection.epoch,
            "jobs": {name: counts.hex() for name, counts in self._jobs.counts.items()},
            "sent at": list(self._sent_at),
            "resources": self._resources,
        }

    async def leave(self) -> None:
        """End everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._layer.aclose()

    # What they do

    async def _listen(self, what: str, senders: list[str]) -> str:
        channel = await self._layer.new_channel("whole.")
        hearing = self._hearing(what, senders)
        self._channels.append(channel)  # the channel lives as long as its name

        async def read() -> None:
            while True:
                hearing.hear(await self._layer.receive(channel))

        self._tasks.append(asyncio.ensure_future(read()))
        return channel

    def _hearing(self, what: str, senders: list[str]) -> Hearing:
        hearing = self._hearings[what] = Hearing()
        self._listens_to[what] = senders
        return hearing

    def _subscribe(self, what: str, bounds: dict[str, int], pause: float) -> Any:
        hearing = self._hearing(what, [f"{member}>{NEWS}" for member in self._members])

        async def on_message(channel: bytes, payload: bytes) -> None:
            hearing.hear(json.loads(payload))
            if pause:
                await asyncio.sleep(pause)

        def on_disconnect(error: Exception) -> None:
            hearing.hear({"type": "gap.opened"})

        def on_gap(gap: Gap) -> None:
            since = gap.since.timestamp()
            hearing.hear({"type": "gap.closed", "since": since, "seconds": gap.seconds})

        subscription = self._layer.multiplexer.new_channel_subscription(
            on_message, on_disconnect, on_gap=on_gap, **bounds
        )
        subscription.add(NEWS)
        return subscription

    async def _work(self) -> None:
        while True:
            try:
                job = await self._layer.receive(WORK)
            except LinkError:  # refused for a while
                await asyncio.sleep(AGAIN)
                continue
            self._jobs.handle(job["sender"], job["number"])

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            descriptors = len(os.listdir("/proc/self/fd"))
            self._resources.append((descriptors, threading.active_count(), resident_memory()))

    def _add_sender(self, name: str, send: Any) -> None:
        self._senders.append(Sender(name, send))

    async def _push(self, message: dict[str, Any]) -> None:
        self._sent_at.append(time.monotonic())
        await self._layer.send(WORK, message)

    async def _completed(self, hearing: Hearing, outcomes: Mapping[str, Outcomes]) -> bool:
        """Wait until the last message of each sender has come; return whether it has."""
        try:
            await eventually(
                lambda: all(hearing.last(it) == what.count - 1 for it, what in outcomes.items()), 20
            )
        except AssertionError:
            return False
        return True


def _rounded(times: Iterable[float]) -> list[float]:
    """Return times as short as they can be in JSON without saying less than is known."""
    return [round(time, 4) for time in times]


def read_outcomes(what: Mapping[str, Any]) -> Outcomes:
    """Return outcomes that came as JSON."""
    outcomes = Outcomes()
    outcomes.count = what["count"]
    outcomes.others = {int(number): Outcome(value) for number, value in what["others"].items()}
    return outcomes


async def main() -> None:
    """Serve until stdin ends."""
    logging.basicConfig(format=LOG_FORMAT, datefmt="%H:%M:%S", level=logging.INFO)
    member = Member(**json.loads(sys.argv[1]))
    await serve(member.do)
    await member.leave()


if __name__ == "__main__":
    asyncio.run(main())
