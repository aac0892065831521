"""The payment in a browser: how it can end, told in plain words."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.acceptance.example import ExampleProcess
from tests.helpers import eventually
from tests.servers import RedisServer

from .chromium import Browser, Page


async def pay(browser: Browser, process: ExampleProcess, seconds: int = 30) -> tuple[Page, str]:
    """Open the checkout and pay; return the page and the order's number."""
    page = await browser.open(f"{process.url}/payments/")
    await page.shows("#status", "Connected")
    return page, await pay_again(page, seconds)


async def pay_again(page: Page, seconds: int = 30) -> str:
    """Pay on an open page and return the order's number."""
    await page.click(f"input[value='{seconds}']")
    await page.click("#pay button")
    await page.shows("#waiting", "Waiting for the bank")
    return await page.text("#order")


async def test_another_tab_on_another_process_is_the_bank(
    browser: Browser, one: ExampleProcess, two: ExampleProcess
) -> None:
    page, number = await pay(browser, one)
    bank = await browser.open(f"{two.url}/payments/bank/{number}/")
    assert number in await bank.text("main")
    await bank.click("button[value=approved]")
    await bank.shows("main", "You approved it")
    await page.shows("#outcome", "Paid")
    await page.click("#again")
    await pay_again(page)
    await page.click("#bank")  # the page's own link
    bank = await browser.opened()
    await bank.click("button[value=declined]")
    await bank.shows("main", "You declined it")
    await page.shows("#outcome", "Declined")


async def test_a_plain_publish_keeps_the_promise(
    browser: Browser, one: ExampleProcess, redis_server: RedisServer
) -> None:
    page, number = await pay(browser, one)
    assert await page.text("#command") == f"redis-cli PUBLISH payment.{number} approved"
    redis_server.command("PUBLISH", f"payment.{number}", "approved")
    await page.shows("#outcome", f"Enjoy your tea. Order {number}.")
    await page.click("#again")
    number = await pay_again(page)
    redis_server.command("PUBLISH", f"payment.{number}", "no funds")
    await page.shows("#outcome", "it said “no funds”")


async def test_time_runs_out_where_people_see_it(browser: Browser, one: ExampleProcess) -> None:
    page, _ = await pay(browser, one, seconds=5)
    left: list[int] = []

    async def read_the_clock() -> bool:
        match = re.search(r"(\d) s left", await page.text("#waiting"))
        if match:
            left.append(int(match[1]))
        return match is None

    await eventually(read_the_clock, timeout=15)
    assert left == sorted(left, reverse=True)
    assert len(set(left)) >= 3
    await page.shows("#outcome", "No answer")
    assert "nothing was paid" in await page.text("#outcome")


async def test_a_lost_link_is_an_outcome_of_its_own(
    browser: Browser, one: ExampleProcess, redis_server: RedisServer
) -> None:
    page, _ = await pay(browser, one)
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await page.shows("#outcome", "Not known")
    assert "The link to Redis was lost" in await page.text("#outcome")
    await page.click("#again")
    number = await pay_again(page)
    redis_server.command("PUBLISH", f"payment.{number}", "approved")
    await page.shows("#outcome", "Paid")


async def test_who_leaves_releases_the_handler(
    browser: Browser, one: ExampleProcess, redis_server: RedisServer
) -> None:
    page, number = await pay(browser, one, seconds=120)
    assert redis_server.command("PUBSUB", "NUMPAT") == 1
    await page.close()
    await eventually(_is_released(one, number))
    await eventually(lambda: redis_server.command("PUBSUB", "NUMPAT") == 0)

    page, number = await pay(browser, one, seconds=120)
    await page.click("#give-up")
    await page.shows("#outcome", "Given up")
    await eventually(_is_released(one, number))
    await page.shows("#status", "Connected")  # ready for the next
    await page.click("#again")
    assert await pay_again(page) != number


def _is_released(process: ExampleProcess, number: str) -> Callable[[], bool]:
    return lambda: f"Order {number} is given up" in process.errors


async def test_a_lost_connection_is_shown_in_the_head(
    browser: Browser, one: ExampleProcess, redis_server: RedisServer
) -> None:
    page = await browser.open(f"{one.url}/payments/")
    await page.shows("#status", "Connected")
    await page.evaluate(
        "new MutationObserver(() => (window.seen ??= []).push("
        "document.querySelector('#status').textContent)).observe("
        "document.querySelector('#status'), {childList: true})"
    )
    await pay_again(page)
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await page.shows("#outcome", "Not known")
    await page.shows("#status", "Connected")
    assert "Redis is away…" in await page.evaluate("window.seen")
