"""Channels and patterns in consumers: what is subscribed is heard, and nothing else ever is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from channels_mpx import ClosedError
from channels_mpx.testing import Broker
from tests.django.client import is_empty, quiet
from tests.django.talk import (
    Listener,
    Place,
    default,
    fence,
    open_talker,
    place,
)
from tests.helpers import eventually
from tests.layers import open_layer
from tests.servers import RedisServer

__all__ = ["default", "place", "quiet"]


async def test_subscribe_returns_when_active(layer: Any, place: Place) -> None:
    """What is published the next moment arrives, by whomever; other names are not heard."""
    talker = await open_talker(Listener)
    assert await talker.ask("subscribe", "one", "two") is None
    assert place.publish("one", "1") == 1
    assert await talker.next() == ["channel", "one", "1"]
    assert await layer.multiplexer.publish("two", "2") == 1
    assert await talker.next() == ["channel", "two", "2"]
    assert place.publish("three", "3") == 0
    assert await talker.ask("both") == [["one", "two"], []]
    await talker.leave()
    await eventually(lambda: place.numsub("one") == place.numsub("two") == 0)


async def test_subscribe_again_changes_nothing(layer: Any, place: Place) -> None:
    """Also twice in one call; each message comes once."""
    talker = await open_talker(Listener)
    assert await talker.ask("subscribe", "one", "one") is None
    assert await talker.ask("subscribe", "two", "one") is None
    assert await talker.ask("subscribe") is None
    assert await talker.ask("both") == [["one", "two"], []]
    place.publish("one", "1")
    assert await talker.next() == ["channel", "one", "1"]
    await fence(talker, place)
    await talker.leave()


async def test_unsubscribe(layer: Any, place: Place) -> None:
    """From some names, from names that are not there, and from all."""
    talker = await open_talker(Listener)
    assert await talker.ask("subscribe", "one", "two", "three") is None
    assert await talker.ask("psubscribe", "p.*") is None
    assert await talker.ask("unsubscribe", "two", "nowhere") is None
    assert await talker.ask("both") == [["one", "three"], ["p.*"]]
    await eventually(lambda: place.publish("two", "gone") == 0)
    assert await talker.ask("unsubscribe") is None
    assert await talker.ask("both") == [[], ["p.*"]]
    await eventually(lambda: place.publish("one", "gone") == place.publish("three", "gone") == 0)
    await fence(talker, place)
    await talker.leave()


async def test_patterns(layer: Any, place: Place) -> None:
    """What matches two patterns comes through each; a channel and a pattern are two things."""
    talker = await open_talker(Listener)
    assert await talker.ask("psubscribe", "m.*", "m.[x]", "plain") is None
    assert await talker.ask("subscribe", "plain", "m.*") is None
    assert place.publish("m.x", "1") == 2
    heard = [await talker.next() for _ in range(2)]
    assert sorted(heard) == [["pattern", "m.*", "m.x", "1"], ["pattern", "m.[x]", "m.x", "1"]]
    assert place.publish("plain", "2") == 2
    heard = [await talker.next() for _ in range(2)]
    assert sorted(heard) == [["channel", "plain", "2"], ["pattern", "plain", "plain", "2"]]
    assert await talker.ask("both") == [["plain", "m.*"], ["m.*", "m.[x]", "plain"]]
    assert await talker.ask("punsubscribe", "m.*", "nowhere") is None
    await eventually(lambda: place.publish("m.y", "gone") == 0)
    assert await talker.ask("both") == [["plain", "m.*"], ["m.[x]", "plain"]]
    assert await talker.ask("punsubscribe") is None
    await eventually(lambda: place.numpat() == 0)
    await fence(talker, place)
    await talker.leave()


@pytest.mark.parametrize("verb", ["subscribe", "psubscribe"])
async def test_what_waits_is_not_heard_after_unsubscribing(
    layer: Any, place: Place, verb: str
) -> None:
    """Nor after subscribing again; nor is an activation told of what was left meanwhile."""

    class Busy(Listener):
        async def on_activation(self, name: bytes) -> None:
            await self.send_json(["active", name.decode()])

        async def leave_and_come_back(self) -> None:
            await getattr(self, verb)("kept", "left", "back")
            for name in ("kept", "left", "back"):
                assert place.publish(name, "before") == 1
            await eventually(lambda: len(self._desk.mailbox) == 6)  # and three activations
            await getattr(self, verb.replace("sub", "unsub"))("left", "back")
            await getattr(self, verb)("back")
            assert place.publish("back", "after") == 1

    kind = "channel" if verb == "subscribe" else "pattern"
    talker = await open_talker(Busy)
    assert await talker.ask("leave_and_come_back") is None
    heard = [await talker.next() for _ in range(4)]
    assert [line[1] for line in heard if line[0] == "active"] == ["kept", "back"]
    said = [line[::2] if kind == "channel" else line[::3] for line in heard if line[0] == kind]
    assert said == [[kind, "before"], [kind, "after"]]
    await talker.leave()


async def test_all_or_nothing_when_redis_refuses_a_name(
    make_redis: Callable[..., RedisServer], default: Any
) -> None:
    """The error is Redis's own, none of the batch stays, and what was there before does."""
    server = make_redis(users=["ada on >ada ~mpx:* &mpx:* &ok* +@all"])
    async with open_layer([server.url_for("ada", "ada")]) as layer:
        default(layer)
        talker = await open_talker(Listener)
        assert await talker.ask("subscribe", "ok.before") is None
        for batch in (["ok.1", "no", "ok.2"], ["no"], ["ok.before", "ok.3", "no", "never"]):
            for verb in ("subscribe", "psubscribe"):
                assert await talker.ask(verb, *batch) == "CommandRefused"
        assert await talker.ask("both") == [["ok.before"], []]
        await eventually(lambda: layer.statistics().connection.wanted == 2)
        assert server.command("PUBLISH", "ok.1", "") == 0
        assert server.command("PUBLISH", "ok.before", "still") == 1
        assert await talker.next() == ["channel", "ok.before", "still"]
        await talker.leave()


async def test_one_refused_name_does_not_hurt_who_asks_for_another(
    make_redis: Callable[..., RedisServer], default: Any
) -> None:
    """Two of one consumer's tasks subscribe at one time to names that overlap."""
    server = make_redis(users=["ada on >ada ~mpx:* &mpx:* &ok* +@all"])

    class Split(Listener):
        async def split(self) -> list[str]:
            batches = (["ok.1", "ok.2"], ["ok.2", "no"], ["no", "ok.3"], ["ok.2"])
            done = await asyncio.gather(*map(self.one, batches), return_exceptions=True)
            return [type(what).__name__ for what in done]

        async def one(self, batch: list[str]) -> None:
            await self.subscribe(*batch)

    async with open_layer([server.url_for("ada", "ada")]) as layer:
        default(layer)
        talker = await open_talker(Split)
        refused = "CommandRefused"
        assert await talker.ask("split") == ["NoneType", refused, refused, "NoneType"]
        assert await talker.ask("both") == [["ok.1", "ok.2"], []]
        await eventually(lambda: layer.statistics().connection.wanted == 3)
        assert server.command("PUBLISH", "ok.2", "heard") == 1
        assert await talker.next() == ["channel", "ok.2", "heard"]
        await talker.leave()


async def test_all_or_nothing_when_the_link_is_down(default: Any) -> None:
    """The error comes at the deadline, and when the link is back nothing is subscribed."""
    broker = Broker()
    layer = default(broker.layer(timeout=0.2, max_reconnect_delay=0.05))
    talker = await open_talker(Listener)
    assert await talker.ask("subscribe", "before") is None
    with broker.down():
        assert await talker.ask("subscribe", "one", "two") == "LinkUnavailable"
        assert await talker.ask("psubscribe", "p*") == "LinkUnavailable"
        assert await talker.ask("both") == [["before"], []]
    await eventually(lambda: broker.publish(b"before", b"again") == 1)
    assert await talker.next() == ["channel", "before", "again"]
    assert layer.statistics().connection.wanted == 2
    with broker.freeze():  # Redis is silent: nothing is confirmed
        assert await talker.ask("subscribe", "one") == "NotConfirmed"
    assert await talker.ask("both") == [["before"], []]
    await eventually(lambda: layer.statistics().connection.active == 2)
    await talker.leave()


async def test_cancelled_subscribe_leaves_nothing(default: Any) -> None:
    """Who gives up is not subscribed; who unsubscribes meanwhile neither; others are."""
    broker = Broker()
    layer = default(broker.layer())

    class Fickle(Listener):
        async def give_up(self) -> None:
            with broker.freeze():
                one = asyncio.ensure_future(self.subscribe("one", "both"))
                two = asyncio.ensure_future(self.subscribe("two", "both"))
                three = asyncio.ensure_future(self.subscribe("three"))
                await asyncio.sleep(0)
                one.cancel()
                await self.unsubscribe("three")
                await asyncio.wait([one])
                assert one.cancelled()
            await asyncio.gather(two, three)

    talker = await open_talker(Fickle)
    assert await talker.ask("give_up") is None
    assert await talker.ask("both") == [["both", "two"], []]
    await eventually(lambda: layer.statistics().connection.active == 3)
    assert [broker.publish(name, b"") for name in (b"one", b"three", b"both")] == [0, 0, 1]
    assert await talker.next() == ["channel", "both", ""]
    await talker.leave()
    assert is_empty(layer)


async def test_who_has_ended_cannot_subscribe(layer: Any, place: Place) -> None:
    """A task that outlives its consumer gets an error, and leaves nothing in Redis."""
    talker = await open_talker(Listener)
    under_way = asyncio.ensure_future(talker.instance.subscribe("under.way"))
    talker.task.cancel()
    with pytest.raises(ClosedError, match=r"The consumer of specific\..* is closed\."):
        await under_way
    await asyncio.wait([talker.task])
    with pytest.raises(ClosedError):
        await talker.instance.subscribe("late")
    assert talker.instance.subscribed_channels == ()
    await talker.instance.unsubscribe()
    await eventually(lambda: is_empty(layer))
