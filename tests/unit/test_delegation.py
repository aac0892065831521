"""Memberships of other processes' channels, when their owners cannot or will not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from channels_mpx import (
    LinkLost,
    MembershipFailed,
    MultiplexedChannelLayer,
    Multiplexer,
    NotConfirmed,
    delegation,
    envelope,
    groups,
)
from channels_mpx.delegation import MAX_SIZE, MAX_UNDER_WAY, MAX_WAITING, Delegation
from channels_mpx.envelope import Form
from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK, open_layer
from tests.servers import RedisServer


async def test_owner_that_does_not_answer_is_an_error_at_the_deadline(
    redis_server: RedisServer,
) -> None:
    """Somebody listens on the inbox, and nobody says that it was done."""
    process = "a" * 16
    async with (
        Multiplexer(redis_server.url, prefix="elsewhere") as mux,
        open_layer(redis_server, timeout=0.3) as layer,
    ):
        mux.new_channel_subscription(lambda channel, payload: None).add(f"mpx:inbox:{process}")
        await eventually(lambda: mux.statistics().active == 1)
        with pytest.raises(NotConfirmed, match="group_add"):
            await layer.group_add("room", f"specific.{process}!1")


async def test_owner_that_may_not_subscribe_says_so(
    make_redis: Callable[..., RedisServer],
) -> None:
    """What Redis refuses to the owner is told to whoever asked."""
    server = make_redis(users=["alice on >secret ~* resetchannels &mpx:inbox:* +@all"])
    async with (
        open_layer([server.url_for("alice", "secret")], **QUICK) as owner,
        open_layer(server, **QUICK) as layer,
    ):
        channel = await owner.new_channel()
        with pytest.raises(MembershipFailed, match="NOPERM"):
            await layer.group_add("room", channel)


async def test_owner_that_may_not_answer_logs_it(
    make_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that cannot be sent is the owner's business, and the asker's deadline."""
    caplog.set_level("INFO", "channels_mpx.layer")
    server = make_redis(users=["alice on >secret ~* &* +@all -publish"])
    async with (
        open_layer([server.url_for("alice", "secret")], **QUICK) as owner,
        open_layer(server, timeout=0.3) as layer,
    ):
        channel = await owner.new_channel()
        with pytest.raises(NotConfirmed):
            await layer.group_add("room", channel)
        assert "could not answer the membership request of process" in caplog.text
        assert owner.statistics().groups == 1


async def test_lost_link_fails_who_waits_for_an_owner() -> None:
    """The answer may be missed; whoever asks again is told the truth."""
    world = Broker()
    asker, owner = world.layer(**QUICK), world.layer(**QUICK)
    mine, channel = await asker.new_channel(), await owner.new_channel()
    with world.freeze():
        adding = asyncio.ensure_future(asker.group_add("room", channel))
        await eventually(lambda: asker.statistics().requests == 1)
        world.kill_connections()
        with pytest.raises(LinkLost):
            await adding
    for layer in (asker, owner):
        await eventually(lambda layer=layer: layer.statistics().connection.active >= 1)
    await asker.group_add("room", channel)
    assert owner.statistics().groups == 1
    assert repr(asker._process._delegation).endswith("under_way=0>")
    for layer in (asker, owner):
        await layer.aclose()
    del mine


# Too many


NOBODY = b"0123456789abcdev!7"
_tokens = itertools.count(1)


def new_request(layer: MultiplexedChannelLayer, group: str, channel: str) -> bytes:
    """Return what anybody may publish: a request to join a group, and another one each time."""
    body = layer.codec.encode({"verb": "group_add", "group": group, "channel": channel})
    address = b"0123456789abcdev!%d" % next(_tokens)
    return envelope.wrap_request(Form.CONTROL, body, False, None, address)


def find(layer: MultiplexedChannelLayer, payload: bytes) -> None:
    """Have the reader of a layer find something in the inbox."""
    inbox = layer._hub.inbox
    layer._process.inbox.deliver(inbox, inbox.name, payload)


def ask(layer: MultiplexedChannelLayer, group: str, channel: str) -> None:
    """Have the reader of a layer find such a request."""
    find(layer, new_request(layer, group, channel))


class Gate:
    """Has a layer keep requests of other processes waiting.

    Attributes:
        groups: What was begun, in order.
    """

    def __init__(self, layer: MultiplexedChannelLayer) -> None:
        self.delegation: Delegation = layer._process._delegation
        self.groups: list[str] = []
        self._opened = asyncio.Event()
        self.delegation.handlers["group_add"] = self._pass

    async def _pass(self, group: str, channel: str) -> None:
        self.groups.append(group)
        await self._opened.wait()

    async def open(self) -> None:
        """Let all of them pass, and wait until they have."""
        self._opened.set()
        await eventually(lambda: self.delegation.load == (0, 0))


@contextlib.asynccontextmanager
async def two_layers(**config: Any) -> AsyncIterator[list[MultiplexedChannelLayer]]:
    """Yield two processes, the first of which asks the second."""
    broker = Broker()
    layers = [broker.layer(**{**QUICK, **config}) for _ in range(2)]
    try:
        yield layers
    finally:
        for layer in layers:
            await layer.aclose()


async def test_flood_of_requests_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Some are under way, the next wait, the others are refused, counted, and logged once."""
    async with two_layers() as (_, owner):
        channel = await owner.new_channel()
        before = len(asyncio.all_tasks())
        for _ in range(MAX_UNDER_WAY + MAX_WAITING + 300):
            ask(owner, "room", channel)
        assert owner._process._delegation.load == (MAX_UNDER_WAY, MAX_WAITING)
        assert len(asyncio.all_tasks()) <= before + MAX_UNDER_WAY
        assert owner.statistics().dropped["full"] == 300
        refusals = [each for each in caplog.messages if "refusing membership requests" in each]
        assert refusals == [
            f"channels_mpx: refusing membership requests of other processes: {MAX_WAITING} wait already"
        ]
        await eventually(lambda: owner._process._delegation.load == (0, 0), 30)
        assert owner.statistics().groups == 1
        # Nobody was there for any of the answers.
        assert owner.statistics().dropped["late"] == MAX_UNDER_WAY + MAX_WAITING


async def test_requests_of_a_deploy_are_all_done() -> None:
    """Thousands at once, far more than may be under way: every one is confirmed."""
    async with two_layers(timeout=30) as (asker, owner):
        channels = [await owner.new_channel() for _ in range(20)]
        groups = [f"room.{number}" for number in range(100)]
        pairs = [(group, channel) for channel in channels for group in groups]
        await asyncio.gather(*(asker.group_add(*pair) for pair in pairs))
        assert owner.statistics().groups == len(groups)
        assert all(len(owner._process.groups._groups[group].members) == 20 for group in groups)
        await asyncio.gather(*(asker.group_discard(*pair) for pair in pairs))
        assert owner.statistics().groups == 0


async def test_requests_wait_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that came is the first to be begun."""
    monkeypatch.setattr(delegation, "MAX_UNDER_WAY", 3)
    async with two_layers() as (_, owner):
        channel = await owner.new_channel()
        gate, groups = Gate(owner), [f"room.{number}" for number in range(20)]
        for group in groups:
            ask(owner, group, channel)
        await eventually(lambda: len(gate.groups) == 3)
        assert repr(gate.delegation).endswith("waiting=17 under_way=3>")
        await gate.open()
        assert gate.groups == groups


async def test_refused_asker_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many wait already, the next one gets an error of its own long before a deadline."""
    monkeypatch.setattr(delegation, "MAX_UNDER_WAY", 1)
    monkeypatch.setattr(delegation, "MAX_WAITING", 1)
    async with two_layers(timeout=60) as (asker, owner):
        channel = await owner.new_channel()
        gate = Gate(owner)
        adding = [asyncio.ensure_future(asker.group_add("room", channel)) for _ in range(2)]
        await eventually(lambda: gate.delegation.load == (1, 1))
        for verb in (asker.group_add, asker.group_discard):
            with pytest.raises(MembershipFailed, match="such requests wait there"):
                await asyncio.wait_for(verb("another", channel), 5)
        await gate.open()
        await asyncio.gather(*adding)
        assert gate.groups == ["room", "room"]
        await asker.group_add("third", channel)


async def test_request_for_which_nobody_waits_any_more_is_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What has waited beyond the asker's deadline is counted as expired."""
    monkeypatch.setattr(delegation, "MAX_UNDER_WAY", 1)
    async with two_layers(timeout=0.2) as (asker, owner):
        channel = await owner.new_channel()
        gate = Gate(owner)
        adding = [asyncio.ensure_future(asker.group_add(name, channel)) for name in ("a", "b", "c")]
        for each in adding:
            with pytest.raises(NotConfirmed):
                await each
        backlog = gate.delegation._backlog
        assert backlog is not None
        # The owner's clock began a little later than the askers'.
        await eventually(lambda: time.monotonic() - backlog.waiting[-1][2] > 0.2)
        await gate.open()
        assert gate.groups == ["a"]
        assert owner.statistics().dropped["expired"] == 2


# What is said again, or late


async def test_request_is_done_only_once(caplog: pytest.LogCaptureFixture) -> None:
    """Who can see it can repeat it, also with keys: a channel that has left stays out."""
    async with two_layers(symmetric_encryption_keys=["secret"]) as (asker, owner):
        channel, seen = await owner.new_channel(), []
        inbox = owner._process.inbox
        asked = inbox.asked
        inbox.asked = lambda *request: (seen.append(request), asked(*request))
        await asker.group_add("room", channel)
        await asker.group_discard("room", channel)
        for request in seen:
            asked(*request)
        await eventually(lambda: owner.statistics().dropped["malformed"] == 2)
        assert owner.statistics().groups == 0
        assert "a request between processes that came before" in caplog.text
        await asker.group_add("room", channel)
        assert owner.statistics().groups == 1


@pytest.mark.parametrize("shift", [-60.0, 60.0, -1e9], ids=["old", "from the future", "very old"])
async def test_request_of_another_time_is_refused(
    shift: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The asker has given up long ago, or the clocks differ: it is told, and logged once."""
    async with two_layers(timeout=30) as (asker, owner):
        channel, inbox = await owner.new_channel(), owner._process.inbox
        asked = inbox.asked

        def late(payload: bytes, header: Any) -> None:
            stamp = round((time.time() + shift) * 1e6)
            asked(payload[:2] + struct.pack(">Q", stamp) + payload[10:], header)

        inbox.asked = late
        for _ in range(2):
            with pytest.raises(MembershipFailed, match="older than the timeout, or from the futu"):
                await asyncio.wait_for(asker.group_add("room", channel), 20)
        assert owner.statistics().groups == 0
        assert owner.statistics().dropped["expired"] == 2
        assert len([text for text in caplog.messages if "the clocks differ" in text]) == 1
        inbox.asked = asked
        await asker.group_add("room", channel)


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a request is refused, rather than an old one forgotten too soon."""
    monkeypatch.setattr(delegation, "MAX_REMEMBERED", 5)
    async with two_layers(timeout=30) as (_, owner):
        channel, begun = await owner.new_channel(), owner._process._delegation._begun
        for number in range(8):
            ask(owner, f"room.{number}", channel)
        await eventually(lambda: owner._process._delegation.load == (0, 0))
        assert owner.statistics().groups == len(begun) == 5
        assert owner.statistics().dropped["full"] == 3
        for address in begun:  # two timeouts pass
            begun[address] -= 61
        ask(owner, "another", channel)
        await eventually(lambda: owner.statistics().groups == 6)
        assert len(begun) == 1


# Names and numbers


@pytest.mark.parametrize(
    "group", ["evil\nCRITICAL root", "x" * 100, "a:b", "\0", " ", "", "*", "r\xf6om", "a/b"]
)
async def test_request_for_what_is_no_group_is_not_begun(group: str) -> None:
    """The names in it pass the checks that they would pass in the asker's own process."""
    async with two_layers() as (_, owner):
        channel = await owner.new_channel()
        ask(owner, group, channel)
        await eventually(lambda: owner.statistics().dropped["malformed"] == 1)
        assert owner.statistics().groups == 0


@pytest.mark.parametrize("bound", ["MAX_OF_CHANNEL", "MAX_GROUPS"])
async def test_groups_that_others_ask_for_are_bounded(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others can make so many; what the process itself asks for is its own business."""
    monkeypatch.setattr(groups, bound, 3)
    async with two_layers() as (asker, owner):
        channel = await owner.new_channel()
        for number in range(3):
            await asker.group_add(f"room.{number}", channel)
        with pytest.raises(MembershipFailed, match=r"could not do it: .* 3 groups already, and no"):
            await asker.group_add("one-more", channel)
        await asker.group_add("room.1", channel)
        await owner.group_add("own", channel)
        assert owner.statistics().groups == 4
        await asker.group_discard("own", channel)
        await asker.group_discard("room.1", channel)
        await asker.group_add("one-more", channel)


@pytest.mark.parametrize("flaw", ["no address", "too long"])
async def test_request_that_is_none_is_not_kept(flaw: str) -> None:
    """Nothing is begun for what could not be answered, or is larger than any of ours."""
    async with two_layers() as (_, owner):
        channel = await owner.new_channel()
        gate = Gate(owner)
        group = "x" * MAX_SIZE if flaw == "too long" else "room"
        request = new_request(owner, group, channel)
        if flaw == "no address":
            request = envelope.wrap(Form.CONTROL, request)
        find(owner, request)
        assert gate.delegation.load == (0, 0)
        assert owner.statistics().dropped["malformed"] == 1


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        b"\x80",
        msgspec.msgpack.encode({"verb": "die", "group": "room", "channel": "x!1"}),
        msgspec.msgpack.encode({"verb": ["group_add"], "group": "room", "channel": "x!1"}),
        msgspec.msgpack.encode({"verb": "group_add", "group": "r\xf6om", "channel": "x!1"}),
        msgspec.msgpack.encode({"verb": "group_add", "group": "room", "channel": 7}),
    ],
    ids=["garbage", "empty", "verb", "type of verb", "group", "type of channel"],
)
async def test_request_that_nobody_understands_is_counted(body: bytes) -> None:
    """It is no message, asks for what there is not, or for what has no such name."""
    async with two_layers() as (_, owner):
        await owner.new_channel()
        inbox = owner._hub.inbox
        payload = envelope.wrap_request(Form.CONTROL, body, False, None, NOBODY)
        owner._process.inbox.deliver(inbox, inbox.name, payload)
        await eventually(lambda: owner.statistics().dropped["malformed"] == 1)
        await eventually(lambda: owner._process._delegation.load == (0, 0))


async def test_longest_request_is_small_enough() -> None:
    """Names of the greatest length are carried, with keys as well."""
    keys = [b"key"]
    async with two_layers(symmetric_encryption_keys=keys) as (asker, owner):
        channel = await owner.new_channel("x" * (99 - 16 - 11))
        sizes: list[int] = []
        asked = owner._process.inbox.asked
        owner._process.inbox.asked = lambda payload, header: (
            sizes.append(len(payload)),
            asked(payload, header),
        )
        await asker.group_add("g" * 99, channel)
        assert owner.statistics().groups == 1
        assert 0 < sizes[0] < MAX_SIZE // 4


async def fill(layer: MultiplexedChannelLayer) -> Gate:
    """Have as much under way as may be, and more behind it."""
    channel = await layer.new_channel()
    gate = Gate(layer)
    for _ in range(MAX_UNDER_WAY + 10):
        ask(layer, "room", channel)
    await eventually(lambda: len(gate.groups) == MAX_UNDER_WAY)
    return gate


def test_home_that_ends_begins_nothing() -> None:
    """What waits is dropped with the loop, and no task is left behind on it."""
    layer = Broker().layer(**QUICK)
    gate = asyncio.run(fill(layer))
    assert gate.delegation.load == (0, 0)
    assert len(gate.groups) == MAX_UNDER_WAY


def test_home_that_stopped_takes_no_room_on_the_next() -> None:
    """Tasks on a loop that nobody runs any more are not counted for ever."""
    layer = Broker().layer(**QUICK)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    old = first.run_until_complete(fill(layer))
    assert old.delegation.load == (MAX_UNDER_WAY, 10)
    try:
        gate = second.run_until_complete(fill(layer))
        assert gate.delegation.load == (MAX_UNDER_WAY, 10)
        second.run_until_complete(gate.open())
        assert len(gate.groups) == MAX_UNDER_WAY + 10
        second.run_until_complete(layer.aclose())
    finally:
        for loop in (first, second):
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
