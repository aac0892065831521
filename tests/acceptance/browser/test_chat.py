"""The chat in a browser while Redis is away."""

from __future__ import annotations

from tests.acceptance.example import ExampleProcess
from tests.servers import RedisServer

from .chromium import Browser


async def test_a_lost_connection_is_shown(
    browser: Browser, one: ExampleProcess, redis_server: RedisServer
) -> None:
    page = await browser.open(f"{one.url}/chat/lobby/?name=Ada")
    await page.shows("#status", "Connected")
    await page.evaluate(
        "new MutationObserver(() => (window.seen ??= []).push("
        "document.querySelector('#status').textContent)).observe("
        "document.querySelector('#status'), {childList: true})"
    )
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await page.shows("#lines", "lines may be missing here")
    await page.shows("#status", "Connected")
    assert "Redis is away…" in await page.evaluate("window.seen")
