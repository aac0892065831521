"""Delays double, are jittered, and never exceed the bound."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from channels_mpx.backoff import delays


@given(st.floats(0.001, 10), st.floats(1, 1000))
def test_delays_double_up_to_the_most(first: float, ratio: float) -> None:
    """The n-th delay lies between half of its step and the step."""
    most = first * ratio
    steps = [min(first * 2**n, most) for n in range(15)]
    for delay, step in zip(islice(delays(first, most), 15), steps, strict=True):
        assert step / 2 <= delay <= step


def test_delays_differ_between_processes() -> None:
    """A crowd that lost its server together does not come back together."""
    assert len({next(delays(1.0, 1.0)) for _ in range(100)}) > 90
