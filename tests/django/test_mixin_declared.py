"""Channels and patterns of class attributes; many consumers, many names, other loops."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from channels_mpx import ClosedError
from channels_mpx.consumers import ChannelSubscriptionMixin, PatternSubscriptionMixin
from tests.django.client import Client, is_empty, others, quiet
from tests.django.talk import (
    Declared,
    Listener,
    Obedient,
    Place,
    Talker,
    default,
    fence,
    open_talker,
    place,
)
from tests.helpers import eventually
from tests.layers import open_layer

__all__ = ["default", "place", "quiet"]


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
