"""Subscriptions are told of every gap once, and of every refusal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from channels_mpx import (
    ChannelSubscription,
    CommandRefused,
    ConnectionInterrupted,
    Gap,
    Multiplexer,
    PubSubMessage,
)
from tests.helpers import eventually, wait_until
from tests.layers import QUICK
from tests.servers import RedisServer
from tests.sites import MemorySite, Site
from tests.unit.notes import Notes

#: Reconnects at once.
HASTY: dict[str, Any] = {**QUICK, "reconnect_delay": 0.001, "max_reconnect_delay": 0.001}


# Gaps


async def test_gap_has_epoch_reason_and_duration(site: Site, mux: Multiplexer) -> None:
    """Every subscription is told once of each outage, and once of its end."""
    before, notes = time.monotonic(), [Notes() for _ in range(3)]
    for number, note in enumerate(notes):
        note.watchful(mux, "all", f"own{number}")
        await eventually(lambda note=note: len(note.lines) == 2)  # type: ignore[misc]
    for outage in (1, 2):
        site.cut()
        for note in notes:
            await eventually(lambda note=note, outage=outage: len(note.gaps) == outage)  # type: ignore[misc]
            assert note.lines.count(("disconnect", ConnectionInterrupted)) == outage
            assert note.gaps[-1].epoch == outage + 1
            assert note.gaps[-1].reason == site.reason
            assert 0 < note.gaps[-1].seconds < time.monotonic() - before
    assert len({note.gaps[-1] for note in notes}) == 1


async def test_link_lost_again_within_a_gap_is_one_outage(broker: MemorySite) -> None:
    """However often the link is lost before everything is active: one disconnect, one gap.

    Who came during the gap has missed nothing, and is told nothing.
    """
    old, new, idle = Notes(), Notes(), Notes()
    async with Multiplexer(broker.url, **QUICK) as mux:
        old.watchful(mux, "one", "two")
        idle.watchful(mux)
        await old.until(("active", b"one"), ("active", b"two"))
        for outage in (1, 2):
            with broker.silent():
                before = broker.accepted
                broker.cut()
                await eventually(lambda: broker.accepted == before + 1)  # noqa: B023
                newcomer = new.watchful(mux, "one", "new")
                broker.cut()
                await eventually(lambda: broker.accepted == before + 2)  # noqa: B023
                broker.cut()
                await eventually(lambda: broker.accepted == before + 3)  # noqa: B023
            await eventually(lambda: len(old.gaps) == outage)  # noqa: B023
            await newcomer.activated(5)
            assert old.lines.count(("disconnect", ConnectionInterrupted)) == outage
            assert old.gaps[-1].epoch == 1 + 3 * outage
            assert old.gaps[-1].reason == broker.reason
            await eventually(lambda: len(new.lines) == 2)
            assert {line[0] for line in new.lines} == {"active"}
            newcomer.close()
            new.lines.clear()
        assert idle.lines == []
        assert len(old.lines) == 2 + 2 * 4


async def test_who_comes_between_two_losses_of_one_gap_hears_of_it(mux: Multiplexer) -> None:
    """If it was active when the link was lost again; the others hear of the gap once, or not."""
    old, new, idle = Notes(), Notes(), Notes()
    await old.watchful(mux, "one").activated(5)
    listener, gap = mux._hub.listener, Gap(3, "first", 0.5)
    listener.gap_opened("first")
    await new.watchful(mux, "two").activated(5)
    idle.watchful(mux)
    await eventually(lambda: ("disconnect", ConnectionInterrupted) in old.lines)
    for notes in (old, new, idle):
        notes.lines.clear()
    listener.gap_went_on("second")
    listener.gap_closed(gap)
    for notes in (old, new):
        await eventually(lambda notes=notes: notes.gaps == [gap])  # type: ignore[misc]
    told = [line for line in old.lines + new.lines if line[0] != "active"]
    assert told == [("gap",), ("disconnect", ConnectionInterrupted), ("gap",)]
    assert idle.lines == []


async def test_channels_removed_in_a_gap_do_not_spoil_the_next(broker: MemorySite) -> None:
    """Who is told that a gap begins is told that it ends, whatever he wants meanwhile."""
    notes = Notes()
    async with Multiplexer(broker.url, **QUICK) as mux:
        subscription = notes.watchful(mux, "one")
        await notes.until(("active", b"one"))
        with broker.down():
            await eventually(lambda: ("disconnect", ConnectionInterrupted) in notes.lines)
            subscription.clear()
        await eventually(lambda: len(notes.gaps) == 1)
        subscription.add("two")
        await subscription.activated(5)
        broker.cut()
        await eventually(lambda: len(notes.gaps) == 2)
        assert notes.lines.count(("disconnect", ConnectionInterrupted)) == 2


async def test_slow_callback_hears_of_activations_after_the_disconnect(
    broker: MemorySite,
) -> None:
    """Whoever keeps a state by what he is told ends with the true one, however late he is told.

    Both outages are one to him, for he has not read that the first one was over.
    """
    gate, notes = asyncio.Event(), Notes()

    async def on_activation(name: bytes) -> None:
        await gate.wait()
        notes.on_activation(name)

    async with Multiplexer(broker.url, **QUICK) as mux:
        subscription = mux.new_channel_subscription(
            notes.on_message, notes.on_disconnect, on_activation, on_gap=notes.on_gap
        )
        subscription.add("one")
        subscription.add("two")
        await subscription.activated(5)
        for outage in (1, 2):
            broker.cut()
            await eventually(lambda: mux.statistics().epoch == outage + 1)  # noqa: B023
            await subscription.activated(5)
        gate.set()
        again = [
            ("disconnect", ConnectionInterrupted),
            ("active", b"one"),
            ("active", b"two"),
            ("gap",),
        ]
        await notes.until(("active", b"one"), ("active", b"two"), *again)
        assert notes.gaps[0].epoch == 3
        broker.cut()
        await eventually(lambda: len(notes.gaps) == 2)
        assert notes.lines[6:] == again
        assert notes.gaps[1].since > notes.gaps[0].since


async def test_outages_that_nobody_reads_of_are_one(broker: MemorySite) -> None:
    """Two hundred of them, as long as all together; what was published in between is told apart."""
    told: list[Any] = []
    async with Multiplexer(broker.url, **HASTY) as mux:
        subscription = mux.new_channel_subscription(
            None, told.append, told.append, on_gap=told.append
        )
        subscription.add("one")
        subscription.add("two")
        await subscription.activated(5)
        assert await subscription.get_message(0) is None
        told.clear()
        began = time.monotonic()
        for number in range(200):
            await outage(broker, mux, subscription)
            if number == 99:
                await mux.publish("one", b"1")
        assert subscription.waiting == 2 * 4 + 1
        assert await subscription.get_message(0) == PubSubMessage(None, b"one", b"1")
        assert [type(item) for item in told] == [ConnectionInterrupted, bytes, bytes, Gap]
        assert told[3].epoch == 101
        assert await subscription.get_message(0) is None
        assert [type(item) for item in told[4:]] == [ConnectionInterrupted, bytes, bytes, Gap]
        assert told[7].epoch == 201
        lasted = time.monotonic() - began
        assert lasted / 2 < told[3].seconds + told[7].seconds < lasted
        for number in range(3):  # who reads in time hears of each
            await outage(broker, mux, subscription)
            assert await subscription.get_message(0) is None
            assert len(told) == 8 + 4 * (number + 1)


async def outage(broker: MemorySite, mux: Multiplexer, subscription: ChannelSubscription) -> None:
    """Lose the link, and wait until everything is back."""
    epoch = mux.statistics().epoch
    broker.cut()
    await eventually(lambda: mux.statistics().epoch == epoch + 1)
    await subscription.activated(5)


async def test_notices_that_nobody_takes_stay_few(broker: MemorySite) -> None:
    """Once as much waits as may, activations are told once each, however often the link is lost."""
    async with Multiplexer(broker.url, **QUICK) as mux:
        subscription = mux.new_channel_subscription(on_activation=print, capacity=4)
        for number in range(4):
            subscription.add(str(number))
        await subscription.activated(5)
        for outage in range(1, 6):
            broker.cut()
            await eventually(lambda: mux.statistics().epoch == outage + 1)  # noqa: B023
            await subscription.activated(5)
        assert subscription.waiting == 4


def test_home_that_stops_without_an_end_is_a_gap(
    threads_only: Multiplexer, broker: MemorySite, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever lives on elsewhere is told of both ends of it, like of any other."""
    notes, other = Notes(), Notes()
    lasting = notes.watchful(threads_only)
    loop = asyncio.new_event_loop()

    async def live() -> ChannelSubscription:
        subscription = other.watchful(threads_only, "one")
        await asyncio.to_thread(lasting.add, "one")
        await subscription.activated(5)
        await eventually(lambda: notes.lines == [("active", b"one")])
        return subscription

    ended = loop.run_until_complete(live())
    threads_only.sync.publish("other", b"")
    wait_until(lambda: len(notes.lines) == 4)
    assert notes.lines[1:] == [("disconnect", ConnectionInterrupted), ("active", b"one"), ("gap",)]
    assert notes.gaps[0].reason == "its event loop stopped"
    assert ended.closed
    assert broker.accepted == 2
    assert "stopped without ending its tasks" in caplog.text
    end_all(loop)
    loop.close()


def end_all(loop: asyncio.AbstractEventLoop) -> None:
    """End the tasks of a loop, as `asyncio.run` does."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


# Refusals


async def test_refusal_is_raised_once(make_redis: Callable[..., RedisServer]) -> None:
    """To whoever waits for the activation, or asks for it next; it does not haunt later ones."""
    server = make_redis(users=["alice on >secret ~* resetchannels &ok* +@all"])
    notes = Notes()
    async with Multiplexer(server.url_for("alice", "secret"), **QUICK) as mux:
        subscription = notes.channels(mux)
        subscription.add("forbidden")
        with pytest.raises(CommandRefused, match="NOPERM"):
            await subscription.activated(5)
        assert subscription.channels == ()
        subscription.add("ok")
        await subscription.activated(5)
        for name in ("forbidden", "worse", "ok2"):
            subscription.add(name)
        await eventually(lambda: len(notes.lines) == 5)
        with pytest.raises(CommandRefused, match="NOPERM"):
            await subscription.activated(5)
        await subscription.activated(5)
        assert subscription.channels == (b"ok", b"ok2")
        subscription.add("forbidden")
        await eventually(lambda: len(notes.lines) == 6)
        subscription.remove("forbidden")
        await subscription.activated(5)
        with pytest.raises(CommandRefused):
            async with mux.new_pattern_subscription("no*") as pattern:
                raise AssertionError(pattern)
        assert mux.statistics().wanted == 2


def test_refusal_is_told_in_the_background(make_redis: Callable[..., RedisServer]) -> None:
    """A subscription without a loop hears of it although it was never active."""
    server = make_redis(users=["alice on >secret ~* resetchannels &ok* +@all"])
    notes = Notes()
    mux = Multiplexer(server.url_for("alice", "secret"), **QUICK)
    notes.channels(mux).add("forbidden")
    wait_until(lambda: notes.lines == [("disconnect", CommandRefused)])
    mux.close()
