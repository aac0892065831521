"""Signals: what they say, when they are sent, and that receivers hurt nobody."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from channels_mpx import InvalidArgument, MultiplexedChannelLayer, signals
from channels_mpx.gap import Gap
from channels_mpx.server import hub_of
from channels_mpx.signals import Herald
from tests.helpers import eventually
from tests.layers import QUICK, open_layer, receive
from tests.servers import RedisServer

ALL = {
    "connected": signals.connected,
    "disconnected": signals.disconnected,
    "gap": signals.gap,
    "overflow": signals.overflow,
    "bad_message": signals.bad_message,
}


class Diary:
    """What receivers of all signals were told."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, dict[str, Any]]] = []
        self.stacks: list[str] = []

    def hear(self, sender: Any, signal: Any, **details: Any) -> None:
        """Receive a signal."""
        assert sender is MultiplexedChannelLayer
        assert isinstance(details.pop("layer"), MultiplexedChannelLayer)
        (name,) = (name for name, candidate in ALL.items() if candidate is signal)
        self.entries.append((name, details))
        self.stacks.append("".join(traceback.format_stack()))

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return what one signal has said."""
        return [details for signal, details in self.entries if signal == name]


@pytest.fixture
def diary() -> Iterator[Diary]:
    """Receivers of all signals."""
    diary = Diary()
    for signal in ALL.values():
        signal.connect(diary.hear)
    yield diary
    for signal in ALL.values():
        signal.disconnect(diary.hear)
        assert not signal.receivers


async def test_life_of_a_connection(redis_server: RedisServer, diary: Diary) -> None:
    """Connected, lost, connected, the gap, closed: in this order."""
    async with open_layer(redis_server, **QUICK) as layer:
        await layer.group_add("room", channel := await layer.new_channel())
        await eventually(lambda: diary.entries)
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: diary.of("gap"))
        del channel
    await eventually(lambda: len(diary.entries) == 5)
    names = [name for name, _ in diary.entries]
    assert names == ["connected", "disconnected", "connected", "gap", "disconnected"]
    assert [details["epoch"] for details in diary.of("connected")] == [1, 2]
    lost, closed = diary.of("disconnected")
    (gap,) = diary.of("gap")
    assert isinstance(gap["gap"], Gap)
    assert (gap["gap"].reason, gap["gap"].epoch) == (lost["reason"], 2)
    assert closed == {"reason": "closed"}


async def test_what_goes_wrong_with_messages(redis_server: RedisServer, diary: Diary) -> None:
    """A channel that is full, and garbage: each told once, and never while messages are read."""
    async with open_layer(redis_server, capacity=2) as owner, open_layer(redis_server) as sender:
        channel = await owner.new_channel()
        for _ in range(9):
            await sender.send(channel, {"type": "hello"})
        await eventually(lambda: owner.statistics().dropped["full"] == 7)
        inbox = f"mpx:inbox:{owner.statistics().connection.process}"
        for _ in range(3):
            redis_server.command("PUBLISH", inbox, "garbage")
        await eventually(lambda: owner.statistics().dropped["malformed"] == 3)
        await eventually(lambda: diary.of("bad_message"))
        assert diary.of("overflow") == [{"channel": channel, "waiting": 2}]
        (bad,) = diary.of("bad_message")
        assert bad["where"] == inbox
        assert "garbage" not in bad["reason"]
    assert not any("data_received" in stack for stack in diary.stacks)


async def test_subscription_that_is_full(redis_server: RedisServer, diary: Diary) -> None:
    """As a channel that is full: once until its reader has caught up, with the subscription."""
    async with open_layer(redis_server) as layer:
        mux = layer.multiplexer
        subscription = mux.new_channel_subscription(capacity=2)
        subscription.add("news")
        await subscription.activated(5)
        for episode in (1, 2):
            for _ in range(5):
                await mux.publish("news", b"x")
            await eventually(lambda: subscription.dropped == 3 * episode)  # noqa: B023
            await eventually(lambda: len(diary.of("overflow")) == episode)  # noqa: B023
            for _ in range(2):
                assert await subscription.get_message(5)
        told = {"channel": "ChannelSubscription news", "waiting": 2, "subscription": subscription}
        assert diary.of("overflow") == [told] * 2
        async with mux.new_pattern_subscription("n*", capacity=3, overflow="close") as pattern:
            for _ in range(5):
                await mux.publish("no", b"x")
            await eventually(lambda: len(diary.of("overflow")) == 3)
            assert diary.of("overflow")[2] == {
                "channel": "PatternSubscription n*",
                "waiting": 3,
                "subscription": pattern,
            }
    assert not any("data_received" in stack for stack in diary.stacks)


async def test_receivers_that_raise(
    redis_server: RedisServer, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    """They are logged; the layer and the other receivers hear nothing of it."""

    def fail(**_: Any) -> None:
        raise ArithmeticError("a receiver failed")

    for signal in ALL.values():
        signal.connect(fail)
    try:
        async with open_layer(redis_server) as layer:
            with caplog.at_level(logging.ERROR, "django.dispatch"):
                channel = await layer.new_channel()
                await eventually(lambda: "a receiver failed" in caplog.text)
            await layer.send(channel, {"type": "hello"})
            assert await receive(layer, channel) == {"type": "hello"}
            assert diary.of("connected") == [{"epoch": 1}]
    finally:
        for signal in ALL.values():
            signal.disconnect(fail)


async def test_other_threads_hear_too(redis_server: RedisServer, diary: Diary) -> None:
    """Without an event loop of the caller's, the layer's own thread sends the signals."""
    layer = MultiplexedChannelLayer(hosts=[redis_server.url])
    await asyncio.to_thread(layer.sync.group_send, "room", {"type": "hello"})
    await eventually(lambda: diary.of("connected"))
    await asyncio.to_thread(layer.sync.close)


def test_coroutine_functions_are_refused() -> None:
    """Nobody would wait for them."""

    async def receiver(**_: Any) -> None: ...

    with pytest.raises(InvalidArgument, match="receiver must be a plain function"):
        signals.connected.connect(receiver)
    assert not signals.connected.receivers


def test_nothing_waits_without_receivers() -> None:
    """It costs nothing if nobody cares."""
    layer = MultiplexedChannelLayer(hosts=["memory://signals"])
    herald = Herald(layer, hub_of(layer))
    for name in ALL:
        herald.announce(name)
    assert repr(herald).endswith("news=0>")


async def test_the_next_home_sends_what_waits(diary: Diary) -> None:
    """What happens while there is no home is told later; and each piece of news once."""
    loop = asyncio.get_running_loop()
    hub: Any = SimpleNamespace(life=None, wake=lambda act: hub.life and loop.call_soon(act))
    layer = MultiplexedChannelLayer(hosts=["memory://signals"])
    herald = Herald(layer, hub)
    herald.announce("disconnected", reason="its event loop stopped")
    for life in ("one", "two"):
        hub.life = life
        herald.announce("connected", epoch=life)
    herald.announce("overflow", channel="specific.x!1", waiting=1)
    await eventually(lambda: len(diary.entries) == 4)
    await asyncio.sleep(0)  # for whoever was asked in vain
    names = [name for name, _ in diary.entries]
    assert names == ["disconnected", "connected", "connected", "overflow"]
