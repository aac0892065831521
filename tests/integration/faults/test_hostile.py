"""Garbage, from publishers and on the wire: nobody dies, nothing is delivered, all is counted."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from channels_mpx import DecodingError, MultiplexedChannelLayer, delegation, envelope
from channels_mpx.body import Body
from channels_mpx.codec import Codec
from channels_mpx.delegation import MAX_UNDER_WAY
from channels_mpx.envelope import Form
from channels_mpx.intake import Intake
from channels_mpx.packing import pack
from channels_mpx.serializers import find_serializer
from tests.helpers import eventually
from tests.integration.faults.fuzzing import Fuzzer, InboxFuzzer, fate
from tests.layers import QUICK, UNWATCHED, is_active, open_layer, receive
from tests.proxy import Direction, Proxy
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]

GROUP = b"mpx:group:room"


def publish_all(server: RedisServer, channel: bytes, payloads: list[bytes]) -> None:
    """Publish as any program may, a thousand at a time."""
    with socket.create_connection((server.host, server.port)) as sock, sock.makefile("rb") as file:
        for start in range(0, len(payloads), 1000):
            some = payloads[start : start + 1000]
            sock.sendall(b"".join(pack((b"PUBLISH", channel, payload)) for payload in some))
            for _ in some:
                assert file.readline().startswith(b":")


def mixed(count: int) -> tuple[list[bytes], int]:
    """Return so many pieces of garbage with some messages among them, and how many these are."""
    fuzzer, payloads, messages = iter(Fuzzer("hostile")), [], 0
    for number in range(count):
        payloads.append(next(fuzzer))
        if number % 1000 == 0:
            body = msgspec.msgpack.encode({"type": "valid", "number": messages})
            payloads.append(envelope.wrap(Form.GROUP, body))
            messages += 1
    return payloads, messages


@pytest.fixture
async def layer(redis_server: RedisServer) -> AsyncIterator[MultiplexedChannelLayer]:
    """A layer on a good server."""
    async with open_layer(redis_server, capacity=10**6, **QUICK) as layer:
        yield layer


async def test_a_hundred_thousand_pieces_of_garbage(
    layer: MultiplexedChannelLayer, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """None is delivered, each is counted, the messages among them come, in order."""
    payloads, messages = await asyncio.to_thread(mixed, 100_000)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    with caplog.at_level(logging.INFO, "channels_mpx"):
        publishing = asyncio.ensure_future(
            asyncio.to_thread(publish_all, redis_server, GROUP, payloads)
        )
        for number in range(messages):
            assert await receive(layer, channel) == {"type": "valid", "number": number}
        await publishing
        await layer.group_send("room", {"type": "last"})
        assert await receive(layer, channel) == {"type": "last"}
    assert layer.statistics().dropped["malformed"] == 100_000
    assert layer.statistics().waiting == 0
    assert layer.statistics().connection.epoch == 1
    assert len(caplog.records) == 1


async def test_garbage_would_cost_the_connection(
    layer: MultiplexedChannelLayer,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The control: a header that is read without care ends the reader of the whole process."""
    monkeypatch.setattr(Intake, "unwrap", lambda self, payload, channel: envelope.unwrap(payload))
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for _ in range(3):
        epoch = layer.statistics().connection.epoch
        publish_all(redis_server, GROUP, [b"garbage"])
        await eventually(lambda epoch=epoch: layer.statistics().connection.epoch > epoch)
        await eventually(lambda: is_active(layer))
    assert layer.statistics().dropped["malformed"] == 0
    assert "data_received" in caplog.text


@pytest.mark.timeout(120)
async def test_garbage_in_an_inbox(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """100,000 pieces of all forms on the channel of the process itself, each counted as what it is.

    Not one of them is delivered, and requests go on working.
    """
    channel = await layer.new_channel()
    local = channel.rpartition("!")[2].encode()
    fuzzer = iter(InboxFuzzer("inbox", local))
    payloads = [next(fuzzer) for _ in range(100_000)]
    fates = Counter(fate(payload, local) for payload in payloads)
    forms = Counter(payload[1] & 0x0F for payload in payloads if b"\x01" < payload[:2] < b"\x02")
    assert min(fates[kind] for kind in ("malformed", "unknown", "late", "ignored")) > 500
    assert min(forms[form] for form in Form) > 1000
    reading = asyncio.ensure_future(receive(layer, channel, 60))
    await asyncio.to_thread(publish_all, redis_server, layer._hub.inbox.name, payloads)
    await layer.send(channel, {"type": "last"})
    assert await reading == {"type": "last"}
    dropped = layer.statistics().dropped
    for kind in ("unknown", "late"):
        assert dropped[kind] == fates[kind]
    # Requests between processes with a time of their own are too old, or from the future.
    assert dropped["malformed"] + dropped["expired"] == fates["malformed"]
    assert dropped["full"] == layer.statistics().waiting == 0
    async with open_layer(redis_server) as other:
        await other.group_add("room", channel)
    assert layer.statistics().groups == 1
    assert layer.statistics().connection.epoch == 1


@pytest.mark.parametrize("is_bounded", [True, False])
async def test_flood_of_requests_between_processes(
    layer: MultiplexedChannelLayer,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    is_bounded: bool,
) -> None:
    """Tasks stay bounded, whoever is refused is counted, and the site's own requests work again.

    The negative control: as many begin as come.
    """
    if not is_bounded:
        monkeypatch.setattr(delegation, "MAX_UNDER_WAY", 10**6)
    channel, inbox = await layer.new_channel(), layer._hub.inbox.name
    body = layer.codec.encode({"verb": "group_add", "group": "room", "channel": channel})
    payloads = [
        envelope.wrap_request(Form.CONTROL, body, False, None, b"0123456789abcdev!%d" % number)
        for number in range(30_000)
    ]
    most, loop = 0, asyncio.get_running_loop()

    def look() -> None:
        nonlocal most, handle
        most = max(most, len(asyncio.all_tasks()))
        handle = loop.call_soon(look)

    handle = loop.call_soon(look)
    load = layer._process._delegation
    before = len(asyncio.all_tasks())
    with caplog.at_level(logging.INFO, "channels_mpx"):
        await asyncio.to_thread(publish_all, redis_server, inbox, payloads)
        await eventually(lambda: load.load == (0, 0), 30)
    handle.cancel()
    if not is_bounded:
        assert most > before + 10_000
        return
    dropped = layer.statistics().dropped
    assert most <= before + MAX_UNDER_WAY + 2
    await eventually(lambda: layer.statistics().connection.in_flight == 0)
    # Each is done and answered, to nobody, or refused, which is told to nobody too.
    assert dropped["late"] + dropped["full"] == 30_000
    assert [each for each in caplog.messages if "refusing" not in each] == []
    assert len(caplog.messages) <= 1
    async with open_layer(redis_server) as other:
        await other.group_add("hall", channel)
    assert layer.statistics().groups == 2
    assert layer.statistics().connection.epoch == 1


def times_of(pieces: list[bytes], codec: Codec) -> list[float]:
    """Return the seconds that it takes to refuse each piece."""
    times = []
    for payload in pieces:
        start = time.perf_counter()
        try:
            _, is_encrypted, _, at, address = envelope.unwrap(payload)
            Body(codec, payload, at, is_encrypted, 0.0, address).open()
        except DecodingError:
            pass
        times.append(time.perf_counter() - start)
    return times


#: Seconds that a small piece may take, and one of 8 MiB. Other programs on the machine take theirs.
LONG, LONGER = 0.1, 0.5


def test_time_for_a_piece_of_garbage_is_bounded(is_full: bool) -> None:
    """No piece, however it is nested or whatever lengths it claims, takes long to refuse."""
    fuzzer = iter(Fuzzer("time"))
    pieces = [next(fuzzer) for _ in range(20_000)]
    pieces += [envelope.wrap(Form.GROUP, b"\x91" * 2**23), envelope.wrap(Form.GROUP, b"\0" * 2**23)]
    times = times_of(pieces, Codec(find_serializer("msgpack"), ()))
    small, mean = max(times[:-2]), sum(times[:-2]) / (len(times) - 2)
    print(
        f"a piece takes {mean * 1e6:.1f} µs, the longest {small * 1e3:.2f} ms; "
        f"8 MiB take {max(times[-2:]) * 1e3:.1f} ms"
    )
    if is_full:
        assert mean < 0.0001
        assert small < LONG
        assert max(times[-2:]) < LONGER


def test_a_decoder_that_copies_at_each_level_would_be_found() -> None:
    """The control: the time of a common way to decode grows with the square of the depth."""

    class Copying:
        def serialize(self, message: Any) -> bytes:
            raise NotImplementedError

        def deserialize(self, data: bytes) -> Any:
            while data[:1] == b"\x91":
                data = data[1:]
            raise ValueError("it ends there")

    (took,) = times_of([envelope.wrap(Form.GROUP, b"\x91" * 200_000)], Codec(Copying, ()))
    assert took > LONG


class Corrupting(Proxy):
    """Changes one byte in some of what the server says."""

    is_corrupting = False
    dice = random.Random("corrupting")
    changed = 0

    async def _forward(
        self, data: bytes, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        if direction == "down" and self.is_corrupting and self.dice.random() < 0.3:
            at = self.dice.randrange(len(data))
            # Not into a length: that a server promises gigabytes is another test.
            byte = self.dice.choice([c for c in b"+-:>$*_,#\r\nabc\0\xff" if c != data[at]])
            data = data[:at] + bytes([byte]) + data[at + 1 :]
            self.changed += 1
        await super()._forward(data, writer, direction)


async def test_garbage_on_the_wire_costs_links_only(redis_server: RedisServer) -> None:
    """Bytes that change on their way end links at most: the process goes on, and is well again."""
    config = {**QUICK, "ping_interval": 0.1, "ping_timeout": 0.1, "timeout": 0.5, "capacity": 10**6}
    async with Corrupting(redis_server.host, redis_server.port) as proxy:
        async with open_layer([redis_server.url_for(port=proxy.port)], **config) as layer:
            channel = await layer.new_channel()
            await layer.group_add("room", channel)
            proxy.is_corrupting = True
            until, links = time.monotonic() + 2.0, layer.statistics().connection
            while (
                time.monotonic() < until
                or proxy.changed < 50
                or "desync" not in links.reconnections
            ):
                await asyncio.gather(
                    *(layer.group_send("room", {"type": "a", "text": "x" * 50}) for _ in range(5)),
                    return_exceptions=True,
                )
                links = layer.statistics().connection
            proxy.is_corrupting = False
            proxy.cut()  # whatever is half read
            await eventually(lambda: layer.statistics().connection.epoch > links.epoch)
            await eventually(lambda: is_active(layer))
            await layer.group_send("room", {"type": "last"})
            while (await receive(layer, channel)).get("type") != "last":
                pass
            links = layer.statistics().connection
            print(f"{proxy.changed} bytes changed, {links.epoch} links: {links.reconnections}")


@pytest.mark.parametrize("data", [b"$999999999999999999999\r\n", b">0\r\n", b">1\r\n*0\r\n"])
async def test_what_no_server_says_costs_a_link(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    """Lengths out of reason and pushes of no form end the link, in whatever part of the reader."""
    async with Proxy(redis_server.host, redis_server.port) as proxy:
        async with open_layer([redis_server.url_for(port=proxy.port)], **QUICK) as layer:
            channel = await layer.new_channel()
            proxy.say(data)
            await eventually(lambda: layer.statistics().connection.epoch == 2)
            await layer.send(channel, {"type": "a"})
            assert await receive(layer, channel) == {"type": "a"}


async def test_reader_that_stumbles_ends_its_link(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of our own in the middle of a burst is a loss with a traceback, never a deaf link."""
    config = {**QUICK, **UNWATCHED, "capacity": 1000}
    async with open_layer(redis_server, **config) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        unwrap, count = Intake.unwrap, 0

        def stumble(self: Intake, payload: bytes, name: bytes) -> Any:
            nonlocal count
            count += 1
            if count == 100:  # in the second slice, which the loop calls and not the transport
                raise ZeroDivisionError("on purpose")
            return unwrap(self, payload, name)

        monkeypatch.setattr(Intake, "unwrap", stumble)
        publish_all(redis_server, GROUP, [b"garbage"] * 200)
        await eventually(lambda: layer.statistics().connection.epoch == 2 and is_active(layer))
        assert layer.statistics().connection.reconnections == {"internal": 1}
        assert "on purpose" in caplog.text
        await layer.group_send("room", {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}
