"""Runs the benchmark and prints its tables: ``python -m tests.benchmarks [options]``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.context import LOOPS
from tests.benchmarks.machine import describe
from tests.benchmarks.report import Key, Outcome, as_json, judge, markdown, summarise
from tests.benchmarks.rows import ROWS
from tests.benchmarks.server import ServerView, own_server

ROOT = Path(__file__).resolve().parents[2]


def run_cell(key: Key, url: str, quick: bool, limit: float) -> Outcome:
    """Measure one cell in a fresh interpreter.

    Returns:
        What the cell printed, or an error when it printed nothing or took longer than ``limit``
        seconds; then it is killed with what it started.
    """
    command = [sys.executable, "-m", "tests.benchmarks.cell", *key, "--url", url]
    process = subprocess.Popen(
        command + ["--quick"] * quick,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"Timeout: no result within {limit:g} s"}
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    try:
        outcome = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        last = (errors.strip().splitlines() or ["no output"])[-1]
        return {"error": f"exit code {process.returncode}: {last}"}
    return dict(outcome)


def turns(options: argparse.Namespace) -> Iterator[Key]:
    """Yield the cells in the order in which they run: the peers of a row take turns."""
    for name in options.rows:
        peers = [peer for peer in ROWS[name].peers if peer in options.peers]
        for turn in range(options.repeat):
            start = turn % len(peers) if peers else 0
            for peer in peers[start:] + peers[:start]:
                for loop in options.loop:
                    if loop in ROWS[name].loops:
                        yield name, peer, loop


def measure_all(options: argparse.Namespace) -> tuple[dict[Key, Outcome], str]:
    """Run all cells on one server of our own.

    Returns:
        The summaries, and the server's version.
    """
    runs: dict[Key, list[Outcome]] = {}
    plan = list(turns(options))
    started = time.monotonic()
    with own_server() as server, ServerView(server.url) as view:
        version = view.version()
        for position, key in enumerate(plan, 1):
            view.flush()
            outcome = run_cell(key, server.url, options.quick, options.timeout)
            runs.setdefault(key, []).append(outcome)
            shown = outcome.get("error") or f"{outcome['value']:,.1f} {ROWS[key[0]].unit}"
            elapsed = time.monotonic() - started
            print(f"[{position}/{len(plan)} {elapsed:.0f}s] {' '.join(key)}: {shown}",
                  file=sys.stderr, flush=True)  # fmt: skip
    cells = {key: summarise(outcomes) for key, outcomes in runs.items()}
    judge(cells)
    return cells, version


def _choice(known: list[str], what: str, text: str) -> list[str]:
    """Split a comma-separated option, and refuse what is not known."""
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise SystemExit(f"unknown {what}: {', '.join(unknown)}; known: {', '.join(known)}")
    return chosen


def arguments() -> argparse.Namespace:
    """Read the command line."""
    peers = list(dict.fromkeys(peer for row in ROWS.values() for peer in row.peers))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little work, once: does it run?")
    parser.add_argument("--rows", default=",".join(ROWS), help="default: %(default)s")
    parser.add_argument("--peers", default=",".join(peers), help="default: %(default)s")
    parser.add_argument("--loop", default=",".join(LOOPS), help="default: %(default)s")
    parser.add_argument("--repeat", type=int, help="runs of each cell (3; with --quick 1)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for a cell (60)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to a file")
    options = parser.parse_args()
    options.rows = _choice(list(ROWS), "row", options.rows)
    options.peers = _choice(peers, "peer", options.peers)
    options.loop = _choice(list(LOOPS), "loop", options.loop)
    options.repeat = max(1, options.repeat or (1 if options.quick else 3))
    return options


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    facts = describe()
    cells, facts["redis-server"] = measure_all(options)
    text = markdown(cells, facts, options.repeat)
    print(text, end="")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        data = as_json(cells, facts, options.repeat)
        options.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
