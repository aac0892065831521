"""Run a soak and print what it found; exit with 1 if something is not accounted for."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path

from tests.soak.conductor import soak
from tests.soak.report import judge, show


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("minutes", type=float, help="how long faults happen")
    parser.add_argument("--seed", type=int, default=None, help="repeats the choices of a run")
    parser.add_argument("--members", type=int, default=3, help="how many processes; 3 by default")
    parser.add_argument("--logs", type=Path, default=None, help="a directory for members' logs")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    seconds = arguments.minutes * 60
    if arguments.logs is not None:
        arguments.logs.mkdir(parents=True, exist_ok=True)
    outcome = asyncio.run(soak(seconds, seed, arguments.members, arguments.logs))
    problems = judge(outcome)
    for line in show(outcome, problems):
        print(line)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
