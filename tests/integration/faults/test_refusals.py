"""Redis says no: to a name, to a command, to everybody, for a while. Whoever asked is told, typed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

from channels_mpx import (
    CommandRefused,
    LinkRefused,
    LinkUnavailable,
    MultiplexedChannelLayer,
    resp,
    traffic,
)
from channels_mpx.names import Kind, Topic
from channels_mpx.traffic import Traffic
from tests.helpers import eventually
from tests.layers import (
    QUICK,
    connections_received,
    group_subscriptions,
    is_active,
    open_layer,
    receive,
)
from tests.proxy import Proxy
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]

#: A user who may use groups whose names begin with "ok" and nothing else.
PICKY = "site on >pw resetchannels &mpx:inbox:* &mpx:group:ok* &mpx:bell:* ~mpx:* +@all"

TRIP = 0.1  # seconds


def refused(layer: MultiplexedChannelLayer) -> dict[str, int]:
    """Return what Redis has refused, by code."""
    return layer.statistics().connection.refused


async def refusal(verb: Any, code: str) -> float:
    """Return how long a verb took to be refused with a code."""
    start = time.monotonic()
    with pytest.raises(CommandRefused) as caught:
        await verb
    assert caught.value.code == code
    return time.monotonic() - start


# Permissions


async def test_refusals_take_one_round_trip(make_redis: MakeRedis) -> None:
    """NOPERM on subscribe and on publish reaches its caller as soon as a reply can."""
    server = make_redis(users=[PICKY])
    async with Proxy(server.host, server.port) as proxy:
        async with open_layer([server.url_for("site", "pw", port=proxy.port)]) as layer:
            channel = await layer.new_channel()
            proxy.delay(TRIP / 2)
            assert TRIP <= await refusal(layer.group_add("bad", channel), "NOPERM") < 1.9 * TRIP
            assert TRIP <= await refusal(layer.group_send("bad", {}), "NOPERM") < 1.9 * TRIP
            assert refused(layer) == {"NOPERM": 2}
            assert layer.statistics().connection.epoch == 1


@pytest.mark.parametrize("is_protected", [True, False])
async def test_refused_names_leave_their_batch_alone(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch, is_protected: bool
) -> None:
    """Three of 300 names are refused, the others are subscribed.

    The control: Redis refuses the whole command, so without asking again for each name by itself
    all 300 would be refused.
    """
    if not is_protected:

        def refuse_all(link: resp.RedisLink, batch: Any, reply: Any) -> None:
            for name in batch.names:
                link._receiver.refused(Topic(batch.kind, name), link._refusal("all", reply))

        monkeypatch.setattr(resp.RedisLink, "_batch_refused", refuse_all)
    server = make_redis(users=[PICKY])
    async with open_layer([server.url_for("site", "pw")]) as layer:
        channel = await layer.new_channel()
        names = [f"ok{number}" for number in range(297)]
        for at in (0, 150, 290):
            names.insert(at, f"bad{at}")
        adds = (layer.group_add(name, channel) for name in names)
        done = await asyncio.gather(*adds, return_exceptions=True)
        failed = {name for name, error in zip(names, done, strict=True) if error is not None}
        assert group_subscriptions(server) == set(names) - failed
        assert layer.statistics().groups == 300 - len(failed)
        if is_protected:
            assert failed == {"bad0", "bad150", "bad290"}
        else:
            assert len(failed) == 300


class Mixture:
    """Commands of all kinds at random, and what each must be answered with."""

    def __init__(self, life: Traffic, channel: bytes) -> None:
        self.wrong = 0
        self.done = 0
        self._life = life
        self._channel = channel
        self._dice = random.Random("mixture")
        self._pending: deque[tuple[asyncio.Future[Any], Any]] = deque()

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""

    interrupted = deliver = activated  # type: ignore[assignment]

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`."""

    def throw(self, number: int) -> None:
        """Send one command, and note what must come back."""
        kind = self._dice.randrange(6)
        if kind == 0:
            self._expect((b"ECHO", b"%d" % number), b"%d" % number)
        elif kind == 1:
            self._expect((b"PUBLISH", self._channel, b"x"), 1)
        elif kind == 2:
            self._expect((b"PUBLISH", b"mpx:group:bad", b"x"), "NOPERM")
        elif kind == 3:
            self._expect((b"NOSUCHCOMMAND", b"%d" % number), "ERR")
        elif kind == 4:
            self._expect((b"MGET", b"mpx:none", b"mpx:none"), [None, None])
        else:
            name = self._dice.choice([b"mpx:group:ok%d", b"mpx:group:bad%d"]) % (number % 50)
            topic = Topic(Kind.CHANNEL, name)
            self._life._router.unsubscribe(topic, self)  # type: ignore[arg-type]
            if self._dice.random() < 0.7:
                self._life.want(topic, self)  # type: ignore[arg-type]

    def _expect(self, command: tuple[bytes, ...], answer: Any) -> None:
        self._pending.append((self._life.command(*command), answer))

    async def check(self) -> None:
        """See that everything so far was answered with what it must be answered with."""
        while self._pending:
            future, answer = self._pending.popleft()
            try:
                got: Any = await future
            except CommandRefused as error:
                got = error.code
            self.wrong += got != answer
            self.done += 1


async def throw_all(layer: MultiplexedChannelLayer, count: int) -> Mixture:
    """Send so many commands of all kinds, a thousand at a time."""
    life = layer._hub.life
    assert life is not None
    mixture = Mixture(life.traffic, layer._hub.inbox.name)
    for start in range(0, count, 1000):
        for number in range(start, start + 1000):
            mixture.throw(number)
        await mixture.check()
    return mixture


@pytest.mark.timeout(120)
async def test_a_hundred_thousand_replies_stay_matched(make_redis: MakeRedis) -> None:
    """Echoes, publishes, refusals, errors and subscriptions, allowed or not: each its own answer."""
    server = make_redis(users=[PICKY])
    async with open_layer([server.url_for("site", "pw")]) as layer:
        await layer.new_channel()
        mixture = await throw_all(layer, 100_000)
        assert mixture.wrong == 0
        assert mixture.done > 80_000
        assert layer.statistics().connection.epoch == 1


async def test_replies_that_are_not_matched_would_be_found(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a link that forgets that a refused SUBSCRIBE has a reply gets all wrong."""
    push = resp.RedisLink._reply

    def forget(link: resp.RedisLink, command: Any, slot: Any, reply: Any) -> None:
        if isinstance(slot, resp._Batch):
            link._slots.popleft() if link._slots else None
        push(link, command, slot, reply)

    monkeypatch.setattr(resp.RedisLink, "_reply", forget)
    server = make_redis(users=[PICKY])
    async with open_layer([server.url_for("site", "pw")], timeout=1) as layer:
        await layer.new_channel()
        with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
            mixture = await asyncio.wait_for(throw_all(layer, 3000), 2)
            assert mixture.wrong > 0 or layer.statistics().connection.epoch > 1


@pytest.mark.parametrize("is_protected", [True, False])
async def test_acl_revoked_at_run_time_costs_one_name(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch, is_protected: bool
) -> None:
    """Redis cuts us; one reconnection, the name rests, the others are active; restored, it is back.

    The control: a name that did not rest would be asked for without end.
    """
    monkeypatch.setattr(traffic, "REFUSED_PAUSE", 0.3 if is_protected else 0.0)
    server = make_redis(users=["site on >pw ~mpx:* &mpx:* +@all"])
    async with open_layer([server.url_for("site", "pw")], **QUICK) as layer:
        channel = await layer.new_channel()
        for group in ("red", "blue"):
            await layer.group_add(group, channel)
        allowed = "&mpx:inbox:* &mpx:group:blue"
        server.command("ACL", "SETUSER", "site", "resetchannels", *allowed.split())
        await eventually(lambda: refused(layer).get("NOPERM"))
        await eventually(lambda: layer.statistics().connection.active == 2)
        await asyncio.sleep(0.7)  # the time itself is what is tested
        assert layer.statistics().connection.reconnections == {"closed": 1}
        if not is_protected:
            assert refused(layer)["NOPERM"] > 20
            return
        assert refused(layer)["NOPERM"] <= 5
        await layer.group_send("blue", {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}
        server.command("ACL", "SETUSER", "site", "allchannels")
        await eventually(lambda: is_active(layer))
        await layer.group_send("red", {"type": "b"})
        assert await receive(layer, channel) == {"type": "b"}


# Servers that will not, or not now


@contextlib.asynccontextmanager
async def busy(server: RedisServer) -> AsyncIterator[None]:
    """Have the server run a script that does not end, and answer all others with BUSY."""
    script = "while true do end"
    running = asyncio.ensure_future(asyncio.to_thread(run_script_on, server, script))
    await eventually(lambda: is_busy(server))
    try:
        yield
    finally:
        server.command("SCRIPT", "KILL")
        await running


def run_script_on(server: RedisServer, script: str) -> None:
    """Run a script until it is killed, over a connection of its own."""
    client = redis.Redis(
        unix_socket_path=server.unix_url.removeprefix("unix://").partition("?")[0],
        username="harness",
        password="harness",
        retry=None,
    )
    with contextlib.closing(client), contextlib.suppress(redis.ResponseError):
        client.eval(script, 0)


def is_busy(server: RedisServer) -> bool:
    """Whether the server answers with BUSY."""
    try:
        server.command("PING")
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


BUSY = ["busy-reply-threshold 20"]


async def test_busy_is_waited_for(make_redis: MakeRedis) -> None:
    """BUSY is not for callers: publishing, subscribing and pushing are tried again until it ends."""
    server = make_redis(config=BUSY)
    async with open_layer(server, **QUICK) as layer:
        channel = await layer.new_channel()
        await layer.send("work", {"type": "before"})
        async with busy(server):
            verbs = [
                asyncio.ensure_future(verb)
                for verb in (
                    layer.group_add("room", channel),
                    layer.send(channel, {"type": "direct"}),
                    layer.send("work", {"type": "work"}),
                )
            ]
            await eventually(lambda: refused(layer).get("BUSY", 0) >= 6)
            assert not any(verb.done() for verb in verbs)
        await asyncio.gather(*verbs)
        await layer.group_send("room", {"type": "group"})
        heard = [(await receive(layer, channel))["type"] for _ in range(2)]
        assert heard == ["direct", "group"]
        assert [(await receive(layer, "work"))["type"] for _ in range(2)] == ["before", "work"]
        assert layer.statistics().connection.epoch == 1


async def test_busy_for_too_long_is_an_error_of_its_own(make_redis: MakeRedis) -> None:
    """The control: at their deadline callers get what they would have got at once."""
    server = make_redis(config=BUSY)
    async with open_layer(server, timeout=0.4) as layer:
        channel = await layer.new_channel()
        async with busy(server):
            verbs = (layer.send(channel, {"type": "a"}), layer.send("work", {"type": "a"}))
            for error in await asyncio.gather(*verbs, return_exceptions=True):
                assert isinstance(error, CommandRefused)
                assert error.code == "BUSY"
        await layer.send(channel, {"type": "b"})
        assert await receive(layer, channel) == {"type": "b"}


async def test_busy_would_hit_callers_at_once(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other control: without a notion of errors that pass, verbs fail the moment they are called."""
    for module in (traffic, resp):
        monkeypatch.setattr(module, "PASSING", frozenset())
    server = make_redis(config=BUSY)
    async with open_layer(server) as layer:
        channel = await layer.new_channel()
        async with busy(server):
            for verb in (layer.send(channel, {}), layer.group_add("room", channel)):
                assert await refusal(verb, "BUSY") < 2.0


async def test_server_that_is_busy_is_dialled_until_it_is_not(make_redis: MakeRedis) -> None:
    """A connection lost meanwhile comes back by itself, with all of its groups."""
    server = make_redis(config=BUSY)
    async with open_layer(server, **QUICK) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        async with busy(server):
            link = layer._hub.life.traffic.link  # type: ignore[union-attr]
            assert link is not None
            link.lose("the test says so")
            await eventually(lambda: "BUSY" in (layer.statistics().connection.last_error or ""))
        await eventually(lambda: is_active(layer), 2)
        assert group_subscriptions(server) == {"room"}


async def test_out_of_memory_is_for_the_sender(make_redis: MakeRedis) -> None:
    """OOM refuses what is stored, typed and at once; what is only passed on is not stored."""
    server = make_redis()
    async with open_layer(server) as layer:
        channel = await layer.new_channel()
        server.command("CONFIG", "SET", "maxmemory", "1mb")
        assert await refusal(layer.send("work", {"type": "a"}), "OOM") < 2.0
        assert refused(layer) == {"OOM": 1}
        await layer.send(channel, {"type": "b"})
        assert await receive(layer, channel) == {"type": "b"}
        server.command("CONFIG", "SET", "maxmemory", "0")
        await layer.send("work", {"type": "c"})
        assert await receive(layer, "work") == {"type": "c"}
        assert layer.statistics().connection.epoch == 1


@pytest.mark.parametrize("is_stale", [False, True], ids=["READONLY", "MASTERDOWN"])
async def test_replica_is_left_for_a_master(make_redis: MakeRedis, is_stale: bool) -> None:
    """An answer that only replicas give ends the link; what was refused is tried on the next one."""
    # Without ROLE nothing else tells a replica from a master.
    server = make_redis(users=["site on >pw ~* &* +@all -role"])
    other = make_redis()
    async with open_layer([server.url_for("site", "pw")], **QUICK) as layer:
        await layer.new_channel()
        if is_stale:
            server.command("CONFIG", "SET", "replica-serve-stale-data", "no")
            server.command("REPLICAOF", other.host, 1)
        else:
            server.command("REPLICAOF", other.host, other.port)
        sending = asyncio.ensure_future(layer.send("work", {"type": "a"}))
        await eventually(lambda: refused(layer).get("MASTERDOWN" if is_stale else "READONLY"))
        await eventually(lambda: "no master" in layer.statistics().connection.reconnections)
        assert not sending.done()
        server.command("REPLICAOF", "NO", "ONE")
        await sending
        assert await receive(layer, "work") == {"type": "a"}


async def test_replica_would_be_kept(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: who takes READONLY for a word about one command stays with the replica."""
    monkeypatch.setattr(traffic, "NOT_MASTER", frozenset())
    server, other = make_redis(users=["site on >pw ~* &* +@all -role"]), make_redis()
    async with open_layer([server.url_for("site", "pw")], timeout=0.3) as layer:
        await layer.new_channel()
        server.command("REPLICAOF", other.host, other.port)
        await refusal(layer.send("work", {"type": "a"}), "READONLY")
        assert layer.statistics().connection.epoch == 1


async def test_loading_server_is_waited_for(make_redis: MakeRedis) -> None:
    """While a server reads its file, what it can do is done, and the rest waits for the end."""
    server = make_redis(config=["key-load-delay 500", "loading-process-events-interval-bytes 1024"])
    server.command("EVAL", "for i = 1, 2000 do redis.call('SET', 'k' .. i, i) end", 0)
    async with open_layer(server, timeout=20) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        server.command("SAVE")
        server.kill()
        await eventually(lambda: layer.statistics().connection.state == "connecting")
        with pytest.raises(redis.BusyLoadingError):
            server.start()
        await layer.send("work", {"type": "a"})
        assert refused(layer)["LOADING"] > 0
        assert await receive(layer, "work") == {"type": "a"}
        await layer.group_send("room", {"type": "b"})
        assert await receive(layer, channel) == {"type": "b"}
        assert server.command("DBSIZE") == 2000


async def test_maxclients_is_waited_for(make_redis: MakeRedis) -> None:
    """A server that is full is tried again, rarely enough; the reason is there to be read."""
    server = make_redis()
    async with open_layer(server, timeout=1) as layer:
        server.command("CONFIG", "SET", "maxclients", 1)  # which the harness holds
        with pytest.raises(LinkUnavailable, match="max number of clients"):
            await layer.new_channel()
        assert connections_received(server) < 30
        server.command("CONFIG", "SET", "maxclients", 100)
        await layer.new_channel()


async def test_wrong_password_at_the_start_is_no_wait(make_redis: MakeRedis) -> None:
    """The control of all this waiting: what will not pass is told at once."""
    server = make_redis(password="right")
    start = time.monotonic()
    async with open_layer([server.url_for("", "wrong")]) as layer:
        with pytest.raises(LinkRefused):
            await layer.new_channel()
    assert time.monotonic() - start < 2.0
