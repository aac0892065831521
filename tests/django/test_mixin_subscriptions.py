"""Channels and patterns in consumers: what is subscribed is heard, and nothing else ever is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from channels_mpx import ClosedError, CommandRefused, LinkUnavailable
from channels_mpx.consumers import ChannelSubscriptionMixin, PatternSubscriptionMixin
from channels_mpx.testing import Broker
from tests.django.client import Client, is_empty, others, quiet
from tests.django.talk import Obedient, Place, Talker, default, open_talker, place
from tests.helpers import eventually
from tests.layers import open_layer
from tests.servers import RedisServer

__all__ = ["default", "place", "quiet"]


class Listener(
    Obedient, ChannelSubscriptionMixin, PatternSubscriptionMixin, AsyncJsonWebsocketConsumer
):
    """Both mixins; the client says what to do."""


class Declared(Listener):
    """With class attributes."""

    channels = ["news", b"weather"]  # noqa: RUF012
    patterns = ("metrics.*",)


async def fence(talker: Talker, place: Place) -> None:
    """Return when everything that was published before has been handled; nothing may come of it."""
    assert await talker.ask("subscribe", "fence") is None
    assert place.publish("fence", "up") == 1
    assert await talker.next() == ["channel", "fence", "up"]
    assert await talker.ask("unsubscribe", "fence") is None


# Channels


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


# Class attributes


async def test_class_attributes_are_active_before_the_first_event(layer: Any, place: Place) -> None:
    """And what comes through them comes after it: before, nothing could be sent to the client."""
    heard: list[Any] = []

    class Early(Declared):
        async def connect(self) -> None:
            heard.append([place.publish(name, "early") for name in ("news", "metrics.x")])
            await self.accept()

        async def on_activation(self, name: bytes) -> None:
            await self.send_json(["active", name.decode()])

    talker = await open_talker(Early)
    assert heard == [[1, 1]]
    said = [await talker.next() for _ in range(5)]
    assert sorted(said[:3]) == [["active", "metrics.*"], ["active", "news"], ["active", "weather"]]
    assert sorted(said[3:]) == [
        ["channel", "news", "early"],
        ["pattern", "metrics.*", "metrics.x", "early"],
    ]
    assert await talker.ask("both") == [["news", "weather"], ["metrics.*"]]
    await talker.leave()


async def test_a_busy_channel_does_not_come_before_the_first_event(
    layer: Any, place: Place
) -> None:
    """Although it is active, and somebody publishes, while the client is not there yet."""
    talker = Talker(Declared)
    await eventually(lambda: talker.calls == 1)
    assert place.publish("news", "nobody yet") == 0
    talker.give("websocket.connect")
    await eventually(lambda: place.publish("news", "first"))
    assert await talker.hear() == ["websocket.accept"]
    assert await talker.next() == ["channel", "news", "first"]
    await talker.leave()


async def test_receive_that_fails_at_once(layer: Any, place: Place) -> None:
    """Nobody waits for a first event that will never come."""
    client = Client(Declared)
    client.give(ZeroDivisionError("on purpose"))
    with pytest.raises(ZeroDivisionError):
        await client.end()
    await eventually(lambda: is_empty(layer))


async def test_class_attributes_of_what_no_client_opens(layer: Any, place: Place) -> None:
    """A plain consumer, a worker's for instance, hears its channels without an event."""
    heard: asyncio.Queue[Any] = asyncio.Queue()

    class Plain(ChannelSubscriptionMixin, AsyncConsumer):
        @property
        def channels(self) -> list[str]:
            return [f"of.{self.scope['user']}"]

        async def on_channel_message(self, channel: bytes, message: bytes) -> None:
            heard.put_nowait((channel, message))

    client = Client(Plain, {"type": "channel", "channel": "work", "user": "ada"})
    await eventually(lambda: place.publish("of.ada", "hello") == 1)
    assert await asyncio.wait_for(heard.get(), 10) == (b"of.ada", b"hello")
    await client.cancel()
    await eventually(lambda: place.numsub("of.ada") == 0)


async def test_mixins_in_the_other_order(layer: Any, place: Place) -> None:
    """It is the same to them, and patterns may be computed too."""

    class Turned(
        Obedient, PatternSubscriptionMixin, ChannelSubscriptionMixin, AsyncJsonWebsocketConsumer
    ):
        channels = ["one"]  # noqa: RUF012

        @property
        def patterns(self) -> set[str]:
            return {"o*"}

    talker = await open_talker(Turned)
    assert place.publish("one", "1") == 2
    heard = [await talker.next() for _ in range(2)]
    assert sorted(heard) == [["channel", "one", "1"], ["pattern", "o*", "one", "1"]]
    await talker.leave()


async def test_class_attributes_that_redis_refuses(
    make_redis: Callable[..., RedisServer], default: Any
) -> None:
    """The consumer ends with the reason before it has handled anything."""
    server = make_redis(users=["ada on >ada ~mpx:* &mpx:* &news +@all"])
    async with open_layer([server.url_for("ada", "ada")]) as layer:
        default(layer)
        client = Client(Declared)
        client.give("websocket.connect")
        with pytest.raises(CommandRefused) as caught:
            await client.end()
        assert (caught.value.code, client.sent) == ("NOPERM", [])
        await eventually(lambda: is_empty(layer))


async def test_class_attributes_without_a_link(default: Any) -> None:
    """The consumer ends at the deadline."""
    broker = Broker()
    layer = default(broker.layer(timeout=0.2, max_reconnect_delay=0.05))
    await layer.new_channel()
    with broker.down():
        client = Client(Declared)
        client.give("websocket.connect")
        with pytest.raises(LinkUnavailable):
            await client.end()
    await eventually(lambda: is_empty(layer))


# Many


async def test_many_consumers_are_one_subscription(layer: Any, place: Place) -> None:
    """In Redis; each hears everything, and with the last it is gone."""
    talkers = [await open_talker(Declared) for _ in range(20)]
    assert (place.numsub("news"), place.numsub("weather"), place.numpat()) == (1, 1, 1)
    assert place.publish("news", "to all") == place.publish("metrics.x", "to all") == 1
    for talker in talkers:
        assert await talker.next() == ["channel", "news", "to all"]
        assert await talker.next() == ["pattern", "metrics.*", "metrics.x", "to all"]
    for number, talker in enumerate(talkers):
        assert (place.numsub("news"), place.numpat()) == (1, 1)
        if number % 2:
            await talker.leave()
        else:
            await talker.cancel()
    await eventually(lambda: (place.numsub("news"), place.numpat()) == (0, 0))
    assert is_empty(layer)
    assert not others()


async def test_a_consumer_with_many_names(layer: Any, place: Place) -> None:
    """Two thousand in one call, and gone in one call."""
    talker = await open_talker(Listener)
    names = [f"c{number}" for number in range(2000)]
    assert await talker.ask("subscribe", *names) is None
    assert [place.numsub(names[at]) for at in (0, 512, 1999)] == [1, 1, 1]
    assert await talker.ask("unsubscribe") is None
    await eventually(lambda: layer.statistics().connection.wanted == 1)
    await talker.leave()


async def test_everything_comes_in_order_of_arrival(layer: Any, place: Place) -> None:
    """Client events, messages of groups and of channels, one at a time."""

    class Ordered(Listener):
        groups = ["room"]  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.gate = asyncio.Event()

        async def wait(self) -> None:
            await self.send_json("waiting")
            await self.gate.wait()

        async def echo(self, number: int) -> int:
            return number

    talker = await open_talker(Ordered)
    assert await talker.ask("subscribe", "one") is None
    assert await talker.ask("psubscribe", "p*") is None
    talker.tell("wait")
    assert await talker.next() == "waiting"
    mailbox = talker.instance._desk.mailbox
    for number in range(3):
        talker.tell("echo", number)
        await eventually(lambda: len(mailbox) == 4 * number + 1)  # noqa: B023
        await layer.group_send("room", {"type": "said", "text": number})
        await eventually(lambda: len(mailbox) == 4 * number + 2)  # noqa: B023
        place.publish("one", str(number))
        await eventually(lambda: len(mailbox) == 4 * number + 3)  # noqa: B023
        place.publish("p", str(number))
        await eventually(lambda: len(mailbox) == 4 * number + 4)  # noqa: B023
    talker.instance.gate.set()
    assert await talker.next() == ["done", None]
    for number in range(3):
        assert [await talker.next() for _ in range(4)] == [
            ["done", number],
            ["layer", number],
            ["channel", "one", str(number)],
            ["pattern", "p*", "p", str(number)],
        ]
    await talker.leave()


async def test_a_slow_consumer_loses_the_newest(
    hosts: list[str], place: Place, default: Any
) -> None:
    """As messages of the layer: counted, and nobody else is held up."""
    async with open_layer(hosts, capacity=3) as layer:
        default(layer)

        class Slow(Listener):
            async def sleep(self) -> None:
                await self.send_json("asleep")
                await eventually(lambda: layer.statistics().dropped["full"] == 7)

        talker, other = await open_talker(Slow), await open_talker(Listener)
        for client in (talker, other):
            assert await client.ask("subscribe", "one") is None
        talker.tell("sleep")
        assert await talker.next() == "asleep"
        for number in range(10):
            place.publish("one", str(number))
            assert await other.next() == ["channel", "one", str(number)]
        assert await talker.next() == ["done", None]
        for number in range(3):
            assert await talker.next() == ["channel", "one", str(number)]
        await fence(talker, place)
        await talker.leave()
        await other.leave()


async def test_consumers_on_another_loop(layer: Any, place: Place) -> None:
    """Subscribe, hear, unsubscribe and end in a thread whose loop is not the connection's."""
    here = await open_talker(Listener)  # this loop is home from now on

    async def elsewhere() -> None:
        talker = await open_talker(Declared)
        assert await talker.ask("subscribe", "one") is None
        assert place.publish("one", "1") == 1
        assert await talker.next() == ["channel", "one", "1"]
        assert await talker.ask("unsubscribe", "one") is None
        await eventually(lambda: place.numsub("one") == 0)
        giving_up = asyncio.ensure_future(talker.instance.subscribe("never"))
        await asyncio.sleep(0)
        giving_up.cancel()
        place.publish("news", "2")
        assert await talker.next() == ["channel", "news", "2"]
        await eventually(lambda: place.numsub("never") == 0)
        await talker.cancel()

    await asyncio.to_thread(asyncio.run, elsewhere())
    await eventually(lambda: (place.numsub("news"), place.numpat()) == (0, 0))
    await here.leave()


async def test_a_loop_that_ends_takes_its_consumers_along(layer: Any, place: Place) -> None:
    """Also where nobody ends their tasks in order."""
    here = await open_talker(Listener)
    there: list[Talker] = []

    def elsewhere() -> None:
        loop = asyncio.new_event_loop()
        there.append(loop.run_until_complete(open_talker(Declared)))
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is what we do
        loop.close()

    await asyncio.to_thread(elsewhere)
    assert place.numsub("news") == 1
    layer._process.tick()
    await eventually(lambda: (place.numsub("news"), place.numpat()) == (0, 0))
    with pytest.raises(ClosedError):
        await there[0].instance.subscribe("one")
    await here.leave()


async def test_closing_the_layers_multiplexer_ends_subscriptions(layer: Any, place: Place) -> None:
    """The consumer lives on, and is told if it subscribes again."""
    talker = await open_talker(Declared)
    await layer.multiplexer.aclose()
    await eventually(lambda: place.numsub("news") == 0)
    assert await talker.ask("subscribe", "one") == "ClosedError"
    await talker.leave()
