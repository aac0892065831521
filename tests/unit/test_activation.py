"""Waiting for an activation ends when everything is active, refused, closed, or time is up."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from channels_mpx import (
    CommandRefused,
    LinkLost,
    LinkRefused,
    LinkUnavailable,
    Multiplexer,
    NotConfirmed,
    SubscriptionIsClosed,
)
from channels_mpx.activation import Activation
from channels_mpx.names import Kind, Topic
from tests.helpers import eventually
from tests.layers import QUICK
from tests.servers import RedisServer, free_port
from tests.sites import MemorySite, Site, subscribers


class Ear:
    """A subscriber to whom everything is the same."""

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """See `Subscriber.deliver`."""

    def activated(self, topic: Topic) -> None:
        """See `Subscriber.activated`."""

    def interrupted(self, reason: str) -> None:
        """See `Subscriber.interrupted`."""

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Subscriber.refused`."""


class Wishes:
    """What somebody wants, and an activation for it."""

    def __init__(self, mux: Multiplexer, *names: bytes) -> None:
        self.hub = mux._hub
        self.ear = Ear()
        self.topics = [Topic(Kind.CHANNEL, name) for name in names]
        self.activation = Activation(
            self.hub, self.ear, lambda: self.topics, lambda: "<what is wanted>"
        )

    async def wait(self, seconds: float | None = 5) -> None:
        await self.activation.wait(seconds)

    def start(self, seconds: float | None = None) -> asyncio.Task[None]:
        return asyncio.create_task(self.wait(seconds))


async def test_wait_until_everything_is_active(site: Site, mux: Multiplexer) -> None:
    """What is published after that, comes. What is active already is not waited for."""
    await Wishes(mux).wait()
    names = [b"%d" % number for number in range(1000)]
    wishes = Wishes(mux, *names)
    for _ in range(2):
        await wishes.wait()
        assert subscribers(site, b"0") == subscribers(site, b"999") == 1
        assert mux.statistics().active == 1000


async def test_wait_for_what_others_have_asked_for_in_another_order(
    broker: MemorySite,
) -> None:
    """All of it is active in the end, though the last name is confirmed first."""
    async with Multiplexer(broker.url, **QUICK) as mux:
        first = Wishes(mux, b"b")
        await first.wait()
        with broker.silent():
            broker.cut()
            await eventually(lambda: broker.accepted == 2)
            waiting = Wishes(mux, b"a", b"b").start()
            await eventually(lambda: mux.statistics().wanted == 2)
        await asyncio.wait_for(waiting, 5)
        assert mux.statistics().active == 2


async def test_wait_through_lost_links(broker: MemorySite) -> None:
    """As long as it takes, also when what was active is lost while the rest is awaited."""
    async with Multiplexer(broker.url, **{**QUICK, "timeout": 0.05}) as mux:
        wishes = Wishes(mux, b"a", b"b")
        with broker.down():
            waiting = wishes.start()
            await eventually(lambda: mux.statistics().last_error is not None)
            losses = itertools.count()
            await eventually(lambda: next(losses) > 20)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 5)
        assert mux.statistics().active == 2


async def test_time_is_up(broker: MemorySite) -> None:
    """The wish stays, and is granted later."""
    async with Multiplexer(broker.url, **QUICK) as mux:
        wishes = Wishes(mux, b"a")
        with broker.silent():
            for seconds in (0, 0.01):
                with pytest.raises(NotConfirmed, match=f"<what is wanted> within {seconds} s"):
                    await wishes.wait(seconds)
            assert not wishes.activation._waiting
        await eventually(lambda: mux.statistics().active == 1)
        await wishes.wait(0)


async def test_cancelled_waiting_leaves_nothing(broker: MemorySite) -> None:
    """No task, and nothing that complains later."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))
    async with Multiplexer(broker.url, **QUICK) as mux:
        wishes = Wishes(mux, b"a")
        with broker.silent():
            waiting = wishes.start()
            await eventually(lambda: bool(wishes.activation._waiting))
            (task,) = wishes.activation._waiting
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not wishes.activation._waiting
            await asyncio.wait([task], timeout=5)
            assert task.cancelled()
        del task, waiting
    gc.collect()
    assert complaints == []


async def test_error_of_a_waiting_that_was_cut_short(broker: MemorySite) -> None:
    """Whatever comes of it then is nobody's concern any more."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))
    async with Multiplexer(broker.url, **QUICK) as mux:
        wishes = Wishes(mux, b"a")
        topics = wishes.topics

        started: list[asyncio.Task[None]] = []

        def fail() -> list[Topic]:
            started[0].cancel()
            raise ZeroDivisionError

        wishes.activation._topics = fail
        started.append(wishes.start())
        with pytest.raises(asyncio.CancelledError):
            await started[0]
        wishes.activation._topics = lambda: topics
        await wishes.wait()
        started.clear()
    gc.collect()
    assert complaints == []


async def test_close_releases_everybody(broker: MemorySite) -> None:
    """On whatever loop they wait, at once; who comes later is turned away."""
    async with Multiplexer(broker.url, **QUICK) as mux:
        wishes = Wishes(mux, b"a")
        await mux.publish("home", b"is here")
        with broker.silent():
            outcome: list[BaseException] = []

            def elsewhere() -> None:
                try:
                    asyncio.run(wishes.wait(None))
                except SubscriptionIsClosed as error:
                    outcome.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            waiting = [wishes.start(), wishes.start(60)]
            await eventually(lambda: len(wishes.activation._waiting) == 3)
            wishes.activation.close()
            for task in waiting:
                with pytest.raises(SubscriptionIsClosed, match="<what is wanted> is closed"):
                    await asyncio.wait_for(task, 5)
            await asyncio.to_thread(thread.join, 5)
            assert len(outcome) == 1
        with pytest.raises(SubscriptionIsClosed):
            await wishes.wait()


def test_close_after_a_waiting_loop_has_ended(broker: MemorySite) -> None:
    """A loop that is closed needs no release."""
    mux = Multiplexer(broker.url, **QUICK)
    wishes = Wishes(mux, b"a")
    loop = asyncio.new_event_loop()

    async def idle() -> None:
        """Do nothing."""

    task = loop.create_task(idle())
    loop.run_until_complete(task)
    loop.close()
    wishes.activation._waiting.add(task)
    wishes.activation.close()
    mux.close()


async def test_closed_at_the_last_moment(mux: Multiplexer) -> None:
    """What was closed while everything became active is closed."""
    wishes = Wishes(mux, b"a")

    def topics() -> list[Topic]:
        wishes.activation._is_closed = True
        return wishes.topics

    wishes.activation._topics = topics
    with pytest.raises(SubscriptionIsClosed):
        await wishes.wait()


def test_home_that_ends_meanwhile(broker: MemorySite) -> None:
    """Whoever waits on another loop waits on, for the next home."""
    mux = Multiplexer(broker.url, **QUICK)
    wishes = Wishes(mux, b"a")
    outcome: list[None] = []

    async def live() -> threading.Thread:
        await Wishes(mux).wait()  # this loop is home now
        thread = threading.Thread(target=lambda: outcome.append(asyncio.run(wishes.wait(20))))
        thread.start()
        await eventually(lambda: mux.statistics().wanted == 1)
        return thread

    with broker.silent():
        thread = asyncio.run(live())
    thread.join(20)
    assert outcome == [None]
    mux.close()


async def test_wait_on_what_was_home_until_now(
    broker: MemorySite, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A verb that was begun there is begun again where home is now."""
    caplog.set_level("DEBUG", "channels_mpx.multiplexer")
    async with Multiplexer(broker.url, **QUICK) as mux:
        wishes = Wishes(mux, b"a")
        call, losses = mux._hub.call, iter([True, False])

        async def lose_once(*args: Any, **kwargs: Any) -> Any:
            if next(losses):
                raise LinkLost(address="home", reason="its event loop ended")
            return await call(*args, **kwargs)

        monkeypatch.setattr(mux._hub, "call", lose_once)
        await wishes.wait()
        assert "<what is wanted> is not active yet: The link to Redis at home" in caplog.text


async def test_without_any_home(mux: Multiplexer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be connected any more nobody waits for it."""

    def refuse(receiving: bool) -> None:
        raise LinkUnavailable(address="nowhere", seconds=0, reason="no thread")

    monkeypatch.setattr(mux._hub, "_find_home", refuse)
    with pytest.raises(LinkUnavailable, match="no thread"):
        await Wishes(mux, b"a").wait()


async def test_refused_process(make_redis: Callable[..., RedisServer]) -> None:
    """A wrong password is not waited for; a server that is not there is."""
    server = make_redis(password="secret")
    async with Multiplexer(f"redis://:wrong@{server.host}:{server.port}", **QUICK) as mux:
        with pytest.raises(LinkRefused):
            await Wishes(mux, b"a").wait()
    async with Multiplexer(f"redis://127.0.0.1:{free_port()}", **QUICK) as mux:
        with pytest.raises(NotConfirmed):
            await Wishes(mux, b"a").wait(0.1)


async def test_refusals_are_raised_once(mux: Multiplexer) -> None:
    """The first of those since somebody asked last; what was removed since is forgotten."""
    wishes = Wishes(mux)
    errors = [CommandRefused(address="a", command=f"SUBSCRIBE {n}", text="NOPERM") for n in "abc"]
    topics = [Topic(Kind.CHANNEL, name) for name in (b"a", b"b", b"c")]
    for topic, error in zip(topics, errors, strict=True):
        wishes.activation.note_refusal(topic, error)
    wishes.activation.forget_refusal(topics[0])
    wishes.activation.forget_refusal(topics[0])
    with pytest.raises(CommandRefused, match="SUBSCRIBE b"):
        await wishes.wait()
    await wishes.wait()

    def refuse_meanwhile() -> list[Topic]:
        wishes.activation.note_refusal(topics[2], errors[2])
        return []

    wishes.activation._topics = refuse_meanwhile
    with pytest.raises(CommandRefused, match="SUBSCRIBE c"):
        await wishes.wait()


async def test_refusal_of_what_is_waited_for(make_redis: Callable[..., RedisServer]) -> None:
    """Whoever waits gets Redis's reason; the next one is not told again."""
    server = make_redis(users=["alice on >secret ~* resetchannels &ok +@all"])
    async with Multiplexer(server.url_for("alice", "secret"), **QUICK) as mux:
        wishes = Wishes(mux, b"ok", b"forbidden")
        wishes.activation.note_refusal(wishes.topics[1], ZeroDivisionError())
        wishes.activation.forget_refusal(wishes.topics[1])
        with pytest.raises(CommandRefused, match="NOPERM"):
            await wishes.wait()
        wishes.topics.pop()
        await wishes.wait()
