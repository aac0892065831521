"""Measures one row for one peer on one event loop, in this fresh interpreter.

``python -m tests.benchmarks.cell ROW PEER LOOP [--url URL] [--quick]`` prints one line of JSON:
the result, or ``{"error": "Type: text"}``. Without a URL it starts its own server.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import traceback
from contextlib import ExitStack

from tests.benchmarks.context import LOOPS, Context, Result, prepare
from tests.benchmarks.rows import ROWS
from tests.benchmarks.server import own_server


def measure(row: str, context: Context) -> Result:
    """Run the measurement, on an event loop where it needs one."""
    prepare(context.loop)
    outcome = ROWS[row].measure(context)
    if not inspect.iscoroutine(outcome):
        return outcome  # type: ignore[return-value]
    return asyncio.run(outcome)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("peer")
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("--url")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        url = options.url or stack.enter_context(own_server()).url
        context = Context(options.peer, url, options.loop, options.quick)
        try:
            outcome: dict[str, float] | dict[str, str] = measure(options.row, context)
        except Exception as error:
            traceback.print_exc()
            outcome = {"error": f"{type(error).__name__}: {error}".rstrip(": ")}
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
