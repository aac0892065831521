"""Every page from the home page on: by keyboard, on a phone, in the dark, and with groups."""

from __future__ import annotations

import pytest

from tests.acceptance.example import ExampleProcess

from .chromium import Browser, Page

PAGES = {
    "Chat": "/chat/",
    "Rooms": "/rooms/",
    "Live board": "/board/",
    "Payment": "/payments/",
}
# What text needs to be read: 4.5 to 1, see WCAG 2.2, 1.4.3.
CONTRAST = """
(() => {
  const bytes = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = bytes(colour).map((c) => c / 255)
      .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((bytes(colour)[3] ?? 1) === 1) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!hasText || !element.checkVisibility() || element.disabled) continue;
    const pair = [luminance(getComputedStyle(element).color), luminance(ground(element))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)}: ${element.innerText}`);
  }
  return poor;
})()
"""
UNLABELLED = """
[...document.querySelectorAll("input, select, button, a, progress, svg[role=img]")]
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.ariaLabel || e.labels?.[0]?.innerText || e.innerText?.trim()))
  .map((e) => e.outerHTML)
"""
# What is cut off at the side of the window, or of a part of the page.
TOO_WIDE = """
[document.documentElement, ...document.querySelectorAll("main, section, form, article")]
  .filter((e) => e.scrollWidth > e.clientWidth + 1)
  .map((e) => e.outerHTML.slice(0, 80))
"""


async def check(page: Page) -> None:
    """A page fits its window, all that can be used has a label, and text is readable."""
    assert await page.evaluate(TOO_WIDE) == []
    assert await page.evaluate(UNLABELLED) == []
    assert await page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)], ids=["phone", "desk"])
async def test_every_page_can_be_read(
    browser: Browser, one: ExampleProcess, width: int, height: int, is_dark: bool
) -> None:
    with one.feed(interval=0.2):
        page = await browser.open(f"{one.url}/", width, height, is_dark=is_dark)
        await check(page)
        for path in PAGES.values():
            page = await browser.open(one.url + path, width, height, is_dark=is_dark)
            if path != "/chat/":
                await page.shows("#status", "Connected")
            if path == "/board/":
                await page.until("document.querySelectorAll('.metric').length === 6")
            await check(page)
        await page.click("#pay button")
        await page.shows("#waiting", "left")
        await check(page)


async def test_the_keyboard_is_enough(browser: Browser, one: ExampleProcess) -> None:
    page = await browser.open(f"{one.url}/")
    for title, path in PAGES.items():
        await page.tab_to(lambda name, title=title: name.startswith(title))
        await page.press("Enter")
        await page.loaded(one.url + path)
        await page.evaluate("document.activeElement.blur()")
        await page.tab_to(lambda name: name == "All pages")
        await page.press("Enter")
        await page.until("location.pathname === '/' && document.readyState === 'complete'")

    await page.tab_to(lambda name: name.startswith("Rooms"))
    await page.press("Enter")
    await page.shows("#joined", "active")
    await page.tab_to(lambda name: name == "Line")
    await page.write("by keyboard")
    await page.press("Enter")
    await page.shows("#lines", "Guest by keyboard")
    await page.tab_to(lambda name: name == "Leave lobby")
    await page.press("Space")
    await page.until("document.querySelectorAll('.chip').length === 0")


async def test_the_chat_goes_on_with_groups(
    browser: Browser, one: ExampleProcess, two: ExampleProcess
) -> None:
    ada = await browser.open(f"{one.url}/chat/")
    await ada.write("Ada")
    await ada.press("Enter")
    await ada.shows("#status", "Connected")
    bob = await browser.open(f"{two.url}/chat/lobby/?name=Bob")
    await ada.shows("#lines", "Bob joined")
    for sender, text in ((ada, "hello"), (bob, "good morning")):
        await sender.click("#text")
        await sender.write(text)
        await sender.press("Enter")
        for page in (ada, bob):
            await page.shows("#lines", text)
    assert await ada.text("#outbox") == ""
    await one.announce("lobby", "The tea is ready.")
    await bob.shows("#lines", "The tea is ready.")
