"""What the numbers of a process say about its health."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from channels_mpx import MultiplexedChannelLayer
from channels_mpx.health import PATIENCE, judge
from channels_mpx.lag import Lag
from channels_mpx.statistics import LayerStatistics


def numbers(lag: Lag | None = None, **connection: Any) -> LayerStatistics:
    """Return the numbers of a process, changed in some respect."""
    idle = MultiplexedChannelLayer(hosts=["memory://health"]).statistics()
    return replace(idle, connection=replace(idle.connection, **connection), lag=lag)


def test_nobody_has_used_it() -> None:
    """An idle layer is healthy, however long it has been idle, or nobody would ever use it."""
    health = judge(numbers(since=time.time() - 9999), PATIENCE)
    assert (health.is_healthy, health.problems, health.state) == (True, (), "idle")


def test_connected() -> None:
    """What is under way is no problem; the figures are there."""
    lag = Lag(last=0.25, average=1, most=2, samples=3)
    given = {"state": "connected", "since": 5.0, "wanted": 3, "active": 1, "ping_rtt": 0.5}
    health = judge(numbers(lag, **given, epoch=7, probe_rtt=0.75), PATIENCE)
    assert health.is_healthy
    for name, value in given.items():
        assert getattr(health, name) == value
    assert (health.epoch, health.probe_rtt, health.lag) == (7, 0.75, 0.25)


@pytest.mark.parametrize(("seconds", "is_healthy"), [(1, True), (9, False)])
def test_connecting(seconds: float, is_healthy: bool) -> None:
    """A reconnection is no problem for a while; then the reason is told."""
    given = numbers(state="connecting", since=time.time() - seconds, last_error="no route")
    health = judge(given, PATIENCE)
    assert health.is_healthy is is_healthy
    expected = () if is_healthy else ("No connection to Redis for 9 s: no route.",)
    assert health.problems == expected
    assert not judge(given, 0).is_healthy


@pytest.mark.parametrize("reason", ["Redis said so.", "is it there?"])
def test_sentence_ends_once(reason: str) -> None:
    """What Redis says may be a sentence already."""
    given = numbers(state="connecting", since=time.time() - 9, last_error=reason)
    assert judge(given, PATIENCE).problems == (f"No connection to Redis for 9 s: {reason}",)


def test_connecting_without_a_reason_yet() -> None:
    """An attempt that has neither succeeded nor failed."""
    given = numbers(state="connecting", since=time.time() - 6)
    assert judge(given, PATIENCE).problems == ("No connection to Redis for 6 s: no answer yet.",)


def test_refused() -> None:
    """Subscriptions that an ACL forbids now are a problem at once."""
    given = numbers(state="connected", denied=2, wanted=3, active=1)
    assert judge(given, PATIENCE).problems == ("Redis refuses 2 of 3 subscriptions.",)
