"""A link speaks RESP3: in any pieces, in order, and it ends at the first thing that is wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from channels_mpx import resp
from channels_mpx.exceptions import CommandRefused, LinkLost, LinkUnavailable
from channels_mpx.names import Kind, Topic
from channels_mpx.packing import pack
from channels_mpx.resp import RedisLink
from tests.helpers import eventually
from tests.layers import open_layer, receive
from tests.proxy import reset
from tests.servers import RedisServer

CHANNEL, PATTERN = Kind.CHANNEL, Kind.PATTERN


class Diary:
    """Writes down what a link tells."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self.reason = ""
        self.unsent: Sequence[Any] = ()

    def message(self, channel: bytes, payload: bytes) -> None:
        self.lines.append(("message", channel, payload))

    def pattern_message(self, pattern: bytes, channel: bytes, payload: bytes) -> None:
        self.lines.append(("pattern", pattern, channel, payload))

    def acknowledged(self, topic: Topic, subscribed: bool) -> None:
        self.lines.append(("acknowledged", topic, subscribed))

    def refused(self, topic: Topic, error: Exception) -> None:
        self.lines.append(("refused", topic, str(error)))

    def failed(self, command: Any, future: asyncio.Future[Any], error: Exception) -> None:
        future.set_exception(error)

    def lost(self, link: Any, reason: str, unsent: Sequence[Any]) -> None:
        self.reason = reason
        self.unsent = unsent


class Wire(asyncio.Transport):
    """A transport that leads to the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_reading = True
        self.is_aborted = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def abort(self) -> None:
        self.is_aborted = True


class Ends:
    """A link, what it tells, and the server's end of its connection."""

    def __init__(
        self, link: RedisLink, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.link = link
        self.diary: Any = link._receiver
        self.reader = reader
        self.writer = writer


def wired() -> tuple[RedisLink, Wire, Diary]:
    """Return a link over a transport that leads to the test."""
    wire, diary = Wire(), Diary()
    return RedisLink(wire, diary, "test:1"), wire, diary


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Ends]:
    """Yield a link over TCP, and the other end."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[Any] = loop.create_future()
    server = await asyncio.start_server(
        lambda reader, writer: accepted.set_result((reader, writer)), "127.0.0.1", 0
    )
    address = server.sockets[0].getsockname()
    transport, _ = await loop.create_connection(asyncio.Protocol, *address)
    link = RedisLink(transport, Diary(), "test:1")
    transport.set_protocol(link)
    ends = Ends(link, *await accepted)
    try:
        yield ends
    finally:
        transport.abort()
        ends.writer.transport.abort()
        server.close()
        await server.wait_closed()


def ask(link: RedisLink, *command: bytes | int) -> asyncio.Future[Any]:
    """Send a command; return the future of its reply."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    link.send(command, future)
    return future


async def written() -> None:
    """Let the link write what was sent in this turn of the loop."""
    await asyncio.sleep(0)


def bulk(*parts: bytes) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def message(channel: bytes, payload: bytes) -> bytes:
    return b">3\r\n" + bulk(b"message", channel, payload)


def subscribed(name: bytes, verb: bytes = b"subscribe") -> bytes:
    return b">3\r\n" + bulk(verb, name) + b":1\r\n"


STREAM = (
    subscribed(b"one")
    + subscribed(b"t*", b"psubscribe")
    + b"+PONG\r\n"
    + message(b"one", b"\r\n$3\r\n")
    + b":7\r\n"
    + b">4\r\n"
    + bulk(b"pmessage", b"t*", b"two", b"")
    + b"-ERR not so\r\n"
    + b"_\r\n"
)


async def check_stream(link: RedisLink, diary: Diary, pieces: Sequence[bytes]) -> None:
    """Feed STREAM in pieces to a fresh link and see that everything is understood."""
    link.subscribe(CHANNEL, (b"one",))
    link.subscribe(PATTERN, (b"t*",))
    replies = [ask(link, b"PING") for _ in range(4)]
    await written()
    for piece in pieces:
        link.data_received(piece)
    results = await asyncio.gather(*replies, return_exceptions=True)
    assert results[:2] == [b"PONG", 7]
    assert isinstance(results[2], CommandRefused)
    assert results[2].text == "ERR not so"
    assert results[3] is None
    assert diary.lines == [
        ("acknowledged", Topic(CHANNEL, b"one"), True),
        ("acknowledged", Topic(PATTERN, b"t*"), True),
        ("message", b"one", b"\r\n$3\r\n"),
        ("pattern", b"t*", b"two", b""),
    ]
    assert link.in_flight == 0
    assert link.bytes_read == len(STREAM)


@pytest.mark.parametrize("at", range(len(STREAM)))
async def test_replies_are_understood_wherever_they_are_split(at: int) -> None:
    """Two pieces, cut at any byte, mean what the whole means."""
    link, _, diary = wired()
    await check_stream(link, diary, [STREAM[:at], STREAM[at:]])


async def test_replies_are_understood_byte_by_byte() -> None:
    """A byte at a time is enough."""
    link, _, diary = wired()
    await check_stream(link, diary, [STREAM[i : i + 1] for i in range(len(STREAM))])


async def test_commands_of_one_turn_leave_in_one_write() -> None:
    """What is sent in one turn of the loop is written at its end, in order."""
    async with connected() as ends:
        replies = [ask(ends.link, b"ECHO", number) for number in range(3)]
        assert ends.link.bytes_written == 0
        expected = b"".join(b"*2\r\n" + bulk(b"ECHO", b"%d" % number) for number in range(3))
        assert await ends.reader.readexactly(len(expected)) == expected
        ends.writer.write(b":0\r\n:1\r\n:2\r\n")
        assert await asyncio.gather(*replies) == [0, 1, 2]
        assert "in_flight=0" in repr(ends.link)


async def test_eof_in_the_middle_of_a_reply_loses_the_link() -> None:
    """Half a reply is no reply: whoever waits is told that the outcome is not known."""
    async with connected() as ends:
        reply = ask(ends.link, b"GET", b"key")
        await ends.reader.readuntil(b"key\r\n")
        ends.writer.write(b"$10\r\nhalf")
        ends.writer.close()
        with pytest.raises(LinkLost, match="Redis closed the connection"):
            await reply
        assert ends.diary.reason == "Redis closed the connection"
        assert "lost" in repr(ends.link)


async def test_reset_loses_the_link_with_the_systems_reason() -> None:
    """A reset is named as such."""
    async with connected() as ends:
        reply = ask(ends.link, b"PING")
        await ends.reader.readuntil(b"PING\r\n")
        reset(ends.writer)
        with pytest.raises(LinkLost, match="ConnectionResetError"):
            await reply


async def test_send_on_a_lost_link_fails_at_once() -> None:
    """A link that has ended takes nothing more, and ends once only."""
    link, wire, diary = wired()
    link.lose("the test says so")
    link.lose("again")
    assert diary.reason == "the test says so"
    assert wire.is_aborted
    with pytest.raises(LinkLost, match="the test says so"):
        await ask(link, b"PING")
    assert wire.written == b""


async def test_lost_link_gives_back_what_was_not_written() -> None:
    """Commands that never left are handed back; those that did fail; a SUBSCRIBE is forgotten."""
    link, wire, diary = wired()
    sent = ask(link, b"PING")
    gone = ask(link, b"PING")
    await written()
    assert wire.written
    gone.cancel()
    unsent = ask(link, b"ECHO", 1)
    link.subscribe(CHANNEL, (b"one",))
    link.lose("the test says so")
    with pytest.raises(LinkLost):
        await sent
    assert list(diary.unsent) == [((b"ECHO", 1), unsent)]
    assert not unsent.done()
    assert link.in_flight == 0


async def test_reply_for_somebody_who_has_gone_is_dropped() -> None:
    """Replies keep their places although nobody waits for some of them."""
    link, _, _ = wired()
    futures = [ask(link, b"PING") for _ in range(4)]
    await written()
    for future in futures[:3]:
        future.cancel()
    link.data_received(b"+PONG\r\n:1\r\n-ERR no\r\n:4\r\n")
    assert await futures[3] == 4


async def test_lost_in_a_message_stops_the_reading() -> None:
    """What follows in the same bytes is not told any more once the link is lost."""
    link, _, diary = wired()
    told = diary.message

    def tell(channel: bytes, payload: bytes) -> None:
        told(channel, payload)
        link.lose("enough")

    diary.message = tell  # type: ignore[method-assign]
    link.data_received(message(b"one", b"1") + message(b"one", b"2"))
    assert diary.lines == [("message", b"one", b"1")]


async def test_unknown_pushes_are_ignored() -> None:
    """Invalidations and the like take nobody's place in the order of replies."""
    link, _, diary = wired()
    reply = ask(link, b"PING")
    await written()
    link.data_received(b">2\r\n" + bulk(b"invalidate") + b"*1\r\n" + bulk(b"key") + b"+PONG\r\n")
    assert await reply == b"PONG"
    assert diary.lines == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"+OK\r\n", "a reply that nobody waits for"),
        (b":1\r\n", "a reply that nobody waits for"),
        (b"garbage\r\n", "Protocol error"),
        (subscribed(b"one"), "b'subscribe' out of order"),
        (subscribed(b"one", b"punsubscribe"), "b'punsubscribe' out of order"),
    ],
)
async def test_answer_that_nobody_asked_for_loses_the_link(data: bytes, reason: str) -> None:
    """Once the order is in doubt nothing on the link can be trusted."""
    link, wire, diary = wired()
    link.data_received(data)
    assert reason in diary.reason
    assert wire.is_aborted


@pytest.mark.parametrize("data", [b"+OK\r\n+OK\r\n", subscribed(b"one") * 2])
async def test_answer_to_what_was_not_written_yet_loses_the_link(data: bytes) -> None:
    """A command that has not left cannot have been answered: it is handed back."""
    link, _, diary = wired()
    link.subscribe(CHANNEL, (b"one",))
    reply = ask(link, b"PING")
    link.data_received(data)
    assert diary.reason
    assert list(diary.unsent) == [((b"PING",), reply)]
    assert diary.lines == []


async def test_bytes_after_garbage_are_not_read() -> None:
    """A link that has met garbage stays lost, whatever comes."""
    link, _, diary = wired()
    link.data_received(b"garbage\r\n")
    reason = diary.reason
    link.data_received(b"garbage\r\n" + message(b"one", b"1"))
    assert diary.lines == []
    assert diary.reason == reason


async def test_subscribed_while_unsubscribing_loses_the_link() -> None:
    """The wrong confirmation is as bad as none."""
    link, _, diary = wired()
    link.unsubscribe(CHANNEL, (b"one",))
    await written()
    link.data_received(subscribed(b"one"))
    assert "out of order" in diary.reason


@pytest.mark.parametrize("data", [b"+OK\r\n", b":1\r\n"])
async def test_plain_reply_to_subscribe_loses_the_link(data: bytes) -> None:
    """SUBSCRIBE is answered by pushes or by an error."""
    link, _, diary = wired()
    link.subscribe(CHANNEL, (b"one",))
    await written()
    link.data_received(data)
    assert "for (UN)SUBSCRIBE" in diary.reason


async def test_error_for_unsubscribe_loses_the_link() -> None:
    """Nothing can be refused about leaving."""
    link, _, diary = wired()
    link.unsubscribe(PATTERN, (b"o*",))
    await written()
    link.data_received(b"-ERR no\r\n")
    assert "for (UN)SUBSCRIBE" in diary.reason


async def test_one_refused_name_does_not_hit_the_others_of_its_batch() -> None:
    """A refused SUBSCRIBE is asked again name by name, behind what was sent meanwhile."""
    link, wire, diary = wired()
    link.subscribe(CHANNEL, (b"one", b"two", b"three"))
    reply = ask(link, b"PING")
    await written()
    link.data_received(b"-NOPERM no\r\n")
    link.data_received(b"+PONG\r\n")
    assert await reply == b"PONG"
    commands = [b"*2\r\n" + bulk(b"SUBSCRIBE", name) for name in (b"one", b"two", b"three")]
    await written()
    assert wire.written.endswith(b"".join(commands))
    link.data_received(subscribed(b"one") + b"-NOPERM no\r\n" + subscribed(b"three"))
    refusal = "Redis at test:1 refused SUBSCRIBE b'two': NOPERM no"
    assert diary.lines == [
        ("acknowledged", Topic(CHANNEL, b"one"), True),
        ("refused", Topic(CHANNEL, b"two"), refusal),
        ("acknowledged", Topic(CHANNEL, b"three"), True),
    ]


async def test_batch_that_comes_too_soon_is_not_taken_apart() -> None:
    """An error that passes is about no name: each is refused for now, and none is asked for again."""
    link, wire, diary = wired()
    link.subscribe(CHANNEL, (b"one", b"two"))
    await written()
    sent = wire.written
    link.data_received(b"-BUSY Redis is busy running a script\r\n")
    await written()
    assert wire.written == sent
    assert [(line[0], line[1].name) for line in diary.lines] == [
        ("refused", b"one"),
        ("refused", b"two"),
    ]
    assert link.in_flight == 0


async def test_long_bursts_are_read_in_slices() -> None:
    """Reading pauses while a burst is handed out, and what comes meanwhile keeps its place."""
    link, wire, diary = wired()
    burst = [b"%d" % number for number in range(2 * resp.SLICE + 1)]
    link.data_received(b"".join(message(b"one", payload) for payload in burst))
    assert len(diary.lines) == resp.SLICE
    assert not wire.is_reading
    link.data_received(message(b"one", b"late"))
    assert len(diary.lines) == resp.SLICE
    await eventually(lambda: wire.is_reading)
    assert [line[-1] for line in diary.lines] == [*burst, b"late"]


async def test_writing_waits_while_the_transport_is_full() -> None:
    """A pause holds back what was about to be written; with room again it leaves in order."""
    link, wire, _ = wired()
    ask(link, b"ECHO", 1)
    link.pause_writing()
    ask(link, b"ECHO", 2)
    await written()
    assert wire.written == b""
    link.resume_writing()
    assert wire.written == b"*2\r\n" + bulk(b"ECHO", b"1") + b"*2\r\n" + bulk(b"ECHO", b"2")
    link.pause_writing()
    link.resume_writing()
    assert link.in_flight == 2


async def test_what_was_held_back_is_handed_back_when_the_link_is_lost() -> None:
    """Commands behind a pause have not been sent, so they may go out on the next link."""
    link, wire, diary = wired()
    link.pause_writing()
    reply = ask(link, b"ECHO", 1)
    link.lose("the test says so")
    link.resume_writing()
    assert list(diary.unsent) == [((b"ECHO", 1), reply)]
    assert wire.written == b""


async def test_server_that_does_not_read_costs_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Too much backlog refuses commands; once the server reads, all that was taken is answered."""
    monkeypatch.setattr(resp, "MAX_BACKLOG", 2**22)
    payload = bytes(2**20)
    async with connected() as ends:
        replies: list[asyncio.Future[Any]] = []
        while not (reply := ask(ends.link, b"PUBLISH", b"one", payload)).done():
            replies.append(reply)
            await asyncio.sleep(0)
        with pytest.raises(LinkUnavailable, match="too much waits to be written"):
            await reply
        assert len(replies) < 100
        assert ends.link.in_flight == len(replies)
        size = len(pack((b"PUBLISH", b"one", payload)))
        for _ in replies:
            await ends.reader.readexactly(size)
        ends.writer.write(b":1\r\n" * len(replies))
        assert await asyncio.gather(*replies) == [1] * len(replies)
        last = ask(ends.link, b"ECHO", 5)
        await ends.reader.readuntil(b"$1\r\n5\r\n")
        ends.writer.write(b":0\r\n")
        assert await last == 0


async def test_refused_commands_do_not_count_as_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused for its size takes no room from what would still fit."""
    monkeypatch.setattr(resp, "MAX_BACKLOG", 1000)
    link, _, _ = wired()
    link.pause_writing()
    with pytest.raises(LinkUnavailable):
        await ask(link, b"ECHO", bytes(2000))
    reply = ask(link, b"ECHO", 1)
    assert not reply.done()
    assert link.in_flight == 1


async def test_script_is_sent_again_when_redis_has_forgotten_it(redis_server: RedisServer) -> None:
    """SCRIPT FLUSH costs one round trip and nobody a message."""
    async with open_layer(redis_server) as layer:
        assert await layer.new_channel()
        for number in range(2):
            await layer.send("work", {"type": "job", "number": number})
        redis_server.command("SCRIPT", "FLUSH")
        for number in range(2, 4):
            await layer.send("work", {"type": "job", "number": number})
        got = [(await receive(layer, "work"))["number"] for _ in range(4)]
        assert got == [0, 1, 2, 3]
        assert layer.statistics().connection.epoch == 1
