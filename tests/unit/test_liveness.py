"""Liveness: what is done when, as timelines of a link that is checked as often as it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_mpx.liveness import LATE, MOST_STRETCH, PATIENCE, Liveness, Verdict

DEAD, DEAF, PING, PROBE = Verdict.DEAD, Verdict.DEAF, Verdict.PING, Verdict.PROBE
STUCK = Verdict.STUCK

PING_INTERVAL, PING_TIMEOUT, PROBE_INTERVAL = 2.0, 2.5, 10.0

Timeline = list[tuple[float, Verdict]]


class Watch:
    """Checks one link after the other, exactly when `Liveness` wants to be asked.

    Attributes:
        now: The time.
        last_read: When the last byte came; None if bytes come all the time.
        last_parsed: When the last reply or message was complete; None if every byte completes one.
        heard: How many messages have come; None if they come all the time.
    """

    def __init__(self) -> None:
        self.rules = Liveness(PING_INTERVAL, PING_TIMEOUT, PROBE_INTERVAL)
        self.now = 0.0
        self.last_read: float | None = None
        self.last_parsed: float | None = None
        self.heard: int | None = 0
        self._checks = 0
        self.start()

    def start(self) -> None:
        self.rules.started(self.now, self.heard or 0)

    def check(self, later: float = 0.0) -> Verdict:
        """Let the time pass until the next check, and so many seconds more, and check."""
        self.now += self.rules.next_check(self.now, *self._read()) + later
        self._checks += 1
        heard = self._checks if self.heard is None else self.heard
        return self.rules.judge(self.now, *self._read(), heard)

    def until(self, end: float, on: dict[Verdict, Callable[[], object]] | None = None) -> Timeline:
        """Check until ``end`` or the verdict; do what is asked for ``on`` a verdict."""
        seen: Timeline = []
        while self.now < end:
            verdict = self.check()
            if verdict is not Verdict.NOTHING:
                seen.append((self.now, verdict))
            if verdict in (DEAD, DEAF, STUCK):
                break
            if on and verdict in on:
                on[verdict]()
        return seen

    def taken(self) -> None:
        self.rules.probe_taken(self.now)

    def failed(self) -> None:
        self.rules.probe_failed(self.now)

    def read(self) -> None:
        self.last_read = self.now

    def _read(self) -> tuple[float, float]:
        read = self.now if self.last_read is None else self.last_read
        return read, read if self.last_parsed is None else self.last_parsed


@pytest.fixture
def watch() -> Watch:
    return Watch()


# Silence


def test_silence_is_pinged_and_then_dead(watch: Watch) -> None:
    """A PING goes out after its interval, and without any byte the link is dead at the timeout."""
    watch.last_read = 0.0
    assert watch.until(100) == [(2.0, PING), (4.5, DEAD)]


def test_answered_ping_starts_the_wait_anew(watch: Watch) -> None:
    """A server that only answers PING is asked again after each interval of silence."""
    watch.last_read = 0.0
    watch.heard = None
    assert [time for time, verdict in watch.until(8.9, {PING: watch.read})] == [2.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize("at", [2.0, 3.0, 4.4])
def test_any_reply_after_the_ping_saves_the_link(watch: Watch, at: float) -> None:
    """Whatever is complete after the PING, and be it an old reply, is a sign of life."""
    watch.last_read = 0.0
    assert watch.until(2.0) == [(2.0, PING)]
    watch.last_read = at
    assert DEAD not in [verdict for _, verdict in watch.until(6.0)]


@pytest.mark.parametrize("at", [2.0, 3.0, 4.4])
def test_any_byte_after_the_ping_puts_the_end_off(watch: Watch, at: float) -> None:
    """Part of a reply is a sign of life, and the silence after it is as long as any."""
    watch.last_read = watch.last_parsed = 0.0
    assert watch.until(2.0) == [(2.0, PING)]
    watch.last_read = at
    assert watch.until(100) == [(at + PING_TIMEOUT, DEAD)]


def test_bytes_that_never_become_a_reply_are_a_stuck_link(watch: Watch) -> None:
    """A length that is too large swallows every reply, while bytes come all the time."""
    watch.last_parsed = 0.0
    (_, pinged), (at, verdict) = watch.until(100)
    assert (pinged, verdict) == (PING, STUCK)
    assert at == pytest.approx(2.0 + PING_TIMEOUT * PATIENCE, abs=0.2)


def test_large_message_that_comes_slowly_is_waited_for(watch: Watch) -> None:
    """It needs one PING, whose answer comes behind it."""
    watch.last_parsed = 0.0
    watch.heard = None
    assert watch.until(20) == [(2.0, PING)]
    watch.last_parsed = None
    assert watch.until(60) == []


def test_late_check_does_not_call_a_link_stuck(watch: Watch) -> None:
    """A loop that was blocked has had no chance to complete anything."""
    watch.last_parsed = 0.0
    watch.until(20)
    assert watch.check(later=30) is Verdict.NOTHING
    blocked_until = watch.now
    ((at, verdict),) = watch.until(100)
    assert verdict is STUCK
    assert at == pytest.approx(blocked_until + PING_TIMEOUT * PATIENCE, abs=0.2)


def test_byte_before_the_ping_saves_nothing(watch: Watch) -> None:
    """What came before the PING does not answer it."""
    watch.last_read = 0.0
    watch.until(2.0)
    watch.last_read = 1.9
    assert watch.until(100) == [(4.5, DEAD)]


def test_bytes_all_the_time_need_no_ping(watch: Watch) -> None:
    """A link on which something is read is not pinged."""
    watch.heard = None
    assert watch.until(60) == []


def test_late_check_does_not_judge(watch: Watch) -> None:
    """A loop that was blocked reads its socket before anybody is called dead."""
    watch.last_read = 0.0
    watch.heard = None
    watch.until(2.0)
    assert watch.check(later=LATE + 30) is Verdict.NOTHING
    blocked_until = watch.now
    assert watch.until(100) == [(blocked_until + PING_TIMEOUT, DEAD)]


def test_check_that_is_hardly_late_judges(watch: Watch) -> None:
    """Half a second is not a blocked loop."""
    watch.last_read = 0.0
    assert watch.until(4.0) == [(2.0, PING)]
    assert watch.check(later=LATE) is DEAD


def test_late_check_pings_all_the_same(watch: Watch) -> None:
    """Asking costs nothing."""
    watch.last_read = 0.0
    assert watch.check(later=30) is PING


# Deafness


def test_server_that_took_the_probe_and_gives_nothing_is_deaf(watch: Watch) -> None:
    """A probe goes out after its interval; taken and not come back after one more, it is deaf."""
    assert watch.until(100, {PROBE: watch.taken}) == [(10.0, PROBE), (20.0, DEAF)]


def test_probe_that_was_not_taken_proves_nothing(watch: Watch) -> None:
    """Without the server's word that it has the probe there is no verdict, only PING decides."""
    assert watch.until(100) == [(10.0, PROBE)]


def test_probe_taken_late_is_waited_for_from_then_on(watch: Watch) -> None:
    """The interval counts from when the server took it."""
    watch.until(10)
    watch.until(14)
    watch.taken()
    assert watch.until(100) == [(24.0, DEAF)]


def test_probe_that_failed_changes_nothing(watch: Watch) -> None:
    """The next probe goes out one interval later, and nobody is deaf."""
    timeline = watch.until(45, {PROBE: watch.failed})
    assert timeline == [(10.0, PROBE), (20.0, PROBE), (30.0, PROBE), (40.0, PROBE)]


def test_probe_that_failed_after_it_was_taken_counts_as_failed(watch: Watch) -> None:
    """A probe that was given up is not waited for."""
    watch.until(10, {PROBE: watch.taken})
    watch.failed()
    assert watch.until(20) == [(20.0, PROBE)]


def test_probe_that_comes_back_ends_the_wait(watch: Watch) -> None:
    """Any message is proof of hearing; the next probe follows one interval after it."""
    watch.until(10, {PROBE: watch.taken})
    watch.heard = 1
    assert watch.until(40, {PROBE: lambda: None}) == [(21.0, PROBE)]


def test_traffic_never_probes(watch: Watch) -> None:
    """Where messages come, nothing has to be proved."""
    watch.heard = None
    assert watch.until(120) == []


def test_late_check_does_not_call_deaf(watch: Watch) -> None:
    """The probe may lie in the socket that the blocked loop has not read."""
    watch.until(10, {PROBE: watch.taken})
    assert watch.check(later=LATE + 30) is Verdict.NOTHING
    blocked_until = watch.now
    assert watch.until(100) == [(blocked_until + PROBE_INTERVAL, DEAF)]


def test_pending_ping_is_settled_before_any_probe(watch: Watch) -> None:
    """Dead goes before deaf: while a PING is out, no probe is sent."""
    watch.until(9.0)
    watch.last_read = 9.0
    watch.rules.judge(9.0, 9.0, 9.0, 0)
    assert watch.until(100)[-1][1] is DEAD


def test_word_about_the_probe_of_a_former_link_is_ignored(watch: Watch) -> None:
    """A late answer does not make the next link deaf."""
    watch.until(10)
    watch.start()
    watch.taken()
    assert watch.until(60) == [(20.0, PROBE)]


def test_messages_of_a_former_link_prove_nothing(watch: Watch) -> None:
    """What was heard before a link began is not heard on it."""
    watch.heard = 1000
    watch.start()
    assert watch.until(10) == [(10.0, PROBE)]


# Stretching


def deaf_after(watch: Watch) -> tuple[float, float]:
    """Return how long a deaf link took to be probed, and then to be given up."""
    begin = watch.now
    watch.start()
    (probed, _), (given_up, _) = watch.until(begin + 1000, {PROBE: watch.taken})
    return probed - begin, given_up - probed


def test_stretch_doubles_up_to_tenfold(watch: Watch) -> None:
    """Links that are lost to deafness again and again are probed ever less often."""
    stretches = [deaf_after(watch) for _ in range(6)]
    assert stretches == [
        (factor * 10.0,) * 2 for factor in (1, 2, 4, 8, MOST_STRETCH, MOST_STRETCH)
    ]


def test_stretch_ends_when_a_probe_is_heard(watch: Watch) -> None:
    """One probe that comes back, and the interval is as before."""
    assert [deaf_after(watch) for _ in range(2)] == [(10.0, 10.0), (20.0, 20.0)]
    watch.start()
    watch.until(watch.now + 40, {PROBE: watch.taken})
    watch.heard = 1
    watch.check()
    assert deaf_after(watch) == (10.0, 10.0)


def test_stretch_stays_when_others_are_heard(watch: Watch) -> None:
    """A message without a probe on its way says nothing about probes."""
    deaf_after(watch)
    watch.start()
    watch.heard = 1
    watch.check()
    assert deaf_after(watch) == (20.0, 20.0)


def test_stretch_stays_over_a_dead_link(watch: Watch) -> None:
    """Only hearing ends it."""
    deaf_after(watch)
    watch.start()
    watch.last_read = watch.now
    assert watch.until(1000)[-1][1] is DEAD
    watch.last_read = None
    assert deaf_after(watch) == (20.0, 20.0)


# When to check


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.booleans(), st.booleans(), st.sampled_from("-tfs")),
        max_size=60,
    )
)
def test_next_check_is_neither_at_once_nor_far(steps: list[tuple[float, bool, bool, Any]]) -> None:
    """Whatever happened: at least a tenth and at most half of the ping interval from now."""
    rules, now, last_read, heard = Liveness(2.0, 2.5, 10.0), 0.0, 0.0, 0
    for pause, reads, hears, event in steps:
        now += pause
        last_read = now if reads else last_read
        heard += hears
        rules.judge(now, last_read, last_read, heard)
        match event:
            case "t":
                rules.probe_taken(now)
            case "f":
                rules.probe_failed(now)
            case "s":
                rules.started(now, heard)
        assert 0.2 <= rules.next_check(now, last_read, last_read) + 1e-6
        assert rules.next_check(now, last_read, last_read) <= 1.0 + 1e-6
