"""The server dies, stops, freezes and comes back: everything is active again, and nothing is lost
but what a gap was announced for."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from channels_mpx import Gap, MultiplexedChannelLayer, supervisor
from tests.helpers import eventually
from tests.layers import QUICK, clients, connections_received, is_active, open_layer, receive
from tests.sequences import NOTICES, Account, Outcome, Sender, check
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]

#: Seconds from a server that answers to subscriptions that are active.
SOON = 1.0

#: Seconds that this process may be late because other outages begin or end.
LATE = 0.5

#: Seconds of an outage: the least, and the most.
SHORTEST, LONGEST = 0.1, 60.0

#: Seconds after which a server that has stopped is noticed by default, at the most.
NOTICED = 4.5

#: Why a connection was lost, by what was done to the server.
REASONS = {
    "kill": "Redis closed the connection|ConnectionResetError|BrokenPipeError",
    "stop": "Redis closed the connection|ConnectionResetError|BrokenPipeError",
    "freeze": "no sign of life",
}


class Listener:
    """A consumer that writes down all that it hears."""

    def __init__(self, layer: MultiplexedChannelLayer) -> None:
        self.heard: list[dict[str, Any]] = []
        self._layer = layer
        self._channel = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self, *groups: str) -> None:
        """Join groups and begin to listen."""
        self._channel = await self._layer.new_channel()
        for group in groups:
            await self._layer.group_add(group, self._channel)
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            self.heard.append(await self._layer.receive(self._channel))

    async def hears(self, sender: Sender) -> None:
        """Return when the sender's last message has come."""
        last = {"type": "number", "sender": sender.name, "number": sender.outcomes.count - 1}
        await eventually(lambda: last in self.heard)

    def notices(self, kind: str) -> list[dict[str, Any]]:
        """Return what it has heard of one type."""
        return [event for event in self.heard if event["type"] == kind]

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


@contextlib.asynccontextmanager
async def listening(
    layer: MultiplexedChannelLayer, *groups: str, count: int = 1
) -> AsyncIterator[list[Listener]]:
    """Have consumers listen inside of the block."""
    listeners = [Listener(layer) for _ in range(count)]
    try:
        for listener in listeners:
            await listener.start(*groups)
        yield listeners
    finally:
        for listener in listeners:
            await listener.stop()


@dataclass
class Outage:
    """One outage, and what came of it.

    Attributes:
        planned: Seconds that the server is to be away.
        fault: What to do to it.
        least: For how long it was away, from the moment that the fault was done.
        seconds: The same, from the moment that the fault was begun.
        back: Seconds from a server that accepts to everything being active.
    """

    planned: float
    fault: str
    least: float = 0.0
    seconds: float = 0.0
    back: float = 0.0


def random_outages(dice: random.Random, count: int, longest: float) -> list[Outage]:
    """Return outages from 0.1 s on, uniform on a logarithmic scale; the last is the longest."""
    steps = [(number + dice.random()) / count for number in range(count - 1)]
    spread = [SHORTEST * (longest / SHORTEST) ** step for step in steps]
    # A freeze that is shorter than the time in which it is noticed is no outage.
    every, whole = itertools.cycle(("kill", "stop", "freeze")), itertools.cycle(("kill", "stop"))
    outages = [
        Outage(seconds, next(every if seconds > NOTICED + 1.0 else whole)) for seconds in spread
    ]
    return [*outages, Outage(longest, "kill")]


def dealt(outages: list[Outage], most: float) -> list[list[Outage]]:
    """Deal outages to servers, so that none is away for longer than ``most`` seconds in all."""
    hands: list[list[Outage]] = []
    for outage in sorted(outages, key=lambda outage: -outage.planned):
        fits = (hand for hand in hands if sum(one.planned for one in hand) + outage.planned <= most)
        hand = next(fits, None)
        if hand is None:
            hands.append(hand := [])
        hand.append(outage)
    return hands


class World:
    """A server, one layer that sends, one that listens with the default options, and outages."""

    def __init__(self, server: RedisServer, outages: list[Outage], is_full: bool) -> None:
        self.outages = outages
        self._is_full = is_full
        self._server = server
        self._disconnects: list[str] = []
        self._gaps: list[Gap] = []

    async def live(self) -> Account:
        """Go through the outages and return what became of the messages."""
        async with (
            open_layer(self._server, capacity=10**6, **NOTICES) as layer,
            open_layer(self._server, **QUICK) as other,
            listening(layer, "room", "hall", count=2) as listeners,
        ):
            news = layer.multiplexer.new_channel_subscription(
                lambda channel, payload: None,
                lambda error: self._disconnects.append(str(error)),
                on_gap=self._gaps.append,
            )
            news.add("news")
            await news.activated()
            stop = asyncio.Event()
            sender = Sender("a", lambda message: other.group_send("room", message))
            sending = asyncio.ensure_future(sender.run(stop, 0.02))
            for number, outage in enumerate(self.outages, 1):
                await eventually(lambda: is_active(other))
                await asyncio.sleep(0.2)  # some messages between two outages
                await self._fail(layer, outage)
                await self._see_notices(number, outage, listeners)
                self._see_subscriptions(layer)
            stop.set()
            await asyncio.wait_for(sending, 20)
            assert await sender.step() is Outcome.TAKEN  # everybody is back: this one arrives
            for listener in listeners:
                await listener.hears(sender)
            assert listeners[0].heard == listeners[1].heard
            assert len(self._disconnects) == len(self._gaps) == len(self.outages)
            return check({"a": sender.outcomes}, listeners[0].heard)

    async def _fail(self, layer: MultiplexedChannelLayer, outage: Outage) -> None:
        start = time.monotonic()
        getattr(self._server, outage.fault)()
        done = time.monotonic()
        await asyncio.sleep(outage.planned)
        if outage.fault == "freeze":
            self._server.thaw()
        else:
            self._server.start()
        opened = time.monotonic()
        outage.least, outage.seconds = opened - done, opened - start
        await eventually(lambda: is_active(layer))
        outage.back = time.monotonic() - opened

    async def _see_notices(self, number: int, outage: Outage, listeners: list[Listener]) -> None:
        """One notice of the beginning and one of the end, for each, and what they say is true."""
        await eventually(lambda: len(self._gaps) >= number)
        for listener in listeners:
            await eventually(lambda heard=listener: len(heard.notices("gap.closed")) >= number)
            opened, closed = listener.notices("gap.opened"), listener.notices("gap.closed")
            assert len(opened) == len(closed) == number
            assert re.search(REASONS[outage.fault], opened[-1]["reason"])
            assert closed[-1]["seconds"] == self._gaps[-1].seconds
        assert len(self._disconnects) == len(self._gaps) == number
        gap = self._gaps[-1]
        assert gap.epoch == number + 1
        assert gap.reason in self._disconnects[-1]
        unnoticed = NOTICED if outage.fault == "freeze" else 0.0
        # The servers of the others are started and stopped on this loop too.
        least, most = outage.least - unnoticed - LATE, outage.seconds + outage.back + LATE
        assert least < gap.seconds
        assert gap.seconds < most or not self._is_full

    def _see_subscriptions(self, layer: MultiplexedChannelLayer) -> None:
        """Redis has what is wanted, once, and nothing else."""
        wanted = {"mpx:group:room", "mpx:group:hall", "news", layer._hub.inbox.name.decode()}
        assert set(self._server.command("PUBSUB", "CHANNELS")) == wanted
        counts = self._server.command("PUBSUB", "NUMSUB", *wanted)
        assert dict(zip(counts[::2], map(int, counts[1::2]), strict=True)) == dict.fromkeys(
            wanted, 1
        )
        assert layer.statistics().connection.active == len(wanted)


@pytest.mark.timeout(150)
async def test_random_outages_lose_nothing_unannounced(
    make_redis: MakeRedis, is_full: bool
) -> None:
    """Outages with the default options: what the layer promises, for each.

    At full size 20 of 0.1 s to 60 s, after which all is active again within 1 s (twice a little
    later, as the four servers share our loop); otherwise 8 of 0.1 s to 10 s.

    Redis has exactly what is wanted; everybody gets one notice
    of the beginning and one of the end, with the link's number, the reason and the duration; every
    message comes once, or was lost in such a gap.
    """
    count, longest = (20, LONGEST) if is_full else (8, 10.0)
    outages = random_outages(random.Random("outages"), count, longest)
    worlds = [World(make_redis(), hand, is_full) for hand in dealt(outages, longest)]
    for world, account in zip(
        worlds, await asyncio.gather(*(world.live() for world in worlds)), strict=True
    ):
        assert account.delivered > 5 * len(world.outages)
        assert account.dropped == 0
        assert not account.errors
        assert account.opened == account.closed == len(world.outages)
    back = sorted(outage.back for outage in outages)
    print(f"{count} outages, active again after {back[0]:.3f} to {back[-1]:.3f} s")
    assert len(back) == count
    if is_full:
        assert back[17] <= SOON
        assert back[-1] <= SOON + LATE


async def test_losses_are_there_to_be_announced(make_redis: MakeRedis) -> None:
    """The control: without the notices the same bookkeeping finds messages that are missing."""
    server = make_redis()
    hesitant = {**QUICK, "reconnect_delay": 0.2, "max_reconnect_delay": 0.2}
    async with (
        open_layer(server, **hesitant, capacity=10**6, **NOTICES) as layer,
        open_layer(server) as other,
        listening(layer, "room") as (listener,),
    ):
        sender = Sender("a", lambda message: other.group_send("room", message))
        await sender.step()
        await listener.hears(sender)
        ours = next(row for row in clients(server) if int(row["sub"]) > 0)
        for _ in range(20):
            server.command("CLIENT", "KILL", "ID", ours["id"])
            await sender.step()
        await eventually(lambda: is_active(layer))
        await sender.step()
        await listener.hears(sender)
        sent = {"a": sender.outcomes}
        account = check(sent, listener.heard)
        assert (account.in_gaps, account.dropped, account.opened) == (20, 0, 1)
        unannounced = [event for event in listener.heard if event["type"] == "number"]
        assert check(sent, unannounced).dropped == 20


async def test_long_outage_ends_soon_after_the_server(make_redis: MakeRedis, is_full: bool) -> None:
    """The pauses between attempts stop growing at 1 s; it never gives up."""
    server = make_redis()
    async with (
        open_layer(server) as layer,
        open_layer(server, reconnect_delay=60, max_reconnect_delay=60) as patient,
    ):
        for each in (layer, patient):
            await each.new_channel()
        server.stop()
        await asyncio.sleep(2.5)  # the time itself is what is tested
        server.start()
        start = time.monotonic()
        await eventually(lambda: is_active(layer))
        assert time.monotonic() - start < SOON or not is_full
        # The control: with pauses that grow to a minute it would still be deaf.
        with pytest.raises(AssertionError):
            await eventually(lambda: is_active(patient), 0.7)


async def test_clean_shutdown_is_a_gap_like_any_other(make_redis: MakeRedis) -> None:
    """A server that shuts down in order is reconnected to; senders in flight are told."""
    server = make_redis()
    async with open_layer(server, **QUICK, **NOTICES) as layer:
        channel = await layer.new_channel()
        server.stop()
        opened = await receive(layer, channel)
        assert opened == {"type": "gap.opened", "reason": "Redis closed the connection"}
        server.start()
        assert (await receive(layer, channel))["type"] == "gap.closed"
        assert layer.statistics().connection.reconnections == {"closed": 1}


@pytest.mark.parametrize("is_protected", [True, False])
async def test_wrong_password_does_not_spin(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch, is_protected: bool
) -> None:
    """While a password is wrong, attempts grow rare; once it is right again, all is well.

    The control: with a pause that does not grow there would be hundreds.
    """
    config: dict[str, Any] = {**QUICK, "max_reconnect_delay": 1.0}
    if not is_protected:
        monkeypatch.setattr(supervisor, "REFUSED_PAUSE", 0.0)
        config |= {"reconnect_delay": 0.001, "max_reconnect_delay": 0.001}
    server = make_redis(users=["alice on >right ~* &* +@all"])
    async with open_layer([server.url_for("alice", "right")], **config) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        before = connections_received(server)
        server.command("ACL", "SETUSER", "alice", "resetpass", ">wrong")
        server.command("CLIENT", "KILL", "USER", "alice")
        await asyncio.sleep(1.5)  # the time itself is what is tested
        attempts = connections_received(server) - before
        assert "username-password" in (layer.statistics().connection.last_error or "")
        if not is_protected:
            assert attempts > 50
            return
        assert 4 <= attempts <= 12
        server.command("ACL", "SETUSER", "alice", "resetpass", ">right")
        await eventually(lambda: is_active(layer))
        await layer.group_send("room", {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}
