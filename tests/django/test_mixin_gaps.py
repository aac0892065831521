"""When the link is lost, every consumer hears of it once, and once when everything is back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from channels.generic.websocket import WebsocketConsumer

from channels_mpx import ConnectionInterrupted, Gap, LinkLost, MultiplexedChannelLayer
from channels_mpx.consumers import ChannelSubscriptionMixin, MultiplexedConsumerMixin
from channels_mpx.testing import Broker
from tests.django.client import Client, is_empty, quiet
from tests.django.hooks import NAMES, Grouped, Plain, Subscribed, outages
from tests.django.talk import Place, default, open_talker, place
from tests.helpers import eventually
from tests.layers import QUICK, open_layer
from tests.servers import RedisServer

__all__ = ["default", "place", "quiet"]

KINDS = (Plain, Grouped, Subscribed)


def reasons(place: Place) -> tuple[str, ...]:
    """Return what may be given as the reason when the connection was killed."""
    return ("killed by the test", "Redis closed the connection")


async def test_every_consumer_hears_of_each_outage_once(layer: Any, place: Place) -> None:
    """Its beginning with the reason; its end with epoch, reason and seconds, after activations."""
    clients = [await Client(kind).connect() for kind in (*KINDS, *KINDS)]
    consumers = [client.instance for client in clients]
    for count in (1, 2):
        killed = time.time()
        place.kill()
        for consumer in consumers:
            error, gap = (await outages(consumer, count))[-1]
            assert gap.epoch == layer.statistics().connection.epoch == count + 1
            assert gap.reason in reasons(place)
            assert gap.reason in str(error)
            assert gap.seconds > 0
            assert killed < gap.since.timestamp() + gap.seconds < time.time()
            assert consumer.heard[-1] is gap
            activated = consumer.heard[-1 - len(NAMES) : -1]
            if isinstance(consumer, Subscribed):
                assert set(activated) == NAMES
                assert len(consumer.heard) == (count + 1) * len(NAMES) + 2 * count
            else:
                assert len(consumer.heard) == 2 * count
    for client in clients:
        await client.leave()


async def test_what_comes_after_a_gap_is_complete(layer: Any, place: Place) -> None:
    """When `on_gap` is called, channels, patterns and groups are heard again."""
    published: list[int] = []

    class Asking(Subscribed):
        async def on_gap(self, gap: Gap) -> None:
            published.append(place.publish("news", "again") + place.publish("metrics.x", "again"))
            await self.channel_layer.group_send("room", {"type": "said", "text": "again"})

    talker = await open_talker(Asking)
    place.kill()
    heard = [await talker.next() for _ in range(3)]
    assert published == [2]
    assert sorted(heard) == [
        ["channel", "news", "again"],
        ["layer", "again"],
        ["pattern", "metrics.*", "metrics.x", "again"],
    ]
    await talker.leave()


async def test_a_real_outage(make_redis: Callable[..., RedisServer], default: Any) -> None:
    """A server that is gone for a while: the gap lasts as long."""
    server = make_redis()
    async with open_layer(server, **QUICK) as layer:
        default(layer)
        clients = [await Client(kind).connect() for kind in KINDS]
        server.kill()
        for client in clients:
            await eventually(
                lambda client=client: any(  # type: ignore[misc]
                    isinstance(item, LinkLost) for item in client.instance.heard
                )
            )
        began = time.monotonic()
        await eventually(lambda: time.monotonic() > began + 0.2)
        server.start()
        for client in clients:
            ((_, gap),) = await outages(client.instance, 1)
            assert gap.seconds > 0.2
            await client.leave()


async def test_a_link_that_is_lost_again_within_one_gap(default: Any) -> None:
    """It is one gap: it began once, and ends when everything is active."""
    broker = Broker()
    default(broker.layer(max_reconnect_delay=0.01))
    clients = [await Client(kind).connect() for kind in KINDS]
    layer = clients[0].instance.channel_layer
    with broker.freeze():  # no subscription is confirmed
        for epoch in (2, 3, 4):
            broker.kill_connections(f"loss {epoch}")
            await eventually(lambda: layer.statistics().connection.epoch == epoch)  # noqa: B023
    for client in clients:
        ((error, gap),) = await outages(client.instance, 1)
        assert (gap.epoch, gap.reason) == (4, "loss 2")
        assert "loss 2" in str(error)
        await client.leave()


async def test_who_comes_between_two_losses_of_one_gap_hears_of_it(default: Any) -> None:
    """It was there when the link was lost again; those who were there before hear of it once."""
    broker = Broker()
    layer = default(broker.layer(max_reconnect_delay=0.01))
    first = await Client(Subscribed).connect()
    with broker.freeze():  # no subscription is confirmed, so the gap goes on
        broker.kill_connections("the first loss")
        await eventually(lambda: layer.statistics().connection.epoch == 2)
        late = await Client(KINDS[0]).connect()
        broker.kill_connections("the second loss")
        await eventually(lambda: layer.statistics().connection.epoch == 3)
    for client in (first, late):
        ((_, gap),) = await outages(client.instance, 1)
        assert (gap.epoch, gap.reason) == (3, "the first loss")
        await client.leave()


async def test_who_comes_during_a_gap_hears_nothing_of_it(default: Any) -> None:
    """It has lost nothing; the next gap is its own."""
    broker = Broker()
    layer = default(broker.layer(max_reconnect_delay=0.01))
    first = await Client(Subscribed).connect()
    with broker.down():
        await eventually(lambda: len(first.instance.heard) == 4)
        late = [Client(kind) for kind in KINDS]
        for client in late:
            client.give("websocket.connect")
        await eventually(lambda: layer.statistics().channels == 4)
    for client in late:
        assert await client.hear() == ["websocket.accept"]
    await outages(first.instance, 1)
    assert [set(client.instance.heard) for client in late] == [set(), set(), NAMES]
    broker.kill_connections()
    for client in late:
        ((_, gap),) = await outages(client.instance, 1)
        assert gap.reason == "killed by the test"
        await client.leave()
    await outages(first.instance, 2)
    await first.leave()


async def test_hooks_wait_for_their_turn(layer: Any, place: Place) -> None:
    """They are handled as everything else: after the handler that runs, one at a time."""

    class Busy(Subscribed):
        def __init__(self) -> None:
            super().__init__()
            self.gate = asyncio.Event()

        async def wait(self) -> None:
            await self.gate.wait()
            self.heard.append("waited")

    talker = await open_talker(Busy)
    talker.tell("wait")
    await eventually(lambda: len(talker.instance.heard) == 3)
    place.kill()
    await eventually(lambda: len(talker.instance._desk.mailbox) == 5)
    place.publish("news", "after")
    assert len(talker.instance.heard) == 3
    talker.instance.gate.set()
    await outages(talker.instance, 1)
    assert talker.instance.heard[3] == "waited"
    assert [await talker.next() for _ in range(2)] == [["done", None], ["channel", "news", "after"]]
    await talker.leave()


async def test_an_error_in_a_hook_ends_the_consumer(layer: Any, place: Place) -> None:
    """As in any handler, and only that one."""

    class Failing(Plain):
        async def on_disconnect(self, error: Exception) -> None:
            raise ZeroDivisionError("on purpose")

    failing, other = await Client(Failing).connect(), await Client(Plain).connect()
    place.kill()
    with pytest.raises(ZeroDivisionError):
        await failing.end()
    await outages(other.instance, 1)
    await other.leave()


async def test_who_ends_in_the_gap_is_not_missed(default: Any) -> None:
    """The gap ends without it."""
    broker = Broker()
    layer = default(broker.layer(max_reconnect_delay=0.01))
    first, second = [await Client(Subscribed).connect() for _ in range(2)]
    with broker.down():
        await eventually(lambda: len(first.instance.heard) == 4)
        await first.leave()
        await second.cancel()
    await eventually(lambda: is_empty(layer))
    assert not any(isinstance(item, Gap) for item in first.instance.heard)


class Stuck(Plain):
    """Waits when it hears that the link is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def on_disconnect(self, error: Exception) -> None:
        await super().on_disconnect(error)
        await self.gate.wait()


class StuckSubscriber(ChannelSubscriptionMixin, Stuck):
    """With a channel."""

    channels = ["news"]  # noqa: RUF012

    async def on_channel_message(self, channel: bytes, message: Any) -> None:
        """Do nothing."""


@pytest.mark.parametrize("settings", [set(), {"lost"}, {"back"}, {"lost", "back"}], ids=repr)
@pytest.mark.parametrize("kind", [Stuck, StuckSubscriber])
async def test_two_hundred_outages_that_a_hook_waits_through(
    default: Any, kind: Any, settings: set[str]
) -> None:
    """They are one gap, as long as all of them, whatever the settings tell beside it."""

    class Told(kind):  # type: ignore[misc]
        async def lost(self, event: dict[str, Any]) -> None:
            """Heard of by the settings."""

        back = lost

    options = {"on_disconnect": "lost", "on_reconnect": "back"}
    config: Any = {key: value for key, value in options.items() if value in settings}
    broker = Broker()
    layer = default(broker.layer(reconnect_delay=0.001, max_reconnect_delay=0.001, **config))
    client = await Client(Told).connect()
    consumer, began = client.instance, time.monotonic()
    consumer.heard.clear()
    for _ in range(200):
        broker.kill_connections()
        await broker.recovered()
    assert layer.statistics().connection.epoch == 201
    assert layer.statistics().waiting <= 1 + (kind is StuckSubscriber) + 2 * len(settings)
    consumer.gate.set()
    ((_, gap),) = await outages(consumer, 1)
    assert gap.epoch == 201
    lasted = time.monotonic() - began
    assert lasted / 2 < gap.seconds
    assert abs(gap.since.timestamp() + gap.seconds - time.time()) < lasted
    for count in (2, 3):  # and who reads in time hears of each
        broker.kill_connections()
        await outages(consumer, count)
    await client.leave()


# Elsewhere


async def test_sync_consumer(layer: Any, place: Place) -> None:
    """Its hooks run in a thread, as its handlers do."""
    heard: list[Any] = []

    class Sync(MultiplexedConsumerMixin, WebsocketConsumer):
        def on_disconnect(self, error: Exception) -> None:
            heard.append((type(error), threading.current_thread()))

        def on_gap(self, gap: Gap) -> None:
            heard.append((type(gap), threading.current_thread()))
            self.send(text_data="gap")

    client = await Client(Sync).connect()
    place.kill()
    assert await client.hear() == ["gap"]
    assert [kind for kind, _ in heard] == [ConnectionInterrupted, Gap]
    assert threading.main_thread() not in [thread for _, thread in heard]
    await client.leave()


async def test_consumers_on_another_loop(layer: Any, place: Place) -> None:
    """They hear of it there."""
    here = await Client(Plain).connect()  # this loop is home from now on

    async def elsewhere() -> None:
        clients = [await Client(kind).connect() for kind in KINDS]
        place.kill()
        for client in clients:
            await outages(client.instance, 1)
            await client.leave()

    await asyncio.to_thread(asyncio.run, elsewhere())
    await outages(here.instance, 1)
    await here.leave()


async def test_layers_own_messages_come_too(hosts: list[str], place: Place, default: Any) -> None:
    """`on_disconnect` and `on_reconnect` of the settings are messages, beside the hooks."""
    async with open_layer(hosts, on_disconnect="lost", on_reconnect="back") as layer:
        default(layer)

        class Both(Plain):
            async def lost(self, event: dict[str, Any]) -> None:
                self.heard.append(event["type"])

            back = lost

        client = await Client(Both).connect()
        place.kill()
        await outages(client.instance, 1)
        await eventually(lambda: len(client.instance.heard) == 4)
        assert [item for item in client.instance.heard if isinstance(item, str)] == ["lost", "back"]
        await client.leave()


async def test_closing_the_connection_is_a_gap_for_who_stays(layer: Any) -> None:
    """`flush` closes it and connects again; consumers keep their channels and hear of it."""
    assert isinstance(layer, MultiplexedChannelLayer)
    client = await Client(Subscribed).connect()
    await layer.flush()
    ((_, gap),) = await outages(client.instance, 1)
    assert gap.reason == "closed"
    await client.leave()
