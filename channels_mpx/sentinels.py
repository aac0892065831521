"""Several sentinels asked at once: whose answers count, and what it means that there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["NoMaster", "first_answers"]

#: Seconds that the other sentinels have to contradict the first that has named a master.
GRACE = 0.5


class NoMaster(Exception):
    """No sentinel has named a master; each has its error."""

    def __init__(self, errors: Sequence[BaseException | None]) -> None:
        super().__init__("no sentinel names a master")
        self.errors = [error for error in errors if error is not None]

    @property
    def exceptions(self) -> Sequence[BaseException]:
        """What the sentinels said, as a group of exceptions has it."""
        return self.errors


async def first_answers(
    questions: Sequence[asyncio.Future[Mapping[str, Any]]],
) -> list[Mapping[str, Any]]:
    """Return the answers that come soon after the first one; none if all have failed."""
    left: set[asyncio.Future[Mapping[str, Any]]] = set(questions)
    answers: list[Mapping[str, Any]] = []
    loop = asyncio.get_running_loop()
    until: float | None = None
    while left and (until is None or loop.time() < until):
        patience = None if until is None else until - loop.time()
        done, left = await asyncio.wait(left, timeout=patience, return_when="FIRST_COMPLETED")
        for question in done:
            if question.exception() is None:
                answers.append(question.result())
                until = until or loop.time() + GRACE
    return answers
