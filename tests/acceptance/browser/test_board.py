"""The live board in a browser: numbers that people can read, and a chart that moves."""

from __future__ import annotations

import json
import re

from tests.acceptance.example import ExampleProcess
from tests.helpers import eventually
from tests.servers import RedisServer

from .chromium import Browser, Page

CPU = "[data-metric=cpu]"


async def curve(page: Page, metric: str) -> str:
    """Return the path of a chart's curve."""
    found = await page.evaluate(
        f"document.querySelector('[data-metric={metric}] .curve').getAttribute('d')"
    )
    return str(found)


async def test_the_script_moves_the_board_of_both_processes(
    browser: Browser, one: ExampleProcess, two: ExampleProcess
) -> None:
    pages = [await browser.open(f"{process.url}/board/") for process in (one, two)]
    for page in pages:
        await page.shows("#status", "Connected")
        assert "Waiting for the first value" in await page.text("#news")
    with one.feed(interval=0.2) as output:
        for page in pages:
            await page.until("document.querySelectorAll('.metric').length === 6")
            await page.shows("#news", "Live: 6 metrics")
            assert re.fullmatch(
                r"[\d,]+ per second", await page.text("[data-metric=requests] .number")
            )
        shown = await pages[1].text("[data-metric=requests] .number b")
        before = await curve(pages[1], "requests")
        await pages[1].until(
            f"document.querySelector('[data-metric=requests] .number b').innerText !== {shown!r}"
        )
        await eventually(lambda: _differs(pages[1], before))
        # What is shown is what the script has published.
        shown = await pages[1].text("[data-metric=memory] .number b")
        published = [json.loads(line)["memory"] for line in output.read_text().splitlines()]
        assert float(shown) in [round(value / 1e9, 2) for value in published]
    for page in pages:
        await page.shows("#news", "Nothing has come for", timeout=15)


async def test_numbers_are_for_people(
    browser: Browser, one: ExampleProcess, redis_server: RedisServer
) -> None:
    page = await browser.open(f"{one.url}/board/")
    await page.shows("#status", "Connected")
    for name, value, text in (
        ("requests", "1234567", "1,234,567 per second"),
        ("memory", "6180000000", "6.18 GB"),
        ("cpu", "7", "7.0 %"),
        ("errors", "0.125", "0.13 % of requests"),
        ("temperature", "-1021.5", "-1,021.5"),
    ):
        redis_server.command("PUBLISH", f"metrics.{name}", value)
        await page.shows(f"[data-metric={name}] .number", text)
    redis_server.command("PUBLISH", "metrics.cpu", "much")
    await page.shows("#gaps", "metrics.cpu was no number")
    assert await page.text(f"{CPU} .number b") == "7.0"
    drawing = await page.evaluate(f"document.querySelector('{CPU} svg').ariaLabel")
    assert drawing == "Processor over the last minute, now 7.0 %"


async def test_gaps_are_shown(
    browser: Browser, one: ExampleProcess, redis_server: RedisServer
) -> None:
    page = await browser.open(f"{one.url}/board/")
    await page.shows("#status", "Connected")
    for value in (20, 30):
        redis_server.command("PUBLISH", "metrics.cpu", str(value))
    await page.shows(f"{CPU} .number", "30.0 %")
    await eventually(lambda: _has_pieces(page, 1))
    assert await page.evaluate(f"document.querySelectorAll('{CPU} .gaps rect').length") == 0
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await page.shows("#gaps", "may be missing")
    redis_server.command("PUBLISH", "metrics.cpu", "40")
    await page.shows(f"{CPU} .number", "40.0 %")
    await eventually(lambda: _has_pieces(page, 2))  # the curve does not bridge the gap
    assert await page.evaluate(f"document.querySelectorAll('{CPU} .gaps rect').length") == 1


async def _differs(page: Page, before: str) -> bool:
    return await curve(page, "requests") != before


async def _has_pieces(page: Page, count: int) -> bool:
    return (await curve(page, "cpu")).count("M") == count
