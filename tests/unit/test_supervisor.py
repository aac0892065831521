"""One task keeps the connection, whatever happens to it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re

import pytest

from channels_mpx import LinkRefused, LinkUnavailable, Multiplexer, supervisor
from channels_mpx.memory import MemoryDialer, broker
from channels_mpx.wire import Link, Receiver
from tests.helpers import eventually
from tests.layers import QUICK

_brokers = itertools.count()


async def test_error_of_our_own_in_a_dial_is_logged_and_survived(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is that is raised there, the next attempt follows."""
    name = f"supervisor{next(_brokers)}"
    world, errors = broker(name), [ZeroDivisionError("on purpose"), KeyError("too")]

    def accept() -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(world, "accept", accept)
    async with Multiplexer(f"memory://{name}", **QUICK) as mux:
        assert await mux.publish("channel", "message") == 0
    assert [record.message for record in caplog.records] == [
        "channels_mpx: internal error of the Redis connection; reconnecting"
    ] * 2


async def test_error_of_our_own_on_a_new_link_ends_that_link(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that was made and not put to use is not kept; the loss is counted as ours."""
    name, linked, once = f"supervisor{next(_brokers)}", supervisor.Pulse.start, [True]

    def start(self: supervisor.Pulse, link: supervisor.Link, since: float) -> None:
        if once:
            once.clear()
            raise ZeroDivisionError("on purpose")
        linked(self, link, since)

    monkeypatch.setattr(supervisor.Pulse, "start", start)
    async with Multiplexer(f"memory://{name}", **QUICK) as mux:
        mux.new_channel_subscription(print).add("one")
        await eventually(lambda: mux.statistics().active == 2 or mux.statistics().epoch == 2)
        assert mux.statistics().reconnections == {"internal": 1}
    assert "on purpose" in caplog.text


async def test_dial_that_swallows_a_cancellation_is_ended_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`asyncio.wait_for` does so before Python 3.12; what was dialled in spite of it is closed."""
    name, dialled, swallowed = f"supervisor{next(_brokers)}", MemoryDialer.dial, list[str]()
    dialling = asyncio.Event()

    async def dial(self: MemoryDialer, receiver: Receiver) -> Link:
        dialling.set()
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed.append("once more")
        return await dialled(self, receiver)

    monkeypatch.setattr(MemoryDialer, "dial", dial)

    async def live() -> None:
        mux = Multiplexer(f"memory://{name}", **QUICK)
        mux.new_channel_subscription(print).add("one")
        await dialling.wait()

    await asyncio.wait_for(asyncio.to_thread(asyncio.run, live()), 10)
    assert len(swallowed) == 2
    assert broker(name).links == []


async def test_refusals_at_run_time_grow_rare(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was connected once and is refused now tries on, and says so once."""
    name, refusals = f"supervisor{next(_brokers)}", 0
    world = broker(name)

    def accept() -> None:
        nonlocal refusals
        refusals += 1
        if refusals <= 4:
            raise LinkRefused(address="here", reason="WRONGPASS")

    async with Multiplexer(f"memory://{name}", **QUICK) as mux:
        mux._hub.keep_alive()  # on this loop, where the test loses the link
        await mux.publish("channel", "message")
        monkeypatch.setattr(world, "accept", accept)
        with caplog.at_level(logging.WARNING, "channels_mpx"):
            world.links[0].lose("the test says so")
            await eventually(lambda: mux.statistics().epoch == 2)
        assert refusals == 5
        said = [record.message for record in caplog.records if "no Redis" in record.message]
        assert said == ["channels_mpx: no Redis connection to here (WRONGPASS); trying again"]


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return level and text of what was logged about the connection, without times."""
    text = re.compile(r"after \d+\.\d s")
    return [
        (record.levelname, text.sub("after N s", record.message))
        for record in caplog.records
        if record.name == "channels_mpx.multiplexer"
    ]


async def test_return_is_logged_at_the_level_of_the_loss(caplog: pytest.LogCaptureFixture) -> None:
    """Who logs warnings only sees the end of what he saw the beginning of, and what is restored."""
    name = f"supervisor{next(_brokers)}"
    world = broker(name)
    caplog.set_level(logging.INFO, "channels_mpx")
    async with Multiplexer(f"memory://{name}", **QUICK) as mux:
        subscription = mux.new_channel_subscription(print)
        subscription.add("one")
        subscription.add("two")
        await subscription.activated(5)
        where = f"memory://{name}"
        assert records(caplog) == [
            ("INFO", f"channels_mpx: connected to Redis at {where}, connection 1 of this process")
        ]
        caplog.clear()
        back = (
            f"Redis connection to {where} is complete again after N s; 2 subscriptions are active"
        )
        links = list(world.links)
        mux._hub.life.loop.call_soon_threadsafe(links[0].lose, "cut")  # type: ignore[union-attr]
        await eventually(lambda: mux.statistics().epoch == 2 and len(records(caplog)) == 3)
        assert records(caplog) == [
            ("WARNING", f"channels_mpx: Redis connection to {where} lost (cut); reconnecting"),
            ("INFO", f"channels_mpx: connected to Redis at {where}, connection 2 of this process"),
            (
                "WARNING",
                f"channels_mpx: {back}",
            ),
        ]


async def test_first_connection_after_attempts_that_failed_is_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage at the start ends in the log too, though nobody has missed anything."""
    name, errors = (
        f"supervisor{next(_brokers)}",
        [LinkUnavailable(address="here", seconds=1, reason="down")],
    )

    def accept() -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(broker(name), "accept", accept)
    caplog.set_level(logging.INFO, "channels_mpx")
    async with Multiplexer(f"memory://{name}", **QUICK) as mux:
        await mux.publish("channel", "message")
        where = f"memory://{name}"
        assert records(caplog) == [
            ("WARNING", "channels_mpx: no Redis connection to here (down); trying again"),
            (
                "WARNING",
                f"channels_mpx: connected to Redis at {where}, connection 1 of this process",
            ),
        ]
