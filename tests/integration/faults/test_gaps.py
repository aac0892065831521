"""Everything that was lost lies inside of the gap, however long the loss took to be noticed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from channels_mpx import Gap, LinkError, LinkLost, Multiplexer, pulse
from channels_mpx.pulse import Pulse
from tests.helpers import eventually
from tests.layers import QUICK, calls, clients
from tests.proxy import Direction, Proxy, without_messages
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]

#: The liveness of a test: everything is noticed within a second or two.
WATCHED: dict[str, Any] = {
    **QUICK,
    **{"ping_interval": 0.3, "ping_timeout": 0.5, "probe_interval": 0.6},
}


class Ear:
    """A subscription that notes what it hears, and of which gaps it is told."""

    def __init__(self, mux: Multiplexer, channel: str = "news") -> None:
        self.mux = mux
        self.heard: set[int] = set()
        self.gaps: list[Gap] = []
        self._subscription = mux.new_channel_subscription(
            self._on_message, on_gap=self.gaps.append, capacity=10**6
        )
        self._subscription.add(channel)

    async def activated(self) -> None:
        """Wait until it hears."""
        await self._subscription.activated(10)

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        self.heard.add(int(payload.split()[0]))


class Voice:
    """Publishes numbers, and notes when each was sent, on the wall clock."""

    def __init__(self, publish: Callable[[str, bytes], Coroutine[Any, Any, Any]]) -> None:
        self.sent: list[float] = []
        self._publish = publish

    async def speak(self, padding: bytes = b"") -> None:
        """Publish one number; only what Redis has taken counts."""
        number = len(self.sent)
        self.sent.append(time.time())
        await self._publish("news", b"%d %b" % (number, padding))

    def lost(self, ear: Ear) -> list[float]:
        """Return when each message was sent that did not come."""
        return [at for number, at in enumerate(self.sent) if number not in ear.heard]


@contextlib.asynccontextmanager
async def speaking(mux: Multiplexer, pause: float = 0.02) -> AsyncIterator[Voice]:
    """Have somebody speak all the time; what comes last is heard by all who listen."""
    voice = Voice(mux.publish)

    async def speak() -> None:
        while True:
            await voice.speak()
            await asyncio.sleep(pause)

    task = asyncio.ensure_future(speak())
    try:
        yield voice
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def judge(voice: Voice, ear: Ear, proved_at: float) -> list[float]:
    """Hear the last message, and judge the one gap; return when each lost message was sent.

    Args:
        voice: What was sent.
        ear: What was heard.
        proved_at: When the listener was whole for certain: the gap begins not long before.
    """
    await eventually(lambda: ear.gaps, 20)
    last = len(voice.sent)
    await eventually(lambda: any(number >= last for number in ear.heard), 20)
    await asyncio.sleep(0)
    (gap,) = ear.gaps
    begin = gap.since.timestamp()
    lost = [at for at in voice.lost(ear) if at < voice.sent[last]]
    assert lost, "the fault has cost nothing: the test shows nothing"
    assert [at - begin for at in lost if at < begin] == []
    assert max(lost) <= begin + gap.seconds
    assert begin >= proved_at, "the gap is longer than it must be"
    return lost


async def whole(ear: Ear) -> float:
    """Wait until a round trip has been proved on a link; return when that was, before it."""
    link_began = time.time()
    first = ear.mux._hub.life.traffic.link  # type: ignore[union-attr]
    pulse = ear.mux._hub.life._pulse  # type: ignore[union-attr]
    proof = pulse._proven
    assert first is not None
    await eventually(lambda: pulse._proven > proof and pulse._proven_before > proof)
    return link_began


@pytest.fixture
def by_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a gap begins when the loss is noticed."""
    monkeypatch.setattr(Pulse, "proven_since", lambda self, loss: time.monotonic())


async def black_hole(server: RedisServer, direction: Direction | None) -> list[float]:
    """Lose messages in a hole."""
    async with Proxy(server.host, server.port) as proxy:
        url = server.url_for(port=proxy.port)
        async with Multiplexer(server.url) as sender, Multiplexer(url, **WATCHED) as mux:
            ear = Ear(mux)
            await ear.activated()
            async with speaking(sender) as voice:
                proved_at = await whole(ear)
                proxy.swallow(direction)
                await eventually(lambda: mux.statistics().state == "connecting", 20)
                proxy.resume()
                return await judge(voice, ear, proved_at)


@pytest.mark.parametrize("direction", ["down", None])
async def test_gap_of_a_black_hole_holds_all_that_was_lost(
    redis_server: RedisServer, direction: Direction | None
) -> None:
    """Bytes vanish on their way to us, or both ways; noticed some time later."""
    await black_hole(redis_server, direction)


async def test_gap_would_begin_too_late_when_the_loss_is_noticed(
    redis_server: RedisServer, by_detection: None
) -> None:
    """The control: what was lost before lies outside."""
    with pytest.raises(AssertionError, match=r"assert \[-"):
        await black_hole(redis_server, None)


async def test_hole_towards_the_server_loses_nothing_until_the_link_is_given_up(
    redis_server: RedisServer,
) -> None:
    """Messages come, and no answers; what is lost after that lies inside of the gap."""
    async with Proxy(redis_server.host, redis_server.port) as proxy:
        url = redis_server.url_for(port=proxy.port)
        async with Multiplexer(redis_server.url) as sender, Multiplexer(url, **WATCHED) as mux:
            ear, voice = Ear(mux), Voice(sender.publish)
            await ear.activated()
            proved_at = await whole(ear)
            proxy.swallow("up")
            await voice.speak()
            await eventually(lambda: ear.heard == {0})
            await eventually(lambda: mux.statistics().state == "connecting", 20)
            await voice.speak()
            proxy.resume()
            await eventually(lambda: ear.gaps, 20)
            (gap,) = ear.gaps
            assert voice.lost(ear) == voice.sent[1:]
            assert proved_at <= gap.since.timestamp() <= voice.sent[1]


async def test_hole_towards_the_server_is_noticed_though_messages_come(
    redis_server: RedisServer,
) -> None:
    """Every byte is a sign of life; that no PING is answered tells. Who sends must not wait for ever."""
    async with Proxy(redis_server.host, redis_server.port) as proxy:
        url = redis_server.url_for(port=proxy.port)
        quick = {**WATCHED, "ping_interval": 0.05, "ping_timeout": 0.1}
        async with Multiplexer(redis_server.url) as sender, Multiplexer(url, **quick) as mux:
            ear = Ear(mux)
            await ear.activated()
            async with speaking(sender):
                proxy.swallow("up")
                publishing = asyncio.ensure_future(mux.publish("elsewhere", "1"))
                await eventually(lambda: mux.statistics().reconnections, 20)
                proxy.resume()
                with pytest.raises(LinkLost, match="no reply to a PING"):
                    await publishing
                await eventually(lambda: ear.gaps, 20)


async def test_gap_of_a_frozen_server_begins_before_it(make_redis: MakeRedis) -> None:
    """Nothing can be published on it; what would be missing is what it does when it goes on."""
    server = make_redis()
    async with Multiplexer(server.url, **WATCHED) as mux:
        ear = Ear(mux)
        await ear.activated()
        proved_at = await whole(ear)
        frozen_at = time.time()
        server.freeze()
        try:
            await eventually(lambda: mux.statistics().state == "connecting", 20)
        finally:
            server.thaw()
        await eventually(lambda: ear.gaps, 20)
        assert proved_at <= ear.gaps[0].since.timestamp() <= frozen_at


@pytest.mark.parametrize("is_late", [False, True])
async def test_gap_of_a_blocked_loop_holds_all_that_was_lost(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """Redis cuts a connection that does not read, and much later the loop sees only that.

    Old bytes are read late, before the end is: they prove nothing. The control takes them for one.
    """
    links: list[Any] = []
    if is_late:
        monkeypatch.setattr(Pulse, "proven_since", lambda self, loss: links[0].last_read)
    server = make_redis()
    server.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 0")

    async def publish(channel: str, payload: bytes) -> None:
        server.command("PUBLISH", channel, payload)  # which blocks this loop

    async with Multiplexer(server.url, **WATCHED) as mux:
        ear, voice = Ear(mux), Voice(publish)
        await ear.activated()
        proved_at = await whole(ear)
        links.append(mux._hub.life.traffic.link)  # type: ignore[union-attr]
        names = len(clients(server))
        while len(clients(server)) == names:
            await voice.speak(bytes(200_000))
        for _ in range(20):
            await voice.speak()
        await eventually(lambda: mux.statistics().state == "connecting", 20)
        await eventually(lambda: ear.gaps, 20)
        async with speaking(mux) as other:
            other.sent, voice.sent = voice.sent, other.sent
            if not is_late:
                await judge(other, ear, proved_at)
                return
            with pytest.raises(AssertionError, match=r"assert \[-"):
                await judge(other, ear, proved_at)


async def test_gap_of_a_demoted_master_holds_all_that_was_lost(make_redis: MakeRedis) -> None:
    """What others publish on the new master goes past those who have not noticed."""
    old, new = make_redis(), make_redis()
    async with Proxy(old.host, old.port) as proxy:
        url = old.url_for(port=proxy.port)
        async with Multiplexer(new.url) as sender, Multiplexer(url, **WATCHED) as mux:
            ear = Ear(mux)
            await ear.activated()
            await whole(ear)
            proved_at = time.time()
            asked = calls(old).get("role", 0)
            await eventually(lambda: calls(old).get("role", 0) > asked)
            asked = calls(old)["role"]
            await eventually(lambda: calls(old)["role"] > asked)
            old.command("REPLICAOF", new.host, new.port)
            proxy.target = (new.host, new.port)
            async with speaking(sender) as voice:
                await eventually(lambda: mux.statistics().reconnections, 20)
                await judge(voice, ear, proved_at)
                assert mux.statistics().reconnections == {"no master": 1}


class Deafening(Proxy):
    """Forwards everything to clients but messages, to those that are connected now."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.deaf: set[asyncio.StreamWriter] = set()

    def deafen(self) -> None:
        """Begin."""
        self.deaf |= self._clients

    async def _forward(
        self, data: bytes, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        if writer in self.deaf:
            data = without_messages(data)
        await super()._forward(data, writer, direction)


async def test_gap_of_a_deaf_connection_holds_all_that_was_lost(redis_server: RedisServer) -> None:
    """Every PING is answered meanwhile: only the last message proves anything."""
    async with Deafening(redis_server.host, redis_server.port) as proxy:
        url = redis_server.url_for(port=proxy.port)
        async with Multiplexer(redis_server.url) as sender, Multiplexer(url, **WATCHED) as mux:
            ear = Ear(mux)
            await ear.activated()
            async with speaking(sender) as voice:
                await eventually(lambda: ear.heard)
                proved_at = await whole(ear)
                await whole(ear)
                await whole(ear)
                proxy.deafen()
                await eventually(lambda: mux.statistics().reconnections, 20)
                await judge(voice, ear, proved_at)
                assert mux.statistics().reconnections == {"deaf": 1}


async def test_blocked_loop_notices_a_frozen_server(make_redis: MakeRedis) -> None:
    """A loop that is blocked again and again, for longer than any timeout, is late at every check."""
    server = make_redis()
    async with Multiplexer(server.url, **WATCHED) as mux:
        ear = Ear(mux)
        await ear.activated()
        await whole(ear)
        server.freeze()
        try:
            for _ in range(12):
                time.sleep(0.8)
                await asyncio.sleep(0.05)  # no condition: that is how the loop lives
                if mux.statistics().state == "connecting":
                    break
            assert mux.statistics().reconnections == {"silent": 1}
        finally:
            server.thaw()


async def test_server_that_stood_still_with_us_gets_a_moment(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were stopped, as by a paused machine: it has not had the time to answer."""
    monkeypatch.setattr(pulse, "MOMENT", 2.0)
    server = make_redis()
    async with Multiplexer(server.url, **{**WATCHED, "ping_timeout": 2.0}) as mux:
        ear = Ear(mux)
        await ear.activated()
        liveness = mux._hub.life._pulse._liveness  # type: ignore[union-attr]
        server.freeze()
        await eventually(lambda: liveness._left_at is not None and liveness._is_pinging)
        time.sleep(2.5)
        server.thaw()
        await whole(ear)
        assert mux.statistics().epoch == 1


async def test_blocked_loop_under_load_does_not_blame_the_server(redis_server: RedisServer) -> None:
    """Each check is late, and the socket is full of what the loop has not read."""
    async with (
        Multiplexer(redis_server.url) as sender,
        Multiplexer(redis_server.url, **WATCHED) as mux,
    ):
        ear = Ear(mux)
        await ear.activated()
        voice = Voice(sender.publish)
        for _ in range(5):
            with contextlib.suppress(LinkError):
                await asyncio.gather(*(voice.speak(bytes(2_000)) for _ in range(200)))
            time.sleep(1.2)
            await asyncio.sleep(0)
        await eventually(lambda: len(ear.heard) == len(voice.sent), 20)
        assert mux.statistics().epoch == 1
        assert ear.gaps == []


async def test_what_was_refused_over_a_loss_lies_in_its_gap(make_redis: MakeRedis) -> None:
    """A name is refused, and allowed again while there is no connection: no gap of its own tells it."""
    server = make_redis(users=["site on >pw ~* &* +@all"])
    async with (
        Multiplexer(server.url) as sender,
        Proxy(server.host, server.port) as proxy,
        Multiplexer(server.url_for("site", "pw", port=proxy.port), **WATCHED) as mux,
    ):
        ear, voice = Ear(mux), Voice(sender.publish)
        await ear.activated()
        server.command("ACL", "SETUSER", "site", "resetchannels", "&mpx:*")
        await eventually(lambda: len(ear.gaps) == 1, 20)
        await voice.speak()
        refused_until = time.time()
        await whole(ear)
        proxy.swallow()
        proxy.cut()
        await eventually(lambda: mux.statistics().state == "connecting", 20)
        server.command("ACL", "SETUSER", "site", "allchannels")
        proxy.resume()
        await eventually(lambda: len(ear.gaps) == 2, 20)
        assert ear.gaps[1].since.timestamp() < voice.sent[0] < refused_until
