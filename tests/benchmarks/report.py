"""From measured cells to tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks.rows import LABELS, ROWS, Row, ratio

Outcome = dict[str, Any]
"""One run of a cell: a result, or an error."""
Key = tuple[str, str, str]
"""Row, peer, loop."""

COUNTS = ("sends", "deliveries", "messages", "server's cores", "clients' cores")
"""Told in the JSON file only: they say how much was done."""
LOSSES = ("dropped", "left at the end of the window")
"""Told only when there were any."""

HEADER = "| work | peer | measured | ratio | budget | also |\n|---|---|---:|---:|---|---|"


def summarise(runs: Sequence[Outcome]) -> Outcome:
    """Merge the repetitions of one cell: medians, spread, and the errors."""
    good = [run for run in runs if "error" not in run]
    errors = [str(run["error"]) for run in runs if "error" in run]
    summary: Outcome = {"runs": len(runs), "errors": errors}
    if not good:
        return summary
    values = [run["value"] for run in good]
    summary["value"] = statistics.median(values)
    summary["lowest"], summary["highest"] = min(values), max(values)
    names = [name for name in good[0] if name != "value"]
    summary["also"] = {name: statistics.median(run[name] for run in good) for name in names}
    return summary


def judge(cells: Mapping[Key, Outcome]) -> None:
    """Add ``ratio``, ``budget`` and ``met`` to the summaries, where they can be told.

    A budget is met when no repetition failed, nothing was dropped, and the ratio suffices.
    """
    for (name, peer, loop), summary in cells.items():
        row = ROWS[name]
        base = cells.get((name, row.baseline, loop), {}).get("value")
        if base is not None and "value" in summary:
            summary["ratio"] = ratio(row, summary["value"], base)
        if peer in row.budgets:
            summary["budget"] = row.budgets[peer]
            if base is not None:
                clean = not summary["errors"] and not summary.get("also", {}).get("dropped")
                summary["met"] = clean and summary.get("ratio", 0.0) >= row.budgets[peer]


def number(value: float) -> str:
    """Write a number with three significant digits or more."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    if digits == 0:
        step = 10 ** max(0, math.floor(math.log10(abs(value))) - 2)
        return f"{round(value / step) * step:,}" if value >= 100_000 else f"{value:,.0f}"
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".")


def _also(summary: Outcome) -> str:
    shown = [
        f"{number(value)} {name}"
        for name, value in summary.get("also", {}).items()
        if name not in COUNTS and (value or name not in LOSSES)
    ]
    if "value" in summary and summary["errors"]:
        failed = f"{len(summary['errors'])} of {summary['runs']} failed: {summary['errors'][0]}"
        shown.append(_cell(failed))
    return ", ".join(shown)


def _cell(text: str) -> str:
    """Make a text fit into one cell of a Markdown table."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= 120 else line[:117] + "…"


def _line(row: Row, peer: str, summary: Outcome, first: bool) -> str:
    if "value" in summary:
        measured = f"{number(summary['value'])} {row.unit}"
    else:
        measured = "failed: " + _cell(summary["errors"][0])
    times = f"{summary['ratio']:.2f} ×" if "ratio" in summary else "–"
    budget = ""
    if "budget" in summary:
        verdict = {True: "met", False: "**not met**", None: "not compared"}[summary.get("met")]
        budget = f"≥ {summary['budget']:g} ×: {verdict}"
    title = row.title if first else ""
    cells = (title, LABELS.get(peer, peer), measured, times, budget, _also(summary))
    return "| " + " | ".join(cells) + " |"


def table(cells: Mapping[Key, Outcome], loop: str) -> str:
    """Write one loop's table."""
    lines = [HEADER]
    for name, row in ROWS.items():
        present = [peer for peer in row.peers if (name, peer, loop) in cells]
        for position, peer in enumerate(present):
            lines.append(_line(row, peer, cells[name, peer, loop], position == 0))
    return "\n".join(lines)


def markdown(cells: Mapping[Key, Outcome], facts: Mapping[str, str], repeat: int) -> str:
    """Write the whole report."""
    parts = ["# Benchmark", ", ".join(f"{name} {value}" for name, value in facts.items()) + "."]
    parts.append(
        f"Medians of {repeat}; each cell in a fresh interpreter, the peers of a row taking turns. "
        "Ratios above 1 are better than `channels_redis.pubsub` (bare receive: than `listen()`)."
    )
    loops = list(dict.fromkeys(loop for _, _, loop in cells))
    parts += [f"## {loop}\n\n{table(cells, loop)}" for loop in loops]
    rows = dict.fromkeys(name for name, _, _ in cells)
    parts.append(
        "## What the rows measure\n\n"
        + "\n".join(f"* {ROWS[name].title}: {ROWS[name].how}." for name in rows)
    )
    return "\n\n".join(parts) + "\n"


def as_json(cells: Mapping[Key, Outcome], facts: Mapping[str, str], repeat: int) -> Outcome:
    """Return the report as data: one entry for each cell."""
    entries = [
        {"row": name, "peer": peer, "loop": loop, "unit": ROWS[name].unit, **summary}
        for (name, peer, loop), summary in cells.items()
    ]
    return {"environment": dict(facts), "repeat": repeat, "cells": entries}
