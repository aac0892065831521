"""Holds the process that sends: how much it may send, and what it says when it fails."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.benchmarks.apps import GROUP
from tests.benchmarks.context import Context, Result
from tests.benchmarks.processes import command, ended

AHEAD = 40
"""Messages that are under way in a flood: receivers always have work, and none piles up."""
STEP = 8
"""Messages that the sender is allowed at a time, as the receivers proceed."""


class Feed:
    """The sending process; a context manager that ends it.

    In a flood it is told to send again whenever the receivers have got on by `STEP` messages, so
    that a fast layer has as little waiting as a slow one, and every peer gets the same time.

    Args:
        context: The cell's circumstances.
        receivers: How many get each message.
        stamped: Whether messages carry the time.

    Attributes:
        sent: Messages that it was told to send.
        mark: Deliveries at which `follow` has something to do.

    Raises:
        RuntimeError: It does not start, or has ended.
    """

    def __init__(self, context: Context, receivers: int, stamped: bool = False) -> None:
        self._receivers = receivers
        self.sent = 0
        self.mark = 0
        options = ["--stamped"] * stamped
        self._process = subprocess.Popen(
            command("feeder", context.peer, context.loop, context.url, GROUP, *options),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise self._failure()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    @property
    def expected(self) -> int:
        """Deliveries that all messages make together."""
        return self.sent * self._receivers

    def allow(self, count: int) -> None:
        """Have it send so many more messages."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"%d\n" % count)
        except BrokenPipeError:
            raise self._failure() from None
        self.sent += count

    def open(self) -> None:
        """Begin a flood."""
        self.mark = STEP * self._receivers
        self.allow(AHEAD)

    def follow(self, delivered: int) -> None:
        """Have it send more, if the receivers have reached the mark.

        Args:
            delivered: Deliveries since the flood began.
        """
        while delivered >= self.mark:
            self.mark += STEP * self._receivers
            self.allow(STEP)

    def stop(self) -> None:
        """Allow nothing more."""
        self.mark = sys.maxsize

    def finish(self) -> None:
        """Wait until it has ended; it has sent everything then.

        Raises:
            RuntimeError: It failed.
        """
        self._process.communicate(timeout=30)
        if self._process.returncode:
            raise self._failure()

    def _failure(self) -> RuntimeError:
        _, errors = self._process.communicate(timeout=30)
        return ended("sending", errors)


class Watch:
    """Reads how far the receivers are, at the beginning and at the end of the measured time."""

    def __init__(self) -> None:
        self._readings: list[tuple[float, int]] = []

    def read(self, delivered: int) -> None:
        """Note the deliveries so far."""
        self._readings.append((time.perf_counter(), delivered))

    def result(self, delivered: int, expected: int) -> Result:
        """Return deliveries per second between the first and the last reading.

        Args:
            delivered: Deliveries when nothing more came.
            expected: How many there should have been by then.

        Raises:
            RuntimeError: There were too many.
        """
        if delivered > expected:
            raise RuntimeError(f"{delivered} deliveries of {expected}")
        (started, before), (ended, after) = self._readings
        return {
            "value": (after - before) / (ended - started),
            "deliveries": after - before,
            "dropped": expected - delivered,
        }
