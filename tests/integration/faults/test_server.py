"""The server dies, stops, freezes and comes back: everything is active again, and nothing is lost
but what a gap was announced for."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from channels_mpx import MultiplexedChannelLayer, supervisor
from tests.helpers import eventually
from tests.layers import QUICK, clients, connections_received, is_active, open_layer, receive
from tests.sequences import NOTICES, Account, Outcome, Sender, check
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]

#: Seconds from a server that answers to subscriptions that are active. The layer waits at most 1 s
#: between two attempts; the rest is for machines that do many things at once.
SOON = 1.0 + 1.0


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


class World:
    """A server, one layer that sends, one that listens, and outages.

    Attributes:
        back: Seconds from each outage's end until everything was active again.
        losses: How many outages must have ended the connections.
    """

    def __init__(self, server: RedisServer, seed: str) -> None:
        self.back: list[float] = []
        self.losses = 0
        self._server = server
        self._dice = random.Random(seed)

    async def live(self, outages: int, longest: float) -> Account:
        """Go through outages and return what became of the messages."""
        config = {**QUICK, "ping_interval": 0.3, "ping_timeout": 0.3, "max_reconnect_delay": 1.0}
        async with (
            open_layer(self._server, **config, capacity=10**6, **NOTICES) as layer,
            open_layer(self._server, **config) as other,
            listening(layer, "room", count=2) as (first, second),
        ):
            stop = asyncio.Event()
            sender = Sender("a", lambda message: other.group_send("room", message))
            sending = asyncio.ensure_future(sender.run(stop, 0.001))
            for _ in range(outages):
                await asyncio.sleep(self._dice.uniform(0.05, 0.2))
                await self._fail(self._dice.uniform(0.1, longest))
                start = time.monotonic()
                await eventually(lambda: is_active(layer))
                self.back.append(time.monotonic() - start)
            stop.set()
            await asyncio.wait_for(sending, 10)
            assert await sender.step() is Outcome.TAKEN  # everybody is back: this one arrives
            for listener in (first, second):
                await listener.hears(sender)
            assert first.heard == second.heard
            assert layer.statistics().connection.active == 2
            assert sum(layer.statistics().connection.reconnections.values()) >= self.losses
            return check({"a": sender.outcomes}, first.heard)

    async def _fail(self, seconds: float) -> None:
        fault = self._dice.choice(("kill", "kill", "stop", "freeze"))
        getattr(self._server, fault)()
        await asyncio.sleep(seconds)
        if fault == "freeze":
            self._server.thaw()
        else:
            self._server.start()
            self.losses += 1


@pytest.mark.timeout(120)
async def test_twenty_random_outages_lose_nothing_unannounced(make_redis: MakeRedis) -> None:
    """Every message comes once, or was lost in an announced gap; all is active again within 1 s."""
    worlds = [World(make_redis(), f"world {number}") for number in range(4)]
    for account in await asyncio.gather(*(world.live(5, 1.2) for world in worlds)):
        assert account.delivered > 100
        assert account.dropped == 0
        assert not account.errors
        assert account.opened == account.closed
    back = sorted(seconds for world in worlds for seconds in world.back)
    print(f"20 outages, active again after {back[0]:.3f} to {back[-1]:.3f} s")
    assert back[-1] < SOON


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


async def test_long_outage_ends_within_a_second_of_the_server(make_redis: MakeRedis) -> None:
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
        assert time.monotonic() - start < SOON
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
