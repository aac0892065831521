"""Two people in rooms, each in a browser, on different processes."""

from __future__ import annotations

from tests.acceptance.example import ExampleProcess
from tests.helpers import eventually
from tests.proxy import Proxy
from tests.servers import RedisServer

from .chromium import Browser, Page


async def enter(browser: Browser, url: str, name: str, *rooms: str) -> Page:
    """Open the page, join further rooms than the lobby, and take a name."""
    page = await browser.open(f"{url}/rooms/")
    await page.shows("#joined", "active")
    for room in rooms:
        await page.click("#room")
        await page.write(room)
        await page.press("Enter")
    await page.until(
        f"document.querySelectorAll('.chip[data-state=active]').length === {len(rooms) + 1}"
    )
    await page.evaluate("document.querySelector('#name').select()")
    await page.write(name)
    return page


async def say(page: Page, room: str, text: str) -> None:
    """Choose a room and write into it."""
    await page.evaluate(f"document.querySelector('#target').value = {room!r}")
    await page.click("#text")
    await page.write(text)
    await page.press("Enter")


async def test_people_on_two_processes_and_a_program(
    browser: Browser, one: ExampleProcess, two: ExampleProcess, redis_server: RedisServer
) -> None:
    ada = await enter(browser, one.url, "Ada", "tea")
    bob = await enter(browser, two.url, "Bob", "tea", "ducks")
    await say(ada, "tea", "hello <b>&amp;</b> ☕")
    for page in (ada, bob):
        await page.shows("#lines", "Ada hello <b>&amp;</b> ☕")
        assert await page.text("#lines li .tag") == "tea"
    await say(bob, "lobby", "good morning")
    await ada.shows("#lines", "Bob good morning")

    redis_server.command("PUBLISH", "room.tea", "backup: done")
    for page in (ada, bob):
        await page.shows("#lines", "backup done")

    await bob.click("button[aria-label='Leave tea']")
    await bob.until("document.querySelectorAll('.chip').length === 2")
    assert "tea" not in await bob.text("#target")
    redis_server.command("PUBLISH", "room.tea", "not for Bob")
    redis_server.command("PUBLISH", "room.ducks", "for Bob")
    await bob.shows("#lines", "for Bob")
    assert "not for Bob" not in await bob.text("#lines")
    await ada.shows("#lines", "not for Bob")


async def test_a_lost_link_is_shown(
    browser: Browser, one: ExampleProcess, redis_server: RedisServer
) -> None:
    page = await enter(browser, one.url, "Ada")
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await page.shows("#lines", "lines may be missing here")
    await page.shows("#status", "Connected")
    await page.shows("#joined", "active")
    await say(page, "lobby", "back again")
    await page.shows("#lines", "Ada back again")


async def test_a_page_that_loses_its_socket_enters_its_rooms_again(
    browser: Browser, one: ExampleProcess, redis_server: RedisServer
) -> None:
    async with Proxy("127.0.0.1", one.port) as network:
        page = await enter(browser, f"http://127.0.0.1:{network.port}", "Ada", "tea")
        redis_server.command("PUBLISH", "room.tea", "before")
        await page.shows("#lines", "before")
        assert page.sockets == 1
        network.close()
        await eventually(lambda: page.sockets == 2)
        await page.until("document.querySelectorAll('.chip[data-state=active]').length === 2")
        redis_server.command("PUBLISH", "room.tea", "after")
        await page.shows("#lines", "after")


async def test_mistakes_are_explained(browser: Browser, one: ExampleProcess) -> None:
    page = await enter(browser, one.url, "Ada", *(f"room-{number}" for number in range(9)))
    await page.click("#room")
    await page.write("one-more")
    await page.press("Enter")
    await page.shows("#problem", "leave one first")
    assert await page.evaluate("document.querySelectorAll('.chip').length") == 10
    await page.evaluate("document.querySelector('#name').value = ' '")
    await say(page, "lobby", "who am I?")
    await page.shows("#problem", "Your name has 1 to 24 characters.")
    assert await page.evaluate("document.querySelector('#text').value") == "who am I?"


async def test_an_error_of_an_outage_ends_with_it(
    browser: Browser, one: ExampleProcess, redis_server: RedisServer
) -> None:
    page = await enter(browser, one.url, "Ada")
    await page.evaluate("document.querySelector('#problem').textContent = 'Not done'")
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await page.shows("#lines", "lines may be missing here")
    assert not await page.text("#problem")


async def test_a_long_name_stays_in_its_panel(browser: Browser, one: ExampleProcess) -> None:
    page = await enter(browser, one.url, "Ada", "a" * 40)
    side = "document.querySelector('.side')"
    assert await page.evaluate(f"{side}.scrollWidth <= {side}.clientWidth")
