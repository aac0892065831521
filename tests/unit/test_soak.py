"""What the soak judges, and what the page of faults says, cannot be wrong unnoticed."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from tests.soak.conductor import EXPECTED, Outcome
from tests.soak.member import Jobs
from tests.soak.report import judge, show, work

ROOT = Path(__file__).parent.parent.parent


def account(**other: Any) -> dict[str, Any]:
    fine = {"delivered": 9, "in_gaps": 1, "dropped": 0, "opened": 2, "closed": 2}
    fine |= {"gaps": [(100.5, 102.0), (200.0, 201.0)], "holes": {"m0>news": [(1, 3)]}}
    return {**fine, "errors": {}, "is_complete": True, **other}


#: Four messages: the two that are missing were sent in a gap, one of them just before it began, and
#: answered in it; what came before and after was sent outside.
TIMES = {"asked": [99.0, 100.4, 101.0, 103.0], "told": [99.1, 100.6, 101.1, 103.1]}


def fine() -> Outcome:
    """A soak in which all is accounted for."""
    jobs = Jobs()
    for number in (0, 2):
        jobs.handle("m0>work", number)
    result = {
        "accounts": {"groups 0": account(), "news": account(), "slow news": account(delivered=4)},
        "dropped": {"full": 0},
        "slow dropped": 5,
        "reconnections": {"closed": 1},
        "refused": {},
        "jobs": {name: counts.hex() for name, counts in jobs.counts.items()},
        "sent at": [100.0, 101.0, 102.0, 103.0],
        "resources": [(8, 2, 10**7 + 1000 * at) for at in range(20)],
    }
    sent = {
        "m0>work": {"count": 4, "others": {"3": "unknown"}},
        "m0>news": {"count": 4, "others": {}},
    }
    times = {"m0>news": copy.deepcopy(TIMES)}
    return Outcome(7, 60.0, back=[0.1], sent=sent, times=times, results={"m0": result})


def test_soak_that_is_fine_has_no_problems() -> None:
    """One message for workers is missing, and one link was lost."""
    outcome = fine()
    assert judge(outcome) == []
    assert work(outcome) == (1, 0)
    text = "\n".join(show(outcome, []))
    assert "all is accounted for" in text
    assert "| m0 | slow news | 4 | 1 | 5 | 2 |" in text


def spoil(outcome: Outcome, what: str) -> None:
    """Make one thing wrong."""
    result = outcome.results["m0"]
    accounts = result["accounts"]
    match what:
        case "twice":
            accounts["groups 0"]["errors"] = {"again, or out of order": 1}
        case "missing":
            accounts["groups 0"]["dropped"] = 1
        case "not counted":
            result["slow dropped"] = 4
        case "last":
            accounts["news"]["is_complete"] = False
        case "gap":
            accounts["news"]["closed"] = 1
        case "before the gap":
            outcome.times["m0>news"]["told"][1] = 100.45
            accounts["news"]["gaps"] = [(99.0, 102.0)]
        case "after the gap":
            accounts["news"]["gaps"] = [(100.5, 100.9)]
        case "no gap":
            accounts["news"]["gaps"] = []
        case "layer dropped":
            result["dropped"]["full"] = 1
        case "descriptors":
            result["resources"][-4:] = [(12, 2, 10**7)] * 4
        case "threads":
            result["resources"][-4:] = [(8, 4, 10**7)] * 4
        case "memory":
            result["resources"][-4:] = [(8, 2, 10**8)] * 4
        case "worker twice":
            result["jobs"]["m0>work"] = bytes([2, 0, 1]).hex()
        case "worker missing":
            result["jobs"]["m0>work"] = bytes([0, 0, 1]).hex()
        case "slow to come back":
            outcome.back.append(9.0)
        case "complaint":
            outcome.problems.append("m0: Task was destroyed but it is pending!")


@pytest.mark.parametrize(
    "what",
    [
        "twice",
        "missing",
        "not counted",
        "last",
        "gap",
        "before the gap",
        "after the gap",
        "no gap",
        "layer dropped",
        "descriptors",
        "threads",
        "memory",
        "worker twice",
        "worker missing",
        "slow to come back",
        "complaint",
    ],
)
def test_soak_finds_what_is_wrong(what: str) -> None:
    """Each is one problem, and the report ends with it."""
    outcome = copy.deepcopy(fine())
    spoil(outcome, what)
    problems = judge(outcome)
    assert len(problems) == 1
    assert "1 problems" in list(show(outcome, problems))[-1]


def test_message_that_nobody_knows_the_fate_of_is_not_judged() -> None:
    """Its sender lost its link: it may never have come to Redis."""
    outcome = fine()
    outcome.times["m0>news"]["told"][1] = 100.45
    outcome.sent["m0>news"]["others"]["1"] = "unknown"
    assert judge(outcome) == []


def test_soak_tells_of_gaps() -> None:
    """How many, how long, and how many losses lie in them; the slow subscription's are not judged."""
    text = "\n".join(show(fine(), []))
    assert "6 gaps told, median 1.25 s, most 1.50 s; 4 of 4 missing" in text


def test_messages_that_died_with_the_server_are_not_missing() -> None:
    """What waited for a worker when the server was killed went with it."""
    outcome = fine()
    outcome.restarts.append(101.5)
    assert work(outcome) == (0, 0)


@pytest.mark.parametrize(
    ("line", "is_expected"),
    [
        (
            "12:00:00 channels_mpx.multiplexer channels_mpx: Redis connection to 127.0.0.1:1 lost",
            True,
        ),
        (
            "12:00:00 channels_mpx.layer channels_mpx: channel a.b is full (5 messages); dropping",
            True,
        ),
        (
            "12:00:00 channels_mpx.layer channels_mpx: stopped taking messages from worker channel work: lost",
            True,
        ),
        ("12:00:00 asyncio Task was destroyed but it is pending!", False),
        ("Traceback (most recent call last):", False),
    ],
)
def test_soak_knows_what_may_be_logged(line: str, is_expected: bool) -> None:
    """The layer's own records about faults, and nothing else."""
    assert bool(EXPECTED.match(line)) is is_expected


def test_page_of_faults_names_tests_that_exist() -> None:
    """Every test on the page is there."""
    page = (ROOT / "docs" / "explanation" / "faults.md").read_text()
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    defined = set(re.findall(r"def (test_\w+)\(", "\n".join(sources)))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 50
    assert named <= defined


def test_page_of_faults_names_every_test_of_faults() -> None:
    """And every test of a fault is on the page, but for those that add little to another."""
    page = (ROOT / "docs" / "explanation" / "faults.md").read_text()
    folder = ROOT / "tests" / "integration" / "faults"
    sources = [path.read_text() for path in folder.glob("test_*.py")]
    defined = set(re.findall(r"def (test_\w+)\(", "\n".join(sources)))
    assert defined - set(re.findall(r"`(test_\w+)`", page)) == {
        "test_busy_for_too_long_is_an_error_of_its_own",
        "test_clean_shutdown_is_a_gap_like_any_other",
        "test_host_name_is_checked_by_any_version_of_redis_py",
        "test_host_name_is_not_checked_if_one_says_so",
        "test_what_no_server_says_costs_a_link",
    }
