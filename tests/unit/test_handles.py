"""Handles have verbs for their users and nothing else; the connection knows their ties."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from channels_mpx import (
    ChannelSubscription,
    Multiplexer,
    NotConfirmed,
    PatternSubscription,
    PromiseSubscription,
)
from channels_mpx.handles import Handle
from tests.sites import MemorySite

#: What all subscriptions have.
COMMON = {"close", "closed"}

#: What those have whose messages are read or go to callbacks.
READING = {"activated", "delivered", "dropped", "get_message", "sync", "waiting"}

CHANNELS = {"add", "channels", "clear", "remove"}

PROMISES = {
    "active",
    "clear",
    "late",
    "new_promise",
    "outstanding",
    "prefix",
    "wait_for_activation",
    "wait_for_new_promise",
}


MULTIPLEXER = {
    "aclose",
    "close",
    "new_channel_subscription",
    "new_pattern_subscription",
    "new_promise_subscription",
    "publish",
    "pubsub_channels",
    "pubsub_numpat",
    "pubsub_numsub",
    "statistics",
    "sync",
}


def surface(value: object) -> set[str]:
    """Return what tab completion offers."""
    return {name for name in dir(value) if not name.startswith("_")}


def kinds(mux: Multiplexer) -> list[tuple[Handle, set[str]]]:
    """Return a handle of each kind, with the names that it may show."""
    return [
        (mux.new_channel_subscription(), COMMON | READING | CHANNELS),
        (mux.new_pattern_subscription("p*"), COMMON | READING | {"pattern"}),
        (mux.new_promise_subscription("job-"), COMMON | PROMISES),
    ]


def test_handles_show_what_users_can_use(broker: MemorySite) -> None:
    """No name that is for the connection; each class has a docstring for each of its own."""
    mux = Multiplexer(broker.url)
    assert surface(mux) == surface(Multiplexer) | {"sync"} == MULTIPLEXER
    handles = kinds(mux)
    assert [type(handle) for handle, _ in handles] == [
        ChannelSubscription,
        PatternSubscription,
        PromiseSubscription,
    ]
    for handle, names in handles:
        assert surface(handle) == names
        for name in surface(type(handle)):
            assert getattr(type(handle), name).__doc__
        handle.close()
    mux.close()


async def test_ties_end_with_the_loop_of_their_handles(broker: MemorySite) -> None:
    """Another loop's end means nothing to them; who wants nothing does not go on either."""
    async with Multiplexer(broker.url) as mux:
        loop, other = asyncio.get_running_loop(), asyncio.new_event_loop()
        for handle, _ in kinds(mux):
            tie = handle._tie
            assert repr(tie) == f"<{type(tie).__name__} of {handle!r}>"
            assert tie.loop is loop
            await handle._wait(5)
            wants_something = not isinstance(handle, ChannelSubscription)
            assert tie.outlives(other) is wants_something
            assert not handle.closed
            assert tie.outlives(loop) is False
            assert tie.closed
            assert handle.closed
        other.close()


async def test_context_that_is_not_entered_leaves_nothing(broker: MemorySite) -> None:
    """Whatever the handle: not active in time, or cancelled meanwhile."""
    mux = Multiplexer("redis://127.0.0.1:1", timeout=0.05)

    async def enter(handle: Any) -> None:
        async with handle:
            raise AssertionError("nothing can be active")

    for handle, _ in kinds(mux)[1:]:
        with pytest.raises(NotConfirmed):
            await enter(handle)
        assert handle.closed
    for handle, _ in kinds(mux)[1:]:
        entering = asyncio.ensure_future(enter(handle))
        await asyncio.sleep(0)
        entering.cancel()
        await asyncio.wait([entering])
        assert entering.cancelled()
        assert handle.closed
    await mux.aclose()
