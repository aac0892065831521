"""The meter of how long messages take."""

from __future__ import annotations

import time

import pytest

from channels_mpx import envelope
from channels_mpx.codec import Codec
from channels_mpx.envelope import Form
from channels_mpx.intake import Intake
from channels_mpx.lag import ABSURD, INTERVAL, WINDOW, LagMeter
from channels_mpx.serializers import find_serializer
from channels_mpx.statistics import Tally


@pytest.fixture
def intake() -> Intake:
    """An intake that has seen nothing."""
    return Intake(Codec(find_serializer("msgpack"), ()), Tally())


def come(intake: Intake, form: Form) -> None:
    """Have a message arrive."""
    payload = envelope.wrap(form, b"\x80", target=b"1" if form is Form.DIRECT else None)
    intake.body(payload, envelope.unwrap(payload), b"mpx:inbox:x")


def test_nothing_is_known_of_no_messages() -> None:
    """Without a sample there are no figures."""
    assert LagMeter().read(0) is None


def test_figures_are_of_the_samples() -> None:
    """Last, average and largest; a clock that is ahead gives less than nothing."""
    meter, now = LagMeter(), time.time()
    for arrived, lag in ((1.0, 3.0), (2.0, 8.0), (3.0, -2.0)):
        meter.take(arrived, now - lag)
    lag = meter.read(3.5)
    assert lag is not None
    assert lag.last == pytest.approx(-2, abs=1)
    assert lag.average == pytest.approx(3, abs=1)
    assert lag.most == pytest.approx(8, abs=1)
    assert lag.samples == 3


@pytest.mark.parametrize(
    "sent_at",
    [0.0, 1.0, 2**64 / 1e6, time.time() - 2 * ABSURD, time.time() + 2 * ABSURD],
    ids=["zero", "one", "most", "hours ago", "hours ahead"],
)
def test_absurd_times_are_no_samples(sent_at: float) -> None:
    """Whoever may publish may write any time; it spoils nothing, and hides nobody else's."""
    meter, now = LagMeter(), time.time()
    meter.take(1.0, sent_at)
    assert meter.read(1.0) is None
    assert meter.due == 0
    meter.take(1.0, now - 2)
    lag = meter.read(1.0)
    assert lag is not None
    assert lag.samples == 1
    assert lag.most == pytest.approx(2, abs=1)


def test_samples_are_forgotten() -> None:
    """What is older than the window counts no more."""
    meter = LagMeter()
    meter.take(100.0, time.time() - 50)
    meter.take(130.0, time.time())
    assert meter.read(100 + WINDOW).samples == 2  # type: ignore[union-attr]
    late = meter.read(100 + WINDOW + 1)
    assert late is not None
    assert (late.samples, late.most) == (1, late.last)
    assert meter.read(130 + WINDOW + 1) is None


def test_memory_is_bounded() -> None:
    """However often it is told, it keeps what the window can need."""
    meter = LagMeter()
    for number in range(5000):
        meter.take(number / 1000, time.time())
    assert repr(meter) == f"<LagMeter samples={WINDOW / INTERVAL:.0f}>"
    assert meter.read(5).samples == WINDOW / INTERVAL  # type: ignore[union-attr]


def test_one_of_a_burst_is_looked_at(intake: Intake) -> None:
    """The first one; and the next when the interval is over."""
    began = time.time()
    for _ in range(100):
        come(intake, Form.GROUP)
    assert intake.lag.read(time.monotonic()).samples == 1  # type: ignore[union-attr]
    intake.lag.due = 0.0
    come(intake, Form.DIRECT)
    lag = intake.lag.read(time.monotonic())
    assert lag is not None
    assert lag.samples == 2
    assert 0 <= lag.most <= time.time() - began + 0.01


def test_waiting_in_a_queue_is_no_lag(intake: Intake) -> None:
    """A worker's message may be old because nobody was there to read it."""
    come(intake, Form.WORKER)
    assert intake.lag.read(time.monotonic()) is None
