"""Garbage, from publishers and on the wire: nobody dies, nothing is delivered, all is counted."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import pytest

from channels_mpx import DecodingError, MultiplexedChannelLayer, envelope
from channels_mpx.codec import Body, Codec
from channels_mpx.envelope import Form
from channels_mpx.intake import Intake
from channels_mpx.packing import pack
from channels_mpx.serializers import find_serializer
from tests.helpers import eventually
from tests.layers import QUICK, UNWATCHED, is_active, open_layer, receive
from tests.proxy import Direction, Proxy
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]

GROUP = b"mpx:group:room"

VALID = msgspec.msgpack.encode({"type": "valid", "text": "x" * 40, "list": [1, 2.5, None, b"\0"]})


class Fuzzer:
    """Makes payloads that are no messages of a group.

    Args:
        seed: For the choices.
    """

    def __init__(self, seed: str) -> None:
        self._dice = random.Random(seed)
        self._kinds = (
            self._noise,
            self._cut_header,
            self._other_version,
            self._other_form,
            self._cut_body,
            self._no_dict,
            self._noise_behind_a_header,
            self._huge_length,
            self._nested,
            self._encrypted,
        )

    def __iter__(self) -> Iterator[bytes]:
        while True:
            payload = self._dice.choice(self._kinds)()
            if not is_message(payload):
                yield payload

    def _bytes(self, most: int) -> bytes:
        return self._dice.randbytes(self._dice.randint(0, most))

    def _header(self, form: int = Form.GROUP, version: int = 1) -> bytes:
        return struct.pack(">BBQ", version, form, self._dice.randrange(2**64))

    def _noise(self) -> bytes:
        return self._bytes(200)

    def _cut_header(self) -> bytes:
        return self._header()[: self._dice.randrange(10)]

    def _other_version(self) -> bytes:
        return self._header(version=self._dice.choice([0, *range(2, 256)])) + VALID

    def _other_form(self) -> bytes:
        return self._header(self._dice.choice([0, *range(2, 256)])) + self._bytes(20) + VALID

    def _cut_body(self) -> bytes:
        return self._header() + VALID[: self._dice.randrange(len(VALID))]

    def _no_dict(self) -> bytes:
        values = [None, 7, "text", b"bytes", [1, 2], {1: 2}, {"a": {2: 3}}, {None: 1}]
        return self._header() + msgspec.msgpack.encode(self._dice.choice(values))

    def _noise_behind_a_header(self) -> bytes:
        return self._header() + self._bytes(200)

    def _huge_length(self) -> bytes:
        head = self._dice.choice([b"\xdb", b"\xc6", b"\xdd", b"\xdf", b"\xc9"])
        return self._header() + head + b"\xff\xff\xff\xff" + self._bytes(40)

    def _nested(self) -> bytes:
        depth = self._dice.choice([10, 1000, 100_000 if self._dice.random() < 0.01 else 100])
        return self._header() + self._dice.choice([b"\x91", b"\x81\xa1a"]) * depth

    def _encrypted(self) -> bytes:
        return self._header(Form.GROUP | 0x80) + self._bytes(100)


def is_message(payload: bytes) -> bool:
    """Tell by other means than the layer's whether a payload is a message of a group."""
    if len(payload) < 10 or payload[:2] != b"\x01\x01":
        return False
    try:
        body = msgspec.msgpack.decode(payload[10:])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, TypeError):
        return False
    return isinstance(body, dict) and all(isinstance(key, str) for key in body)


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


async def test_garbage_in_an_inbox(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """On the channel of the process itself garbage is counted too, and requests go on working."""
    channel = await layer.new_channel()
    local = channel.rpartition("!")[2].encode()
    fuzzer, payloads = iter(Fuzzer("inbox")), []
    while len(payloads) < 10_000:
        payload = next(fuzzer)
        if payload[:1] != b"\x01":  # a header that no form has
            payloads.append(payload)
        elif payload[:2] == b"\x01\x01":  # a group's form, or a body for our own channel
            body = payload[10:]
            payloads += [payload, envelope.wrap(Form.DIRECT, body, target=local)]
    reading = asyncio.ensure_future(receive(layer, channel, 30))
    await asyncio.to_thread(publish_all, redis_server, layer._hub.inbox.name, payloads)
    await layer.send(channel, {"type": "last"})
    assert await reading == {"type": "last"}
    assert layer.statistics().dropped["malformed"] == len(payloads)
    async with open_layer(redis_server) as other:
        await other.group_add("room", channel)
    assert layer.statistics().groups == 1
    assert layer.statistics().connection.epoch == 1


def test_time_for_a_piece_of_garbage_is_bounded() -> None:
    """No piece, however it is nested or whatever lengths it claims, takes long to refuse."""
    codec = Codec(find_serializer("msgpack"), ())
    fuzzer, times = iter(Fuzzer("time")), []
    pieces = [next(fuzzer) for _ in range(20_000)]
    pieces += [envelope.wrap(Form.GROUP, b"\x91" * 2**23), envelope.wrap(Form.GROUP, b"\0" * 2**23)]
    for payload in pieces:
        start = time.perf_counter()
        try:
            _, is_encrypted, _, at, address = envelope.unwrap(payload)
            Body(codec, payload, at, is_encrypted, 0.0, address).open()
        except DecodingError:
            pass
        times.append(time.perf_counter() - start)
    small, mean = max(times[:-2]), sum(times[:-2]) / (len(times) - 2)
    print(
        f"a piece takes {mean * 1e6:.1f} µs, the longest {small * 1e3:.2f} ms; "
        f"8 MiB take {max(times[-2:]) * 1e3:.1f} ms"
    )
    assert mean < 0.0005
    assert small < 0.1
    assert max(times[-2:]) < 0.5


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
            until = time.monotonic() + 2.0
            while time.monotonic() < until or proxy.changed < 50:
                await asyncio.gather(
                    *(layer.group_send("room", {"type": "a", "text": "x" * 50}) for _ in range(5)),
                    return_exceptions=True,
                )
            proxy.is_corrupting = False
            proxy.cut()
            await eventually(lambda: is_active(layer))
            await layer.group_send("room", {"type": "last"})
            while (await receive(layer, channel)).get("type") != "last":
                pass
            links = layer.statistics().connection
            print(f"{proxy.changed} bytes changed, {links.epoch} links: {links.reconnections}")
            assert links.reconnections["desync"] > 0


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
