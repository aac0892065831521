"""What a soak has found, as text, and whether it is as it should be."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.sequences import Outcome as Told
from tests.soak.conductor import Outcome
from tests.soak.member import WORK, read_outcomes

MEGABYTE = 2**20

#: How far descriptors, threads and memory may be from where they were in the second fifth.
MORE_DESCRIPTORS, MORE_THREADS, MORE_MEMORY = 2, 1, 16 * MEGABYTE

#: Seconds before the death of a server in which what it was given for workers may be lost with it.
DWELL = 2.0

#: Seconds by which one process's clock may be off another's of the same machine: none, but for what
#: a clock is corrected by within a gap, whose length another clock measures.
SKEW = 0.01

#: Seconds until everything must be active again when a fault is over: an attempt to connect that
#: began in the fault may take 2.5 s, a name that was refused rests for 5 s.
BACK = 8.0


def judge(outcome: Outcome) -> list[str]:
    """Return what is not as it should be."""
    problems = list(outcome.problems)
    for member, result in outcome.results.items():
        problems += (f"{member}: {problem}" for problem in _judge_member(result))
    problems += _judge_times(outcome)
    problems += _judge_work(outcome)
    if outcome.back and max(outcome.back) > BACK:
        problems.append(f"everything was active again only after {max(outcome.back):.1f} s")
    return problems


def _judge_member(result: dict[str, Any]) -> Iterator[str]:
    for what, account in result["accounts"].items():
        if account["errors"]:
            yield f"{what}: {dict(account['errors'])}"
        if not account["is_complete"]:
            yield f"{what}: a last message did not come"
        if account["opened"] != account["closed"]:
            yield f"{what}: {account['opened']} gaps were opened, {account['closed']} closed"
        if what != "slow news" and account["dropped"]:
            yield f"{what}: {account['dropped']} messages are missing outside of gaps"
    yield from _judge_drops(result)
    dropped = {reason: count for reason, count in result["dropped"].items() if count}
    if dropped:
        yield f"the layer has dropped {dropped}"
    yield from _judge_resources(result["resources"])


def _judge_times(outcome: Outcome) -> Iterator[str]:
    """Every message that somebody missed was sent in a gap that he was told of."""
    for member, result in outcome.results.items():
        for what in result["accounts"]:
            outside = [away for away in _distances(outcome, member, what) if away > SKEW]
            if outside:
                yield (
                    f"{member}: {what}: {len(outside)} messages are missing that were sent outside "
                    f"of all gaps, up to {max(outside):.2f} s away"
                )


def _distances(outcome: Outcome, member: str, what: str) -> Iterator[float]:
    """Yield how far from the nearest gap each message was sent that is missing; 0 if it is in one.

    It was sent some time between its sender's call and the answer, which says that Redis had it.
    The slow subscription loses others too, and counts them.
    """
    account = outcome.results[member]["accounts"][what]
    if what == "slow news":
        return
    for sender, holes in account["holes"].items():
        told, times = read_outcomes(outcome.sent[sender]), outcome.times[sender]
        for start, end in holes:
            for number in range(start, end):
                if told.get(number) is Told.TAKEN:
                    asked, answered = times["asked"][number], times["told"][number]
                    yield min(
                        (
                            max(0.0, begin - answered, asked - over)
                            for begin, over in account["gaps"]
                        ),
                        default=math.inf,
                    )


def _judge_drops(result: dict[str, Any]) -> Iterator[str]:
    """Judge the slow subscription: what the quick one beside it has heard and it has not, it has
    dropped and counted."""
    slow, quick = (result["accounts"][what]["delivered"] for what in ("slow news", "news"))
    if quick - slow != result["slow dropped"]:
        yield f"slow news: {quick - slow} are missing, {result['slow dropped']} were counted"


def _judge_resources(samples: list[tuple[int, int, int]]) -> Iterator[str]:
    if len(samples) < 5:
        return
    fifth = len(samples) // 5
    limits = (MORE_DESCRIPTORS, MORE_THREADS, MORE_MEMORY)
    for at, what in enumerate(("descriptors", "threads", "bytes of memory")):
        before = statistics.median(sample[at] for sample in samples[fifth : 2 * fifth])
        after = statistics.median(sample[at] for sample in samples[-fifth:])
        if after - before > limits[at]:
            yield f"{before:.0f} {what} have become {after:.0f}"


def _judge_work(outcome: Outcome) -> Iterator[str]:
    """Worker channel: never twice; lost only with the server, or one with each lost link."""
    missing, again = work(outcome)
    if again:
        yield f"{again} messages for workers were handled more than once"
    losses = sum(sum(it["reconnections"].values()) for it in outcome.results.values())
    if missing > losses:
        yield f"{missing} messages for workers are missing, with {losses} lost links"


def work(outcome: Outcome) -> tuple[int, int]:
    """Return how many messages for workers are missing, but for those that died with the server,
    and how many were handled more than once."""
    missing = again = 0
    for member, result in outcome.results.items():
        sender = f"{member}>{WORK}"
        told = read_outcomes(outcome.sent[sender])
        counts: Counter[int] = Counter()
        for other in outcome.results.values():
            counts.update(
                {n: c for n, c in enumerate(bytes.fromhex(other["jobs"].get(sender, ""))) if c}
            )
        again += sum(count > 1 for count in counts.values())
        for number in range(told.count):
            if not counts[number] and told.get(number) is Told.TAKEN:
                sent = result["sent at"][number]
                missing += not any(0 <= death - sent < DWELL for death in outcome.restarts)
    return missing, again


def _show_gaps(outcome: Outcome) -> Iterator[str]:
    """Yield how long the gaps were, and how the losses lie in them."""
    accounts = [(m, what) for m, result in outcome.results.items() for what in result["accounts"]]
    gaps = [
        over - begin
        for member, what in accounts
        for begin, over in outcome.results[member]["accounts"][what]["gaps"]
    ]
    distances = [away for member, what in accounts for away in _distances(outcome, member, what)]
    if gaps:
        yield ""
        yield (
            f"{len(gaps)} gaps told, median {statistics.median(gaps):.2f} s, most {max(gaps):.2f} s; "
            f"{sum(away <= SKEW for away in distances)} of {len(distances)} missing deliveries were "
            "sent in one"
        )


def show(outcome: Outcome, problems: list[str]) -> Iterator[str]:
    """Yield the lines of the report."""
    told = Counter[str]()
    for what in outcome.sent.values():
        outcomes = read_outcomes(what)
        told["sent"] += outcomes.count
        told.update(value.value for value in outcomes.others.values())
    yield ""
    yield f"{outcome.seconds / 60:.1f} minutes, seed {outcome.seed}, {len(outcome.results)} members"
    yield f"{sum(outcome.faults.values())} faults: " + ", ".join(
        f"{count} {name}" for name, count in sorted(outcome.faults.items())
    )
    back = sorted(outcome.back)
    yield (
        f"all active again after a fault: median {statistics.median(back):.2f} s, "
        f"most {back[-1]:.2f} s"
    )
    yield (
        f"{told['sent']} messages sent: {told['unknown']} with an unknown outcome, "
        f"{told['unsent']} not sent, the rest taken by Redis"
    )
    yield ""
    yield "| who | hears | delivered | lost in gaps | dropped and counted | gaps |"
    yield "|---|---|---|---|---|---|"
    for member, result in outcome.results.items():
        for what, it in result["accounts"].items():
            is_slow = what == "slow news"  # it loses to gaps what the quick one does
            lost = result["accounts"]["news"]["in_gaps"] if is_slow else it["in_gaps"]
            counted = result["slow dropped"] if is_slow else it["dropped"]
            yield (
                f"| {member} | {what} | {it['delivered']} | {lost} | {counted} | {it['opened']} |"
            )
    yield from _show_gaps(outcome)
    missing, again = work(outcome)
    yield ""
    yield f"worker channel: {missing} lost with links, {again} handled twice"
    for member, result in outcome.results.items():
        yield f"{member}: links lost: {result['reconnections']}, refused: {result['refused']}"
        samples = result["resources"]
        if samples:
            first, last = samples[len(samples) // 5], samples[-1]
            yield (
                f"    descriptors {first[0]} → {last[0]}, threads {first[1]} → {last[1]}, "
                f"memory {first[2] / MEGABYTE:.1f} → {last[2] / MEGABYTE:.1f} MiB"
            )
    yield ""
    yield from (f"PROBLEM: {problem}" for problem in problems)
    yield "all is accounted for" if not problems else f"{len(problems)} problems"
