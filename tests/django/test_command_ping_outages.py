"""``mpx ping`` through an outage: what has no connection is lost, and slow is something else."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from channels_mpx import MultiplexedChannelLayer
from channels_mpx.management.ping import Echo, _outage
from channels_mpx.names import Topic
from channels_mpx.server import Server
from channels_mpx.testing import Broker
from tests.django.mpx import Manager, Output, setting
from tests.helpers import eventually
from tests.servers import RedisServer


class Tripping(Echo):
    """An echo in whose way something is put as soon as a message is back, before the PING."""

    trip: Callable[[], object]

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`."""
        super().deliver(topic, channel, payload)
        self.trip()


@contextlib.asynccontextmanager
async def echoing(
    kind: type[Echo] = Echo, timeout: float = 2
) -> AsyncIterator[tuple[Broker, MultiplexedChannelLayer, Any]]:
    """Yield an echo that listens, with its layer and a broker that fails on demand."""
    with Broker(max_reconnect_delay=0.01) as broker:
        layer = broker.layer()
        echo = kind(Server(layer), timeout)
        await asyncio.to_thread(echo.open)
        yield broker, layer, echo
        echo.close()


async def test_what_is_begun_without_a_connection_is_lost() -> None:
    """It is not sent when there is one again, which would take as long as the outage."""
    began = time.monotonic()
    async with echoing() as (broker, layer, echo):
        with broker.down():
            await eventually(lambda: layer.statistics().connection.state == "connecting")
            pinging = asyncio.ensure_future(asyncio.to_thread(echo.ping))
            await eventually(lambda: pinging.done() or layer.statistics().connection.parked)
        await pinging
        assert (echo.sent, echo.messages, echo.pings) == (1, [], [])
        assert dict(echo.lost) == {"there was no connection: the broker is down": 1}
        await broker.recovered()
        await asyncio.to_thread(echo.ping)
        assert (echo.sent, len(echo.messages), len(echo.pings)) == (2, 1, 1)
        (outage,) = echo.outages
        assert 0 < outage < time.monotonic() - began
        assert not echo.is_deaf


async def test_what_loses_its_connection_on_the_way_is_lost() -> None:
    """At once, with the reason, and not when its time is over."""
    async with echoing(timeout=5) as (broker, layer, echo):
        with broker.freeze():
            pinging = asyncio.ensure_future(asyncio.to_thread(echo.ping))
            await eventually(lambda: layer.statistics().connection.in_flight)
            broker.kill_connection(layer)
            await eventually(pinging.done, timeout=2)
        assert dict(echo.lost) == {"the connection was lost: killed by the test": 1}
        await eventually(lambda: len(echo.outages) == 1 and not echo.is_deaf)


async def test_ping_that_finds_no_connection_is_lost() -> None:
    """A PING whose message was back in time counts as little as any other."""
    async with echoing(Tripping) as (broker, layer, echo):
        link = layer._hub.life.traffic.link
        with contextlib.ExitStack() as outage:
            echo.trip = lambda: (outage.enter_context(broker.down()), link.lose("tripped"))
            await asyncio.to_thread(echo.ping)
        assert (len(echo.messages), echo.pings, echo.lost.total()) == (1, [], 1)


async def test_ping_is_lost_when_its_time_is_over() -> None:
    """As a message is."""
    async with echoing(Tripping, timeout=0.05) as (broker, _, echo):
        with contextlib.ExitStack() as frozen:
            echo.trip = lambda: frozen.enter_context(broker.freeze())
            await asyncio.to_thread(echo.ping)
        assert (len(echo.messages), echo.pings) == (1, [])
        assert dict(echo.lost) == {"not back within 0.05 s": 1}


async def test_what_redis_refuses_is_lost(make_redis: Callable[..., RedisServer]) -> None:
    """With Redis's reason, and without waiting for what cannot come."""
    server = make_redis(users=["site on >pw ~* &* +@all -publish"])
    with Manager({"default": setting(server.url_for("site", "pw"), timeout=30)}) as manager:
        pinging = manager("ping", "--count", "2", "--timeout", "30")
        outcome = await asyncio.wait_for(pinging, 10)
    assert outcome.code == 1
    assert re.match(r"2 messages lost: 2 × Redis at .* refused PUBLISH \S+: NOPERM ", outcome.err)


@pytest.mark.parametrize("is_json", [True, False])
async def test_outage_is_told_and_is_no_latency(
    make_redis: Callable[..., RedisServer], is_json: bool
) -> None:
    """A server that is killed and comes back: losses, a time without a connection, short ways."""
    server, out, err = make_redis(), Output(is_tty=not is_json), Output()
    layers = {"default": setting(server.url, max_reconnect_delay=0.05)}
    with Manager(layers) as manager:
        echoes: list[Any] = []
        with watching(echoes):
            words = ("ping", "--count", "100000", "--interval", "0.001")
            pinging = asyncio.ensure_future(manager(*words, out=out, err=err, json=is_json))
            await eventually(lambda: echoes and echoes[0].messages)
            server.kill()
            await eventually(lambda: echoes[0].lost.total() > 300)
            lost_until = echoes[0].lost.total()
            server.start()
            seen = len(echoes[0].messages)
            await eventually(lambda: len(echoes[0].messages) > seen + 20)
            echoes[0].is_enough = True
            outcome = await pinging
    assert outcome.code == 1
    assert re.match(r"[\d,]+ messages lost: .*there was no connection: ", outcome.err)
    if not is_json:
        assert re.search(r"\d+ of 100000, [\d,]+ lost\x1b\[K", outcome.out)
        assert re.search(r"^\S*Without a connection for \d+\.\d+ m?s\S*$", outcome.out, re.M)
        return
    (outage,) = outcome.document["outages"]
    assert outcome.document["lost"] >= lost_until
    assert 0.3 < outage
    assert outcome.document["message"]["max"] < outage


@contextlib.contextmanager
def watching(echoes: list[Any]) -> Iterator[None]:
    """Have the command's echo at hand, and Ctrl-C pressed in its thread on demand."""

    class Watched(Echo):
        is_enough = False

        def open(self) -> None:
            super().open()
            echoes.append(self)

        def ping(self) -> None:
            if self.is_enough:
                raise KeyboardInterrupt
            super().ping()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("channels_mpx.management.ping.Echo", Watched)
        yield


def test_outages_are_summed_up_for_people() -> None:
    """Several of them in one line, and whether the last one is over."""
    echo = Echo(Server(Broker().layer()), 1)
    echo._outages = [0.0125]
    assert _outage(echo) == "Without a connection for 12.50 ms"
    echo._outages = [1.0, 2.5]
    assert _outage(echo) == "Without a connection for 3.5 s in all, 2 times"
    echo.interrupted("gone")
    assert _outage(echo) == "Without a connection for 3.5 s in all, 3 times, and still so"
    since = echo._deaf_since
    echo.interrupted("still gone")
    assert echo._deaf_since == since
