"""One connection for every loop and thread of a process, while homes come and go."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from channels_mpx import LinkLost, LinkUnavailable, SyncCallFromAsync, home, loops, supervisor
from channels_mpx.home import Home
from channels_mpx.hub import Hub
from channels_mpx.options import Options
from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK, run_script

_brokers = itertools.count()


def make_hub() -> Hub:
    """Return a hub on a broker of its own, whose listener does not care."""
    return Hub(Options.parse({"hosts": f"memory://hub{next(_brokers)}", **QUICK}))


@pytest.fixture
async def other() -> AsyncIterator[Callable[..., Any]]:
    """Run a coroutine on a loop in another thread; return a concurrent future."""
    loops: list[asyncio.AbstractEventLoop] = []
    over = asyncio.Event()

    async def live() -> None:
        loops.append(asyncio.get_running_loop())
        await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    await eventually(lambda: loops)
    yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loops[0])
    loops[0].call_soon_threadsafe(over.set)
    thread.join()


async def ping(hub: Hub) -> Any:
    return await hub.call(hub.command, b"PING")


async def test_hub_without_a_listener_lives_and_ends() -> None:
    """A hub needs nobody who listens."""
    hub = make_hub()
    hub.keep_alive()
    assert "connecting" in repr(hub)
    assert await ping(hub) == b"PONG"
    assert "connected" in repr(hub)
    await hub.aclose()
    await hub.aclose()
    assert hub.state == "idle"
    assert await ping(hub) == b"PONG"
    await hub.aclose()


def test_hub_ends_with_its_loop() -> None:
    """A loop that ends takes the connection with it."""
    hub = make_hub()

    async def live() -> None:
        hub.keep_alive()
        await ping(hub)

    asyncio.run(live())
    assert hub.state == "idle"
    hub.close()


async def test_hub_closes_from_any_loop_and_thread(other: Callable[..., Any]) -> None:
    """aclose() reaches a home that is somebody else's running loop, and close() does."""
    hub = make_hub()

    async def settle() -> None:
        hub.keep_alive()
        await ping(hub)

    for close in (hub.aclose, lambda: asyncio.to_thread(hub.close)):
        await asyncio.wrap_future(other(settle()))
        assert "shared" in repr(hub._residence.current)
        await close()
        assert hub.state == "idle"
    await ping(hub)
    assert "background" in repr(hub._residence.current)
    await hub.aclose()


async def test_verb_that_raises_at_once_raises_for_its_caller(other: Callable[..., Any]) -> None:
    """What a verb raises before there is anything to await belongs to whoever called it."""
    hub = make_hub()

    def verb() -> Any:
        raise ZeroDivisionError

    await ping(hub)
    with pytest.raises(ZeroDivisionError):
        await hub.call(verb)
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(hub.call_sync, verb)
    await hub.aclose()


async def test_verb_of_a_home_that_is_over_fails() -> None:
    """What goes on after its home has ended touches nothing of the next one."""
    hub, gate = make_hub(), asyncio.Event()
    hub.keep_alive()

    async def late() -> None:
        await gate.wait()
        await hub.publish(b"one", b"1")

    task = asyncio.create_task(hub.call(late))
    await asyncio.sleep(0)
    await hub.aclose()
    gate.set()
    with pytest.raises(LinkLost, match="its event loop ended"):
        await task


async def test_verb_that_is_under_way_when_its_home_ends_is_lost() -> None:
    """A caller on another loop, or on none, is told that the outcome is not known."""
    hub = make_hub()
    begun = threading.Semaphore(0)

    async def hang() -> None:
        begun.release()
        await asyncio.Event().wait()

    async def live() -> None:
        hub.keep_alive()
        settled.set()
        for _ in range(2):
            await asyncio.to_thread(begun.acquire)

    settled = threading.Event()
    home = asyncio.create_task(asyncio.to_thread(asyncio.run, live()))
    await asyncio.to_thread(settled.wait)
    results = await asyncio.gather(
        hub.call(hang), asyncio.to_thread(hub.call_sync, hang), return_exceptions=True
    )
    await home
    assert [type(result) for result in results] == [LinkLost, LinkLost]
    await hub.aclose()


async def test_home_that_ends_before_it_takes_a_job_is_left_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that was not begun is done on the next home, and nobody hears of it."""
    hub = make_hub()
    await ping(hub)
    loop = asyncio.new_event_loop()
    loop.close()
    find, gone = hub._residence.home, list[Home]()
    monkeypatch.setattr(
        hub._residence, "home", lambda receiving: gone.pop() if gone else find(receiving)
    )
    gone.append(Home(loop))
    assert await ping(hub) == b"PONG"
    gone.append(Home(loop))
    assert await asyncio.to_thread(hub.call_sync, hub.command, b"PING") == b"PONG"
    done = threading.Event()
    gone.append(Home(loop))
    hub.post(done.set)
    await eventually(done.is_set)
    current, hub._residence.current = hub._residence.current, Home(loop)
    done.clear()
    hub.tell(done.set)
    assert done.is_set()
    hub._residence.current = current
    await hub.aclose()


async def test_nobody_at_home_may_leave_at_any_time() -> None:
    """Telling an empty house to leave does nothing."""
    hub = make_hub()
    assert not hub._is_missed()
    assert not hub._is_busy()
    hub._leave(Home(asyncio.get_running_loop()))
    hub._forsake()
    assert hub.state == "idle"


def test_stopped_loop_is_forsaken(caplog: pytest.LogCaptureFixture) -> None:
    """A loop that merely stopped does not keep the process from its connection."""
    world = Broker()
    layer = world.layer(**QUICK)
    loop = asyncio.new_event_loop()
    channel = loop.run_until_complete(layer.new_channel())
    layer.sync.close()
    layer.sync.group_send("room", {"type": "a"})
    assert "stopped without ending its tasks" in caplog.text
    assert layer.statistics().connection.state == "connected"
    assert layer.statistics().channels == 1  # it lives as long as its name
    assert channel
    tasks = asyncio.all_tasks(loop)
    assert tasks
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
    assert layer.statistics().connection.state == "connected"
    layer.sync.group_send("room", {"type": "a"})
    layer.sync.close()


async def test_callers_of_a_loop_that_stopped_do_not_wait_for_it() -> None:
    """What was under way is lost, what was not begun is done on the next home."""
    hub, begun, gate = make_hub(), threading.Semaphore(0), threading.Event()
    loop = asyncio.new_event_loop()

    async def hang() -> None:
        begun.release()
        await asyncio.Event().wait()

    async def live() -> None:
        hub.keep_alive()
        loop.call_soon_threadsafe(gate.set)
        for _ in range(2):
            await asyncio.to_thread(begun.acquire)

    running = asyncio.create_task(asyncio.to_thread(loop.run_until_complete, live()))
    await asyncio.to_thread(gate.wait)
    hanging = [hub.call(hang), asyncio.to_thread(hub.call_sync, hang)]
    lost = asyncio.gather(*hanging, return_exceptions=True)
    await running
    stopped = hub._residence.current
    assert stopped is not None
    done: list[int] = []
    stopped.courier.post(lambda: done.append(0), lambda: done.append(1))
    hub.keep_alive()
    assert [type(error) for error in await lost] == [LinkLost, LinkLost]
    assert done == [1]
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    await asyncio.to_thread(loop.run_until_complete, asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
    assert hub.state != "idle"
    await hub.aclose()


def test_subscription_ends_although_its_loop_was_closed_in_the_middle() -> None:
    """Whoever closes a loop without ending its tasks can still let go of what was made there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python has something to say about such a loop
        layer = Broker().layer(**QUICK)
        subscription = layer.multiplexer.new_channel_subscription()
        loop = asyncio.new_event_loop()

        async def begin() -> None:
            await layer.new_channel()
            subscription.add("one")
            await subscription.activated(5)

        loop.run_until_complete(begin())
        loop.close()
        subscription.remove("one")
        assert layer.statistics().connection.wanted == 1
        subscription.close()
        layer.sync.group_send("room", {"type": "a"})
        layer.sync.close()
        gc.collect()


async def test_link_that_lived_long_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delays start from the shortest again after a link that was steady."""
    monkeypatch.setattr(supervisor, "STEADY", 0)
    world = Broker()
    layer = world.layer(timeout=5, reconnect_delay=0.001, max_reconnect_delay=3600)
    await layer.new_channel()
    for epoch in range(2, 20):
        world.kill_connections()
        await eventually(lambda epoch=epoch: layer.statistics().connection.epoch == epoch)
        await eventually(lambda: layer.statistics().connection.state == "connected")
    await layer.close()


async def test_sync_close_refuses_a_running_loop() -> None:
    """It would block the loop."""
    layer = Broker().layer()
    with pytest.raises(SyncCallFromAsync, match="await the verb of the same name"):
        layer.sync.close()


FORK = """
    import os, sys
    from channels_mpx import LinkUnavailable, MultiplexedChannelLayer

    layer = MultiplexedChannelLayer(hosts=["redis://127.0.0.1:1"], timeout=0.1)

    def attempt():
        try:
            layer.sync.send("work", {})
        except LinkUnavailable:
            return
        sys.exit("somebody answers there")

    attempt()
    child = os.fork()
    attempt()
    if child:
        sys.exit(os.waitpid(child, 0)[1])
"""


def test_fork_without_a_link_works_in_parent_and_child() -> None:
    """A child of a process that only tries to connect begins to try by itself."""
    run_script(FORK, strict=False)


async def _begin(hub: Hub) -> None:
    hub.keep_alive()
    await asyncio.sleep(0)


def test_loop_that_stopped_while_connecting_is_forsaken() -> None:
    """There is no link to give up, and the next home tries by itself."""
    hub = Hub(Options.parse({"hosts": "redis://127.0.0.1:1", "timeout": 0.1}))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_begin(hub))
    assert hub.state == "connecting"
    asyncio.run(hub.aclose())
    with pytest.raises(LinkUnavailable):
        hub.call_sync(hub.command, b"PING")
    tasks = asyncio.all_tasks(loop)
    assert tasks
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
    hub.close()
    assert hub.state == "idle"


def test_no_loop_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller hears why, and the next one may have more luck."""

    def fail(coroutine: Coroutine[Any, Any, None]) -> None:
        coroutine.close()
        raise OSError(24, "Too many open files")

    layer = Broker().layer(**QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "run", fail)
        with pytest.raises(LinkUnavailable, match=r"no event loop for it.*Too many open files"):
            layer.sync.group_send("room", {"type": "a"})
    layer.sync.group_send("room", {"type": "a"})
    layer.sync.close()


async def test_close_from_elsewhere_when_home_has_just_ended(
    other: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing left to end, and nothing is waited for."""
    monkeypatch.setattr(home, "GRACE", 3600)  # which nobody lives to see
    monkeypatch.setattr(supervisor, "DRAIN", 3600)
    hub = make_hub()
    hub.keep_alive()
    present = hub._residence.current
    assert present is not None
    present.courier.close()
    await asyncio.wrap_future(other(hub.aclose()))
    await asyncio.to_thread(hub.close)
    await hub.aclose()


async def test_close_from_elsewhere_does_not_wait_for_itself(
    other: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing takes the moment that the connection takes, on any loop and without one."""
    monkeypatch.setattr(home, "GRACE", 3600)  # which nobody lives to see
    monkeypatch.setattr(supervisor, "DRAIN", 3600)
    for close in ("loop", "thread"):
        hub = make_hub()
        await hub.call(hub.publish, b"one", b"1", receiving=True)
        if close == "loop":
            await asyncio.wrap_future(other(hub.aclose()))
        else:
            await asyncio.to_thread(hub.close)
        assert hub.state == "idle"


def test_background_loop_that_was_given_up_ends_nothing_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was told to leave while it was blocked, and hears of that when another one lives."""
    monkeypatch.setattr(loops, "PATIENCE", 0.05)
    hub, gate, over = make_hub(), threading.Event(), threading.Event()
    hub.call_sync(hub.command, b"PING")
    old = hub._residence.current
    assert old is not None
    old.loop.call_soon_threadsafe(gate.wait)
    hub.close()
    assert hub.call_sync(hub.command, b"PING") == b"PONG"
    life = hub.life
    assert life is not None
    assert hub._residence.current is not old
    old.loop.call_soon_threadsafe(over.set)
    gate.set()
    assert over.wait(10)
    assert not life.is_leaving
    assert hub.call_sync(hub.command, b"PING") == b"PONG"
    hub.close()


def test_nothing_is_done_elsewhere_while_the_old_home_ends() -> None:
    """What is told to a home that takes no more jobs waits for its end."""
    hub, refused, gate, acted = make_hub(), threading.Event(), threading.Event(), list[bool]()
    hub.call_sync(hub.command, b"PING")
    home = hub._residence.current
    assert home is not None

    def end() -> None:
        home.refuse()
        refused.set()
        gate.wait()

    home.loop.call_soon_threadsafe(end)
    assert refused.wait(10)
    telling = threading.Thread(target=hub.tell, args=(lambda: acted.append(home.is_running),))
    telling.start()
    assert not acted
    hub._residence.current = None  # as at the end of `Residence.vacate`
    telling.join()
    assert len(acted) == 1
    gate.set()


async def test_loop_that_ends_when_no_other_can_be_started_ends_well(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task is cancelled and ends so; whoever is left connects with the next call."""
    hub = make_hub()
    monkeypatch.setattr(hub.listener, "loop_ended", lambda loop: True)

    def refuse() -> None:
        raise loops.NoHome("no thread")

    async def live() -> None:
        hub.keep_alive()
        await ping(hub)
        monkeypatch.setattr(hub._residence, "_settle_in_background", refuse)

    await asyncio.to_thread(asyncio.run, live())
    assert "no thread for the Redis connection (no thread)" in caplog.text
    monkeypatch.undo()
    assert await ping(hub) == b"PONG"
    await hub.aclose()


async def test_cancelled_call_whose_home_has_ended_is_undone_elsewhere() -> None:
    """The method had succeeded, its result was on the way, and the home that knew of it is gone."""
    hub, done, undone = make_hub(), threading.Event(), list[int]()

    async def act() -> int:
        done.set()
        return 1

    async def live() -> None:
        hub.keep_alive()
        settled.set()
        await asyncio.to_thread(done.wait)

    settled = threading.Event()
    owner = asyncio.create_task(asyncio.to_thread(asyncio.run, live()))
    await asyncio.to_thread(settled.wait)
    calling = asyncio.ensure_future(hub.call(act, undo=undone.append))
    await asyncio.sleep(0)
    done.wait()
    while not owner.done():
        time.sleep(0.001)  # this loop must not see the result before it is cancelled
        if hub.state == "idle":
            break
    calling.cancel()
    await asyncio.gather(calling, owner, return_exceptions=True)
    await eventually(lambda: undone == [1])
    await hub.aclose()


def test_loop_that_stands_still_before_its_tasks_are_ended_is_waited_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`asyncio.run` stops the loop when its coroutine has ended, and runs it again to end the rest."""
    hub, loop = make_hub(), asyncio.new_event_loop()
    standing, seen, stir = threading.Event(), threading.Event(), loops.Residence._await_stir
    monkeypatch.setattr(loops, "TAKEOVER", 20)

    def await_stir(self: loops.Residence, home: Home) -> None:
        seen.set()
        stir(self, home)

    def own() -> None:
        loop.run_until_complete(_begin(hub))
        standing.set()
        seen.wait(20)
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()

    monkeypatch.setattr(loops.Residence, "_await_stir", await_stir)
    owner = threading.Thread(target=own)
    owner.start()
    assert standing.wait(20)
    assert hub.call_sync(hub.command, b"PING") == b"PONG"
    owner.join()
    assert seen.is_set()
    assert "stopped" not in caplog.text
    hub.close()
