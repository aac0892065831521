"""Liveness: what is done when, as timelines of a link that is checked as often as it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_mpx.liveness import MOST_STRETCH, PATIENCE, Liveness, Verdict

DEAD, DEAF, PING, PROBE = Verdict.DEAD, Verdict.DEAF, Verdict.PING, Verdict.PROBE
STUCK = Verdict.STUCK

PING_INTERVAL, PING_TIMEOUT, PROBE_INTERVAL = 2.0, 2.5, 10.0

Timeline = list[tuple[float, Verdict]]


class Watch:
    """Checks one link after the other, exactly when `Liveness` wants to be asked.

    A PING leaves at once, and is answered at once unless the server is silent.

    Attributes:
        now: The time.
        last_read: When the last byte came; None if bytes come all the time.
        last_parsed: When the last reply or message was complete; None if every byte completes one.
        heard: How many messages have come; None if they come all the time.
        answers: Whether the server answers a PING; by default as long as bytes come all the time.
        leaves: Whether what is sent leaves.
    """

    def __init__(self) -> None:
        self.rules = Liveness(PING_INTERVAL, PING_TIMEOUT, PROBE_INTERVAL)
        self.now = 0.0
        self.last_read: float | None = None
        self.last_parsed: float | None = None
        self.heard: int | None = 0
        self.answers: bool | None = None
        self.leaves = True
        self._checks = 0
        self.start()

    def start(self) -> None:
        self.rules.started(self.now, self.heard or 0)

    def check(self, later: float = 0.0) -> Verdict:
        """Let the time pass until the next check, and so many seconds more, and check."""
        self.now += self.rules.next_check(self.now, self._read()[0]) + later
        self._checks += 1
        return self.judge()

    def judge(self) -> Verdict:
        """Check now."""
        heard = self._checks if self.heard is None else self.heard
        verdict = self.rules.judge(self.now, *self._read(), heard)
        if verdict is PING and self.leaves:
            self.rules.ping_left(self.now)
        if verdict is PING and self._is_answering:
            self.rules.ping_answered()
        return verdict

    def until(self, end: float, on: dict[Verdict, Callable[[], object]] | None = None) -> Timeline:
        """Check until ``end`` or the verdict; do what is asked for ``on`` a verdict.

        A PING that was answered at once is no news.
        """
        seen: Timeline = []
        while self.now < end:
            verdict = self.check()
            if on and verdict in on:
                on[verdict]()
            if verdict is not Verdict.NOTHING and (verdict is not PING or not self._is_answering):
                seen.append((self.now, verdict))
            if verdict in (DEAD, DEAF, STUCK):
                break
        return seen

    @property
    def _is_answering(self) -> bool:
        answers = self.last_read is None and self.last_parsed is None
        return answers if self.answers is None else self.answers

    def taken(self) -> None:
        self.rules.probe_taken(self.now)

    def failed(self) -> None:
        self.rules.probe_failed(self.now)

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


@pytest.mark.parametrize("heard", [0, None])
def test_ping_goes_out_after_each_interval_whatever_comes(watch: Watch, heard: int | None) -> None:
    """Its answer is the proof of what was read before; messages are none."""
    watch.heard = heard
    times: list[float] = []
    watch.until(8.9, {PING: lambda: times.append(watch.now)})
    assert times == [2.0, 4.0, 6.0, 8.0]


def test_ping_waits_for_the_answer_to_the_last_one(watch: Watch) -> None:
    """However long that takes, as long as something comes."""
    watch.heard, watch.answers = None, False
    assert watch.until(20) == [(2.0, PING)]
    watch.rules.ping_answered()
    assert watch.check() is PING


@pytest.mark.parametrize("at", [2.0, 3.0, 4.4])
@pytest.mark.parametrize("is_complete", [True, False])
def test_any_byte_after_the_ping_puts_the_end_off(
    watch: Watch, at: float, is_complete: bool
) -> None:
    """Part of a reply is a sign of life, and the silence after it is as long as any."""
    watch.last_read = watch.last_parsed = 0.0
    assert watch.until(2.0) == [(2.0, PING)]
    watch.last_read = at
    watch.last_parsed = at if is_complete else 0.0
    assert watch.until(100) == [(at + PING_TIMEOUT, DEAD)]


def test_bytes_that_never_become_a_reply_are_a_stuck_link(watch: Watch) -> None:
    """A length that is too large swallows every reply, while bytes come all the time."""
    watch.last_parsed = 0.0
    (_, pinged), (at, verdict) = watch.until(100)
    assert (pinged, verdict) == (PING, STUCK)
    assert at == pytest.approx(2.0 + PING_TIMEOUT * PATIENCE, abs=0.2)


def test_messages_without_any_reply_are_a_stuck_link(watch: Watch) -> None:
    """Only one way of the connection works: who sends would wait for ever."""
    watch.heard, watch.answers = None, False
    (_, pinged), (at, verdict) = watch.until(100)
    assert (pinged, verdict) == (PING, STUCK)
    assert at == pytest.approx(2.0 + PING_TIMEOUT * PATIENCE, abs=0.2)


def test_large_message_that_comes_slowly_is_waited_for(watch: Watch) -> None:
    """It needs one PING, whose answer comes behind it."""
    watch.last_parsed = 0.0
    watch.heard = None
    assert watch.until(20) == [(2.0, PING)]
    watch.last_parsed = None
    watch.rules.ping_answered()
    assert watch.until(60) == []


def test_blocked_loop_does_not_call_a_link_stuck(watch: Watch) -> None:
    """It has had no chance to complete anything meanwhile: those seconds do not count."""
    watch.last_parsed = 0.0
    watch.until(20)
    assert watch.check(later=30) is Verdict.NOTHING
    ((at, verdict),) = watch.until(100)
    assert verdict is STUCK
    assert at == pytest.approx(2.0 + 30 + PING_TIMEOUT * PATIENCE, abs=0.2)


def test_byte_before_the_ping_saves_nothing(watch: Watch) -> None:
    """What came before the PING does not answer it."""
    watch.last_read = 0.0
    watch.until(2.0)
    watch.last_read = 1.9
    assert watch.until(100) == [(4.5, DEAD)]


@pytest.mark.parametrize("late", [0.0, 0.4, 30.0])
def test_ping_that_left_judges_however_late_the_check_comes(watch: Watch, late: float) -> None:
    """The server had the time; the caller looks at the socket, and what it reads saves the link."""
    watch.last_read = 0.0
    watch.until(4.0)
    assert watch.check(later=late) is DEAD
    assert watch.judge() is DEAD
    watch.last_read = watch.now
    assert watch.judge() is Verdict.NOTHING


def test_loop_that_is_blocked_all_the_time_notices_a_dead_server(watch: Watch) -> None:
    """No check comes in time, and the wait does not start anew for ever."""
    watch.last_read = 0.0
    while watch.check(later=1.0) is not DEAD:
        assert watch.now < 10


def test_ping_that_has_not_left_is_not_waited_for_while_the_loop_is_blocked(watch: Watch) -> None:
    """The server cannot answer what it has not got; but it must take it at some time."""
    watch.last_read, watch.leaves = 0.0, False
    assert watch.until(2.0) == [(2.0, PING)]
    assert watch.check(later=30) is Verdict.NOTHING
    ((at, verdict),) = watch.until(100)
    assert verdict is DEAD
    assert at == pytest.approx(2.0 + 30 + PING_TIMEOUT, abs=0.2)


def test_ping_that_leaves_late_is_waited_for_from_then_on(watch: Watch) -> None:
    """Between deciding on it and writing it the loop may be blocked."""
    watch.last_read, watch.leaves = 0.0, False
    assert watch.until(2.0) == [(2.0, PING)]
    watch.now += 8
    watch.rules.ping_left(watch.now)
    assert watch.judge() is Verdict.NOTHING
    assert watch.until(100) == [(pytest.approx(10.0 + PING_TIMEOUT, abs=0.2), DEAD)]


def test_ping_without_room_is_sent_again_when_the_link_lives(watch: Watch) -> None:
    """And if it does not live, it is dead as with any other."""
    watch.answers = False
    assert watch.until(2.0, {PING: watch.rules.ping_refused}) == [(2.0, PING)]
    assert watch.check() is PING
    watch.rules.ping_refused()
    watch.last_read = watch.last_parsed = watch.now - 0.1
    assert watch.until(100) == [(pytest.approx(watch.now), DEAD)]


def test_late_check_pings_all_the_same(watch: Watch) -> None:
    """Asking costs nothing."""
    watch.last_read, watch.heard = 0.0, None
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
    assert watch.until(100) == [(pytest.approx(24.0, abs=0.2), DEAF)]


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
    assert watch.until(40, {PROBE: lambda: None}) == [(pytest.approx(20.5, abs=0.5), PROBE)]


def test_traffic_never_probes(watch: Watch) -> None:
    """Where messages come, nothing has to be proved."""
    watch.heard = None
    assert watch.until(120) == []


def test_nobody_is_deaf_without_the_answer_to_a_later_ping(watch: Watch) -> None:
    """The probe may lie in the socket that the blocked loop has not read; it comes before that answer."""
    watch.until(10, {PROBE: watch.taken})
    watch.answers = False
    assert watch.check(later=30) is PING
    assert DEAF not in [verdict for _, verdict in watch.until(60)]
    watch.rules.ping_answered()
    watch.answers = True
    assert watch.until(100)[-1][1] is DEAF


def test_pending_ping_is_settled_before_any_probe(watch: Watch) -> None:
    """Dead goes before deaf: while a PING is out, no probe is sent."""
    watch.until(9.0)
    watch.last_read = 9.0
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
        st.tuples(st.floats(0, 100), st.booleans(), st.booleans(), st.sampled_from("-tfslar")),
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
            case "l":
                rules.ping_left(now)
            case "a":
                rules.ping_answered()
            case "r":
                rules.ping_refused()
            case "s":
                rules.started(now, heard)
        assert 0.2 <= rules.next_check(now, last_read) + 1e-6
        assert rules.next_check(now, last_read) <= 1.0 + 1e-6
