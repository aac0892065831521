"""Redis says no to a name or to a command: whoever asked is told, typed, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from channels_mpx import (
    CommandRefused,
    MultiplexedChannelLayer,
    resp,
    traffic,
)
from channels_mpx.names import Kind, Topic
from channels_mpx.supervisor import Supervisor
from channels_mpx.traffic import Traffic
from tests.helpers import eventually
from tests.layers import (
    QUICK,
    group_subscriptions,
    is_active,
    open_layer,
    receive,
)
from tests.proxy import Proxy
from tests.sequences import NOTICES, Sender, check
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]

#: A user who may use groups whose names begin with "ok" and nothing else.
PICKY = "site on >pw resetchannels &mpx:inbox:* &mpx:group:ok* &mpx:bell:* ~mpx:* +@all"

TRIP = 0.1  # seconds


def refused(layer: MultiplexedChannelLayer) -> dict[str, int]:
    """Return what Redis has refused, by code."""
    return layer.statistics().connection.refused


async def refusal(verb: Any, code: str) -> float:
    """Return how many seconds a verb took to be refused with a code."""
    start = time.monotonic()
    with pytest.raises(CommandRefused) as caught:
        await asyncio.wait_for(verb, 30)
    assert caught.value.code == code
    return time.monotonic() - start


# Permissions


async def test_refusals_take_one_round_trip(make_redis: MakeRedis, is_full: bool) -> None:
    """NOPERM on subscribe and on publish reaches its caller as soon as a reply can: nothing is repeated."""
    server = make_redis(users=[PICKY])
    async with Proxy(server.host, server.port) as proxy:
        async with open_layer([server.url_for("site", "pw", port=proxy.port)]) as layer:
            channel = await layer.new_channel()
            proxy.delay(TRIP / 2)
            for verb in (layer.group_add("bad", channel), layer.group_send("bad", {})):
                took = await refusal(verb, "NOPERM")
                assert took >= TRIP
                assert took < 1.9 * TRIP or not is_full
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
    """Commands of all kinds at random, and what each must be answered with.

    Every subscription is to a name of its own, so that what comes for it can be no other's.
    """

    def __init__(self, layer: MultiplexedChannelLayer) -> None:
        life = layer._hub.life
        assert life is not None
        self.wrong: list[Any] = []
        self.done = 0
        self._life: Traffic = life.traffic
        self._channel = layer._hub.inbox.name
        self._dice = random.Random("mixture")
        self._pending: deque[tuple[asyncio.Future[Any], Any]] = deque()
        self._subscribed: dict[Topic, list[str]] = {}

    # A subscriber

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""
        self._subscribed.setdefault(topic, []).append("activated")

    def refused(self, topic: Topic, error: CommandRefused) -> None:
        """See `Subscriber.refused`."""
        self._subscribed.setdefault(topic, []).append(error.code)

    def deliver(self, *_: object) -> None:
        """See `Subscriber.deliver`."""

    interrupted = deliver

    # What is sent

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
            kinds = (b"mpx:group:ok%d", b"mpx:group:bad%d")
            topic = Topic(Kind.CHANNEL, self._dice.choice(kinds) % number)
            self._subscribed[topic] = []
            self._life.want(topic, self)

    def _expect(self, command: tuple[bytes, ...], answer: Any) -> None:
        self._pending.append((self._life.command(*command), answer))

    def abandon(self) -> None:
        """Ask for no answer any more."""
        for future, _ in self._pending:
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def check(self) -> None:
        """See that everything so far was answered with what it must be answered with."""
        while self._pending:
            future, answer = self._pending.popleft()
            try:
                got: Any = await future
            except CommandRefused as error:
                got = error.code
            if got != answer:
                self.wrong.append((answer, got))
            self.done += 1
        with contextlib.suppress(AssertionError):  # those without an answer are found below
            await eventually(lambda: all(self._subscribed.values()))
        # A second answer to the same question would have come before these.
        for _ in range(2):
            await self._life.command(b"PING")
        for topic, answers in self._subscribed.items():
            if answers != (["activated"] if b":ok" in topic.name else ["NOPERM"]):
                self.wrong.append((topic, answers))
            self.done += 1
            self._life._router.unsubscribe(topic, self)
            self._life.pump_soon()
        self._subscribed.clear()


async def throw_all(layer: MultiplexedChannelLayer, count: int) -> Mixture:
    """Send so many commands of all kinds, a thousand at a time."""
    mixture = Mixture(layer)
    try:
        for start in range(0, count, 1000):
            for number in range(start, start + 1000):
                mixture.throw(number)
            await mixture.check()
    finally:
        mixture.abandon()
    return mixture


@pytest.mark.timeout(120)
async def test_a_hundred_thousand_replies_stay_matched(make_redis: MakeRedis) -> None:
    """Echoes, publishes, refusals, errors and subscriptions, allowed or not: each its own answer."""
    server = make_redis(users=[PICKY])
    async with open_layer([server.url_for("site", "pw")]) as layer:
        await layer.new_channel()
        mixture = await throw_all(layer, 100_000)
        assert mixture.wrong == []
        assert mixture.done == 100_000
        assert layer.statistics().connection.epoch == 1
        await eventually(lambda: group_subscriptions(server) == set())
        assert layer.statistics().connection.wanted == layer.statistics().connection.active == 1


async def test_replies_that_are_not_matched_would_be_found(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a link that forgets that a refused SUBSCRIBE has a reply gets all wrong."""
    reply_to = resp.RedisLink._reply

    def forget(link: resp.RedisLink, command: Any, slot: Any, reply: Any) -> None:
        if isinstance(slot, resp._Batch) and link._slots:
            link._slots.popleft()
        reply_to(link, command, slot, reply)

    monkeypatch.setattr(resp.RedisLink, "_reply", forget)
    server = make_redis(users=[PICKY])
    async with open_layer([server.url_for("site", "pw")], timeout=1) as layer:
        await layer.new_channel()
        try:
            mixture = await asyncio.wait_for(throw_all(layer, 5000), 1)
            is_wrong = bool(mixture.wrong) or bool(layer.statistics().connection.reconnections)
        except (asyncio.TimeoutError, ConnectionError):
            is_wrong = True
        assert is_wrong


@pytest.mark.parametrize("is_protected", [True, False])
async def test_what_was_refused_for_a_while_is_announced(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch, is_protected: bool
) -> None:
    """A group that comes back long after the others has missed more than they: a gap of its own.

    The control: what was published meanwhile would be missing where no gap was announced.
    """
    monkeypatch.setattr(traffic, "REFUSED_PAUSE", 0.2)
    if not is_protected:
        monkeypatch.setattr(Supervisor, "topic_restored", lambda *_: None)
    server = make_redis(users=["site on >pw ~mpx:* &mpx:* +@all"])
    async with (
        open_layer([server.url_for("site", "pw")], **QUICK, **NOTICES) as layer,
        open_layer(server) as other,
    ):
        channel = await layer.new_channel()
        for group in ("red", "blue"):
            await layer.group_add(group, channel)
        groups = itertools.cycle(("red", "blue"))
        sender = Sender("a", lambda message: other.group_send(next(groups), message))
        await sender.step()
        allowed = ("&mpx:inbox:*", "&mpx:group:blue")
        server.command("ACL", "SETUSER", "site", "resetchannels", *allowed)
        await eventually(lambda: layer.statistics().connection.active == 2)
        for _ in range(2):  # the second one is for red, and missing
            await sender.step()
        server.command("ACL", "SETUSER", "site", "allchannels")
        await eventually(lambda: is_active(layer))
        for _ in range(2):
            await sender.step()
        heard = [await receive(layer, channel)]
        while heard[-1].get("number") != 4:
            heard.append(await receive(layer, channel))
        account = check({"a": sender.outcomes}, heard)
        assert (account.in_gaps, account.dropped) == ((1, 0) if is_protected else (0, 1))
        assert account.opened == account.closed == (2 if is_protected else 1)


@pytest.mark.parametrize("is_protected", [True, False])
async def test_acl_revoked_at_run_time_costs_one_name(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch, is_protected: bool
) -> None:
    """Redis cuts us; one reconnection, the name rests, the others are active; restored, it is back.

    The control: a name that did not rest would be asked for without end.
    """
    pause = 0.3 if is_protected else 0.0
    monkeypatch.setattr(traffic, "REFUSED_PAUSE", pause)
    server = make_redis(users=["site on >pw ~mpx:* &mpx:* +@all"])
    async with open_layer([server.url_for("site", "pw")], **QUICK) as layer:
        channel = await layer.new_channel()
        for group in ("red", "blue"):
            await layer.group_add(group, channel)
        allowed = "&mpx:inbox:* &mpx:group:blue"
        began = time.monotonic()
        server.command("ACL", "SETUSER", "site", "resetchannels", *allowed.split())
        await eventually(lambda: refused(layer).get("NOPERM"))
        await eventually(lambda: layer.statistics().connection.active == 2)
        await asyncio.sleep(0.7)  # the time itself is what is tested
        assert layer.statistics().connection.reconnections == {"closed": 1}
        if not is_protected:
            await eventually(lambda: refused(layer)["NOPERM"] > 20)
            return
        assert refused(layer)["NOPERM"] <= 2 + (time.monotonic() - began) / pause
        await layer.group_send("blue", {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}
        server.command("ACL", "SETUSER", "site", "allchannels")
        await eventually(lambda: is_active(layer))
        await layer.group_send("red", {"type": "b"})
        assert await receive(layer, channel) == {"type": "b"}
