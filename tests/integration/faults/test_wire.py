"""What networks do to a connection: silence, errors of the system, ends in the middle of a reply."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import hiredis
import pytest

from channels_mpx import LinkError, LinkLost, MultiplexedChannelLayer, resp
from channels_mpx.resp import RedisLink
from tests.helpers import eventually
from tests.layers import QUICK, UNWATCHED, clients, is_active, open_layer, receive
from tests.proxy import Proxy
from tests.sequences import NOTICES
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]

#: Silence is noticed at the pace of a test.
WATCHED: dict[str, Any] = {**QUICK, "ping_interval": 0.2, "ping_timeout": 0.3}


@pytest.fixture
async def layer(redis_server: RedisServer, proxy: Proxy) -> AsyncIterator[MultiplexedChannelLayer]:
    """A layer behind the proxy."""
    async with open_layer([redis_server.url_for(port=proxy.port)], **WATCHED, **NOTICES) as layer:
        yield layer


async def is_heard(layer: MultiplexedChannelLayer, group: str, channel: str) -> None:
    """Fail unless a member of a group hears what is sent to it now."""
    await layer.group_send(group, {"type": "probe"})
    while (await receive(layer, channel))["type"] != "probe":
        pass


def reasons(layer: MultiplexedChannelLayer) -> dict[str, int]:
    """Return how often links were lost, by kind of reason."""
    return layer.statistics().connection.reconnections


async def silence(layer: MultiplexedChannelLayer, begin: Callable[[], None]) -> float:
    """Begin a silence with messages in flight; return how long it took to be noticed."""
    channel = await layer.new_channel()
    begin()
    start = time.monotonic()
    sends = [layer.group_send("room", {"type": "a"}), layer.send(channel, {"type": "a"})]
    for error in await asyncio.gather(*sends, return_exceptions=True):
        assert isinstance(error, LinkLost)
        assert "no sign of life" in str(error)
    assert reasons(layer) == {"silent": 1}
    return time.monotonic() - start


async def test_silence_is_noticed_within_five_seconds_by_default(
    make_redis: MakeRedis, redis_server: RedisServer, proxy: Proxy, is_full: bool
) -> None:
    """SIGSTOP and a black hole: given up in time with the default options, and then replaced."""
    server = make_redis()
    async with (
        open_layer(server) as frozen,
        open_layer([redis_server.url_for(port=proxy.port)]) as swallowed,
    ):
        took = await asyncio.gather(
            silence(frozen, server.freeze), silence(swallowed, proxy.swallow)
        )
        print(f"SIGSTOP noticed after {took[0]:.2f} s, a black hole after {took[1]:.2f} s")
        assert max(took) < 5.0 or not is_full
        server.thaw()
        proxy.resume()
        for layer in (frozen, swallowed):
            await eventually(lambda layer=layer: is_active(layer))


async def test_black_hole_is_survived(
    layer: MultiplexedChannelLayer, proxy: Proxy, is_full: bool
) -> None:
    """Bytes that vanish without a reset: noticed, told as one gap, and over when it is over."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    proxy.swallow()
    assert "no sign of life" in (await receive(layer, channel))["reason"]
    await eventually(lambda: proxy.accepted >= 2)  # it dials into the hole as well
    proxy.resume()
    start = time.monotonic()
    assert (await receive(layer, channel))["type"] == "gap.closed"
    # An attempt that began in the hole waits for its answer, see `Options.step_timeout`.
    assert time.monotonic() - start < 2.5 + 1.0 or not is_full
    await is_heard(layer, "room", channel)
    assert reasons(layer) == {"silent": 1}


async def test_black_hole_is_not_noticed_without_pings(
    redis_server: RedisServer, proxy: Proxy
) -> None:
    """The control: a connection into nowhere looks alive for ever."""
    url = redis_server.url_for(port=proxy.port)
    async with open_layer([url], **{**QUICK, **UNWATCHED}) as layer:
        await layer.new_channel()
        proxy.swallow()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(layer.group_send("room", {"type": "a"}), 1.0)
        assert layer.statistics().connection.state == "connected"
        assert reasons(layer) == {}


async def test_reset_is_named_and_survived(layer: MultiplexedChannelLayer, proxy: Proxy) -> None:
    """RST in the middle of work: replaced at once, with the system's reason."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for _ in range(5):
        sending = asyncio.ensure_future(layer.group_send("room", {"data": b"x" * 2**20}))
        await asyncio.sleep(0)
        proxy.cut()
        await asyncio.gather(sending, return_exceptions=True)
        await eventually(lambda: is_active(layer))
        await is_heard(layer, "room", channel)
    assert reasons(layer) == {"network": 5}


class TimedOut:
    """A socket whose peer has not acknowledged anything for too long."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def recv(self, *_: Any) -> bytes:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    recv_into = recv

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def time_out(layer: MultiplexedChannelLayer) -> None:
    """Have the system report ETIMEDOUT at the next read."""
    life = layer._hub.life
    assert life is not None
    link: Any = life.traffic.link
    link._transport._sock = TimedOut(link._transport._sock)


async def test_etimedout_is_a_loss(make_redis: MakeRedis) -> None:
    """The error that is also a `TimeoutError` ends the link; nobody takes it for "nothing came"."""
    server = make_redis()
    async with open_layer(server, **QUICK) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        time_out(layer)
        server.command("PUBLISH", "mpx:group:room", "wake up")
        await eventually(lambda: is_active(layer) and layer.statistics().connection.epoch == 2)
        assert reasons(layer) == {"network": 1}
        await is_heard(layer, "room", channel)


async def test_etimedout_that_is_overlooked_leaves_a_deaf_process(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: taking it for a read that took too long, as others did, is for ever."""
    lose = RedisLink.connection_lost

    def overlook(link: RedisLink, error: Exception | None) -> None:
        if not isinstance(error, TimeoutError):
            lose(link, error)

    monkeypatch.setattr(RedisLink, "connection_lost", overlook)
    server = make_redis()
    async with open_layer(server, **QUICK, **UNWATCHED) as layer:
        await layer.new_channel()
        time_out(layer)
        server.command("PUBLISH", layer._hub.inbox.name, "wake up")
        await eventually(lambda: not clients(server))
        assert layer.statistics().connection.state == "connected"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(layer.group_send("room", {"type": "a"}), 0.5)


@pytest.mark.parametrize("size", [64, 1000, 4000])
async def test_end_in_the_middle_of_a_reply_is_survived(
    layer: MultiplexedChannelLayer, proxy: Proxy, size: int
) -> None:
    """FIN within a large message: what was begun is not delivered, life goes on."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    proxy.end_after(size)
    sending = asyncio.ensure_future(layer.group_send("room", {"type": "cut", "data": b"x" * 5000}))
    await asyncio.gather(sending, return_exceptions=True)
    await eventually(lambda: layer.statistics().connection.epoch == 2 and is_active(layer))
    await layer.group_send("room", {"type": "whole"})
    heard = [(await receive(layer, channel))["type"] for _ in range(3)]
    assert heard == ["gap.opened", "gap.closed", "whole"]
    assert reasons(layer) == {"closed": 1}


async def exchange(layer: MultiplexedChannelLayer, channel: str, number: int) -> list[bool]:
    """Have Redis say a bit of everything; return which of the three commands it answered."""
    verbs = (
        layer.group_add("other", channel),
        layer.group_send("bad", {}),
        layer.group_send("room", {"type": "cut", "number": f"{number:04}"}),
    )
    done = await asyncio.gather(*verbs, return_exceptions=True)
    assert not [error for error in done if error and not isinstance(error, LinkError)]
    return [not isinstance(error, LinkLost) for error in done]


async def test_an_exchange_that_ends_after_any_byte(make_redis: MakeRedis) -> None:
    """FIN after each byte of what Redis says to a subscription, a refused command and a message.

    Nothing is delivered unless all of it came, whoever waits is told, and life goes on.
    """
    server = make_redis(
        users=["site on >pw resetchannels &mpx:group:room &mpx:group:other &mpx:inbox:* ~* +@all"]
    )
    async with Proxy(server.host, server.port) as proxy:
        url = server.url_for("site", "pw", port=proxy.port)
        config = {**QUICK, **UNWATCHED, "reconnect_delay": 0.001, "max_reconnect_delay": 0.001}
        async with open_layer([url], **config, **NOTICES) as layer:
            channel = await layer.new_channel()
            await layer.group_add("room", channel)
            before = proxy.bytes_down
            assert await exchange(layer, channel, 0) == [True, True, True]
            assert (await receive(layer, channel))["type"] == "cut"
            await layer.group_discard("other", channel)
            size = proxy.bytes_down - before
            await is_heard(layer, "room", channel)
            answered: list[list[bool]] = []
            for number in range(1, size):
                proxy.end_after(number)
                answered.append(await exchange(layer, channel, number))
                await eventually(lambda n=number: layer.statistics().connection.epoch == n + 1)
                await eventually(lambda: is_active(layer))
                await layer.group_discard("other", channel)
                await layer.group_send("room", {"type": "whole"})
                heard = [await receive(layer, channel)]
                while heard[-1]["type"] != "whole":
                    heard.append(await receive(layer, channel))
                cut = (
                    [{"type": "cut", "number": f"{number:04}"}] if heard[0]["type"] == "cut" else []
                )
                notices = ["gap.opened", "gap.closed", "whole"]
                assert heard[: len(cut)] == cut
                assert [event["type"] for event in heard[len(cut) :]] == notices
            assert reasons(layer) == {"closed": size - 1}
            # In the order in which Redis answers: who has waited longer gets more.
            assert answered == sorted(answered)
            assert answered[0] == [True, False, False]
            print(f"{size} bytes of an exchange")


@pytest.mark.timeout(120)
async def test_handshake_that_ends_in_the_middle_is_begun_again(
    redis_server: RedisServer, proxy: Proxy
) -> None:
    """FIN after each byte of the handshake and of the first subscription: the next attempt succeeds."""
    url, size = redis_server.url_for(port=proxy.port), 0
    while True:
        size += 1
        proxy.end_after(size)
        accepted, passed = proxy.accepted, proxy.bytes_down
        async with open_layer([url], **{**QUICK, "timeout": 30}) as layer:
            await layer.new_channel()
            assert layer.statistics().connection.state == "connected"
        if proxy.bytes_down - passed < size:  # it was not even reached
            break
        assert proxy.accepted == accepted + 2
    print(f"{size} bytes of a handshake and a subscription")
    assert size > 200


async def test_a_reader_that_forgets_what_it_began_would_be_caught(
    redis_server: RedisServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of every split: a parser without memory makes no sense of single bytes."""

    class Forgetful:
        def feed(self, data: bytes) -> None:
            self._reader = hiredis.Reader()
            self._reader.feed(data)

        def gets(self) -> Any:
            return self._reader.gets()

    monkeypatch.setattr(resp, "hiredis", SimpleNamespace(**{**vars(hiredis), "Reader": Forgetful}))
    proxy.split(1)
    async with open_layer([redis_server.url_for(port=proxy.port)], timeout=1) as layer:
        with pytest.raises(ConnectionError):
            await layer.new_channel()


async def test_single_bytes_are_understood(redis_server: RedisServer, proxy: Proxy) -> None:
    """Every byte by itself, in both directions: groups, direct and worker channels, refusals."""
    proxy.split(1)
    async with open_layer([redis_server.url_for(port=proxy.port)], timeout=20) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for number in range(5):
            await layer.group_send("room", {"type": "group", "number": number})
            await layer.send(channel, {"type": "direct", "number": number})
            await layer.send("work", {"type": "work", "number": number})
        for number in range(5):
            assert await receive(layer, channel) == {"type": "group", "number": number}
            assert await receive(layer, channel) == {"type": "direct", "number": number}
            assert await receive(layer, "work") == {"type": "work", "number": number}
        assert layer.statistics().connection.epoch == 1
