"""The browser, and two processes of the example on one Redis. Run with `tox run -e browser`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.acceptance.example import ExampleProcess
from tests.servers import RedisServer

from .chromium import Browser, ChromiumProcess


@pytest.fixture(scope="session")
def chromium() -> Iterator[ChromiumProcess]:
    """The browser's process, for the whole session. Without Chromium this fails."""
    with ChromiumProcess() as process:
        yield process


@pytest.fixture
async def one(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[ExampleProcess]:
    """A process of the example."""
    async with ExampleProcess(tmp_path / "one", redis_server.url) as process:
        yield process


@pytest.fixture
async def two(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[ExampleProcess]:
    """Another one on the same Redis."""
    async with ExampleProcess(tmp_path / "two", redis_server.url) as process:
        yield process


@pytest.fixture
async def browser(
    chromium: ChromiumProcess, one: ExampleProcess, two: ExampleProcess
) -> AsyncIterator[Browser]:
    """A fresh browser, which ends before the processes do.

    At its end no page may have had problems, or asked for anything elsewhere.
    """
    async with Browser(chromium) as browser:
        yield browser
        assert browser.pages[0].addresses
        for page in browser.pages:
            assert not page.problems
            for address in page.addresses:
                assert re.match(r"(http|ws)://127\.0\.0\.1:\d+/", address), address
