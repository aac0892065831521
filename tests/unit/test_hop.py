"""The shared hop: who shares it, when it begins, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async

from channels_mpx.consumers import hop
from channels_mpx.consumers.hop import Hop, find_hop
from tests.helpers import eventually


class Probe:
    """Stands for Django's ``close_old_connections``.

    Attributes:
        threads: Where it was called, one entry for each call.
        gate: It does not return before this is set.
    """

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.seen: list[Any] = []

    def __call__(self) -> None:
        self.threads.append(threading.current_thread())
        self.seen.append(VARIABLE.get("unset"))
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error

    @property
    def calls(self) -> int:
        return len(self.threads)


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Probe]:
    probe = Probe()
    monkeypatch.setattr("channels.db.close_old_connections", probe)
    yield probe
    probe.gate.set()


def admit(shared: Hop | None = None) -> asyncio.Future[None]:
    """Become ready."""
    ready = asyncio.get_running_loop().create_future()
    found = shared or find_hop()
    assert found is not None
    found.admit(ready)
    return ready


async def test_those_who_become_ready_in_one_turn_share_one_hop(probe: Probe) -> None:
    """However many there are."""
    hop = find_hop()
    await asyncio.gather(*(admit(hop) for _ in range(100)))
    assert probe.calls == 1
    await admit(hop)
    assert probe.calls == 2


async def test_hop_begins_after_everybody_in_it_is_ready(probe: Probe) -> None:
    """Whoever becomes ready while one is under way waits for the next, all together."""
    shared = find_hop()
    probe.gate.clear()
    first = admit(shared)
    await eventually(lambda: probe.calls == 1)
    late = [admit(shared) for _ in range(10)]
    probe.gate.set()
    await first
    assert probe.calls == 1
    assert not any(ready.done() for ready in late)
    await asyncio.gather(*late)
    assert probe.calls == 2


async def test_cancelling_one_does_not_touch_the_others(probe: Probe) -> None:
    """Neither before the hop nor while it is under way."""
    shared = find_hop()
    probe.gate.clear()
    early, kept, late = admit(shared), admit(shared), admit(shared)
    early.cancel()
    await eventually(lambda: probe.calls == 1)
    late.cancel()
    probe.gate.set()
    await kept
    assert probe.calls == 1


async def test_error_goes_to_each(probe: Probe) -> None:
    """But to nobody who has gone, and the next hop is another one."""
    shared = find_hop()
    probe.error = ZeroDivisionError("on purpose")
    gone = admit(shared)
    both = [admit(shared), admit(shared)]
    gone.cancel()
    errors = await asyncio.gather(*both, return_exceptions=True)
    assert errors == [probe.error] * 2
    probe.error = None
    await admit(shared)
    assert probe.calls == 2


async def test_cancelled_hop_begins_again_for_who_still_waits(probe: Probe) -> None:
    """As when somebody cancels every task of the loop, and one of them goes on."""
    shared = find_hop()
    probe.gate.clear()
    gone, kept = admit(shared), admit(shared)
    await eventually(lambda: probe.calls == 1)
    gone.cancel()
    assert shared is not None
    assert shared._task is not None
    shared._task.cancel()
    await asyncio.wait([shared._task])
    assert not kept.done()
    probe.gate.set()
    await kept
    assert probe.calls == 2


async def test_cancelled_hop_ends_if_nobody_waits(probe: Probe) -> None:
    """Nothing is begun for nobody."""
    shared = find_hop()
    probe.gate.clear()
    ready = admit(shared)
    await eventually(lambda: probe.calls == 1)
    assert shared is not None
    task = shared._task
    assert task is not None
    ready.cancel()
    task.cancel()
    await asyncio.wait([task])
    assert repr(shared) == "<Hop waiting=0 is_under_way=False>"
    probe.gate.set()


def test_loop_is_closed_over_a_hop(probe: Probe) -> None:
    """There is nobody left to be told."""
    loop = asyncio.new_event_loop()
    probe.gate.clear()

    async def begin() -> Hop | None:
        shared = find_hop()
        admit(shared)
        await eventually(lambda: probe.calls == 1)
        return shared

    shared = loop.run_until_complete(begin())
    assert shared is not None
    assert shared._task is not None
    loop.close()
    shared._task._log_destroy_pending = False  # type: ignore[attr-defined]
    shared._task.get_coro().close()  # type: ignore[union-attr]
    probe.gate.set()


async def test_same_thread_as_sync_to_async(probe: Probe) -> None:
    """In no context, in one and in another, always where the database's connections are."""

    async def one() -> None:
        here = await sync_to_async(threading.current_thread)()
        await admit()
        assert here in probe.threads

    async def in_context() -> None:
        async with ThreadSensitiveContext():
            await one()

    await one()
    await in_context()
    assert len(set(probe.threads)) == 2
    await asyncio.gather(in_context(), in_context(), one())
    assert len(set(probe.threads)) == 4


async def test_contexts_do_not_share(probe: Probe) -> None:
    """Two in two contexts are two hops, two in one context are one, two in none are one."""

    async def both() -> None:
        await asyncio.gather(admit(), admit())

    async def in_context() -> None:
        async with ThreadSensitiveContext():
            await both()

    await asyncio.gather(both(), both(), in_context(), in_context())
    assert probe.calls == 3


async def test_found_again_while_it_is_used_and_forgotten_afterwards() -> None:
    """It is kept neither by the context nor by anything else, and keeps neither."""
    mine = find_hop()
    assert mine is find_hop()
    async with ThreadSensitiveContext() as context:
        theirs = find_hop()
        assert theirs is not mine
        assert theirs is find_hop()
        gone = weakref.ref(context)
        del context, theirs
    gc.collect()
    assert gone() is None
    assert mine is find_hop()


def test_loops_are_not_kept(probe: Probe) -> None:
    """Not even if the hop failed there."""
    loops: list[weakref.ref[Any]] = []

    async def live() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await admit()
        probe.error = ZeroDivisionError("on purpose")
        with pytest.raises(ZeroDivisionError):
            await admit()
        probe.error = None

    for _ in range(3):
        asyncio.run(live())
    gc.collect()
    # asgiref's thread remembers the last one.
    assert [loop() for loop in loops[:-1]] == [None, None]
    assert probe.calls == 6


async def test_loops_do_not_share(probe: Probe) -> None:
    """Not even if their threads run at one time."""

    async def many() -> None:
        await asyncio.gather(admit(), admit())

    await asyncio.gather(many(), asyncio.to_thread(asyncio.run, many()))
    assert probe.calls == 2


async def test_context_is_nobodys(probe: Probe) -> None:
    """What whoever came first has in his context is not for the others."""
    VARIABLE.set("mine")
    await admit()
    assert probe.seen == ["unset"]
    assert VARIABLE.get() == "mine"


def test_goes_alone_below_async_to_sync(probe: Probe) -> None:
    """There the thread is the one that waits, and another for each who waits."""

    async def main() -> None:
        assert find_hop() is None
        await hop.close_alone()

    async_to_sync(main)()
    assert probe.threads == [threading.current_thread()]


async def test_goes_alone_where_asgiref_refuses(probe: Probe) -> None:
    """The refusal is for him who would wait for himself, not for those who would share."""
    SyncToAsync.deadlock_context.set(True)
    assert find_hop() is None
    with pytest.raises(RuntimeError, match="deadlock"):
        await hop.close_alone()
    async with ThreadSensitiveContext():
        assert find_hop() is not None


async def test_next_one_begins_under_an_eager_task_factory(probe: Probe) -> None:
    """A task that ends before it is returned does not look as if it were under way for ever."""
    factory: Any = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("Python 3.12")

    async def at_once() -> None:
        probe()

    asyncio.get_running_loop().set_task_factory(factory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("channels.db.aclose_old_connections", at_once)
        shared = find_hop()
        await asyncio.gather(admit(shared), admit(shared))
        await admit(shared)
    assert probe.calls == 3
