"""What no subscription takes is refused in words, and so is its use after the end."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest

from channels_mpx import (
    ConfigurationError,
    InvalidArgument,
    InvalidName,
    Multiplexer,
    NotCallable,
    NotConfirmed,
    PubSubMessage,
    ReservedName,
    SubscriptionHasCallback,
    SubscriptionIsClosed,
    globs,
)
from tests.layers import QUICK
from tests.sites import MemorySite


@pytest.mark.parametrize("callback", ["print", 7, b"", object(), ...])
@pytest.mark.parametrize("name", ["on_message", "on_disconnect", "on_activation", "on_gap"])
def test_callbacks_must_be_callable(broker: MemorySite, name: str, callback: Any) -> None:
    """What cannot be called is refused where it is given, and says its name."""
    mux = Multiplexer(broker.url)
    with pytest.raises(NotCallable, match=f"^{name} must be something that can be called"):
        mux.new_channel_subscription(**{name: callback})
    with pytest.raises(NotCallable, match=name) as caught:
        mux.new_pattern_subscription("a*", **{name: callback})
    assert isinstance(caught.value, TypeError)
    with pytest.raises(NotCallable, match="on_message"):
        mux.new_channel_subscription().add("one", callback)
    gc.collect()
    assert repr(mux._registry) == "<Registry 0>"
    assert mux.statistics().state == "idle"


@pytest.mark.parametrize("name", [None, "", b"", 7, 1.5, object, bytearray(b"one"), ["one"]])
def test_names_must_be_names(broker: MemorySite, name: Any) -> None:
    """What is no text and no bytes, or empty, is refused where it is given."""
    mux = Multiplexer(broker.url)
    subscription = mux.new_channel_subscription()
    for verb in (subscription.add, subscription.remove, mux.new_pattern_subscription):
        with pytest.raises(InvalidName, match="is not a name that can be used here") as caught:
            verb(name)
        assert repr(name) in str(caught.value)
    assert subscription.channels == ()
    assert mux.statistics().state == "idle"


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "10", float("inf")])
@pytest.mark.parametrize("name", ["capacity", "max_bytes"])
def test_bounds_must_be_whole_numbers(broker: MemorySite, name: str, value: Any) -> None:
    """A mailbox holds at least one message; no bound at all is no bound."""
    mux = Multiplexer(broker.url)
    with pytest.raises(InvalidArgument, match=f"^{name} must be a positive whole number, not"):
        mux.new_channel_subscription(**{name: value})
    with pytest.raises(InvalidArgument, match=name):
        mux.new_pattern_subscription("a*", **{name: value})
    assert mux.statistics().state == "idle"


@pytest.mark.parametrize("value", ["", "drop", None, 7, ["close"], {}])
def test_overflow_must_be_one_of_three(broker: MemorySite, value: Any) -> None:
    """The error lists what there is."""
    mux = Multiplexer(broker.url)
    with pytest.raises(ConfigurationError, match="'drop_newest', 'drop_oldest', 'close', not"):
        mux.new_channel_subscription(overflow=value)
    assert mux.statistics().state == "idle"


async def test_own_prefix_is_reserved(mux: Multiplexer) -> None:
    """Neither channels nor patterns under it; a wider pattern gets nothing from under it."""
    subscription = mux.new_channel_subscription()
    for name in ("mpx:", "mpx:group:room", b"mpx:inbox:x"):
        with pytest.raises(ReservedName, match="layer's own prefix 'mpx'"):
            subscription.add(name)
    for name in ("mpx:*", "mpx:group:?", b"mpx:"):
        with pytest.raises(ReservedName):
            mux.new_pattern_subscription(name)
    assert subscription.channels == ()
    assert mux.statistics().wanted == 0
    async with mux.new_pattern_subscription("*") as everything:
        assert await mux._hub.call(mux._hub.publish, b"mpx:group:room", b"secret") == 1
        assert await mux.publish("mpxer", b"2") == 1
        message = await everything.get_message(5)
        assert message == PubSubMessage(b"*", b"mpxer", b"2")


@pytest.mark.parametrize("name", ["room.*", b"room.*"])
async def test_glob_that_is_taken_literally(
    mux: Multiplexer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str | bytes,
) -> None:
    """One warning for each process, and none for patterns; the channel is there all the same."""
    monkeypatch.setattr(globs, "_told", weakref.WeakSet())
    mux.new_pattern_subscription("price.*")
    for _ in range(2):
        subscription = mux.new_channel_subscription()
        subscription.add("hall")
        subscription.add(name)
        subscription.add("other.*")
        assert subscription.channels == (b"hall", b"room.*", b"other.*")
        record, *more = [record for record in caplog.records if "which has *" in record.msg]
        assert more == []
        assert (record.levelno, record.name) == (logging.WARNING, "channels_mpx.multiplexer")
        assert record.getMessage() == (
            "channels_mpx: a subscription has the channel 'room.*', which has *: "
            "did you mean new_pattern_subscription?"
        )


async def test_use_after_close(mux: Multiplexer) -> None:
    """One error for all of it; iterating ends at once, and closing again is nothing."""
    called = mux.new_channel_subscription(print)
    with pytest.raises(SubscriptionHasCallback, match="go to its on_message"):
        await called.get_message(0)
    for subscription in (mux.new_channel_subscription(), mux.new_pattern_subscription("a*")):
        subscription.close()
        for waiting in (subscription.get_message(), subscription.activated()):
            with pytest.raises(SubscriptionIsClosed, match="is closed; make a new one"):
                await waiting
        with pytest.raises(SubscriptionIsClosed):
            async with subscription:
                raise AssertionError("entered")
        assert [message async for message in subscription] == []
        subscription.close()
        assert subscription.closed
    closed = mux.new_channel_subscription()
    closed.close()
    with pytest.raises(SubscriptionIsClosed):
        closed.clear()
    with pytest.raises(SubscriptionIsClosed):
        closed.remove("one")


async def test_context_that_is_not_entered_closes(broker: MemorySite) -> None:
    """Who does not get an active subscription gets a closed one."""
    async with Multiplexer(broker.url, **{**QUICK, "timeout": 0.05}) as mux:
        with broker.down():
            subscription = mux.new_pattern_subscription("a*")
            with pytest.raises(NotConfirmed, match="PatternSubscription b'a"):
                await subscription.__aenter__()
        assert subscription.closed
    async with Multiplexer(broker.url, **QUICK) as mux:
        async with mux.new_pattern_subscription("a*") as subscription:
            assert not subscription.closed
        assert subscription.closed
