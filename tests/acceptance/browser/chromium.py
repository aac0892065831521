"""A headless Chromium, driven over its DevTools protocol; pages as people use them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.ensure_chromium import find
from tests.helpers import eventually
from tests.servers import _dies_with_us as dies_with_us

START_DEADLINE = 30.0  # seconds

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # where tests run as root there is none, and all pages are our own
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # loopback and nothing else
    "--lang=en-GB",
)


class ProtocolError(Exception):
    """Chromium could not do what it was asked to."""


class ChromiumProcess:
    """The browser's process, with a profile that is gone afterwards."""

    def __init__(self) -> None:
        self.endpoint = ""
        self._profile = tempfile.TemporaryDirectory(prefix="mpx-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ChromiumProcess:
        program = find()
        assert program, "there is no Chromium here; `tox run -e browser` installs it"
        profile = Path(self._profile.name)
        with (profile / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*dies_with_us(), program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
                env={**os.environ, "HOME": str(profile)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        port = profile / "DevToolsActivePort"
        deadline = time.monotonic() + START_DEADLINE
        while not (port.exists() and port.read_text().count("\n") == 1):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"chromium does not start:\n{(profile / 'log').read_text()}")
            time.sleep(0.01)
        number, path = port.read_text().split()
        self.endpoint = f"ws://127.0.0.1:{number}{path}"
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._profile.cleanup()


class Browser:
    """One browser context, without the cookies and the pages of any other."""

    def __init__(self, process: ChromiumProcess) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._targets: set[str] = set()
        self._context = ""
        self._socket: ClientConnection
        self._reading: asyncio.Task[None]

    async def __aenter__(self) -> Browser:
        self._socket = await connect(self._process.endpoint, max_size=None)
        self._reading = asyncio.create_task(self._read())
        self._context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.call("Target.disposeBrowserContext", browserContextId=self._context)
        self._reading.cancel()
        await asyncio.wait([self._reading])
        await self._socket.close()

    @property
    def pages(self) -> list[Page]:
        """All pages that were open."""
        return list(self._pages.values())

    async def open(
        self, url: str, width: int = 1280, height: int = 800, *, is_dark: bool = False
    ) -> Page:
        """Open a page in a window of its own, and return it when it has loaded."""
        made = await self.call(
            "Target.createTarget",
            url="about:blank",
            newWindow=True,
            browserContextId=self._context,
        )
        page = await self._attach(made["targetId"])
        await page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await page.call("Emulation.setEmulatedMedia", features=[scheme])
        await page.call("Page.navigate", url=url)
        await page.loaded(url)
        return page

    async def opened(self) -> Page:
        """Return the page that a click has just opened."""
        page = await self._attach(await eventually(self._find_new_target))
        await page.loaded("")
        return page

    async def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        number = next(self._ids)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        await self._socket.send(
            json.dumps({**message, "sessionId": session} if session else message)
        )
        answer = await asyncio.wait_for(reply, 20)
        if "error" in answer:
            raise ProtocolError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    async def _attach(self, target: str) -> Page:
        self._targets.add(target)
        attached = await self.call("Target.attachToTarget", targetId=target, flatten=True)
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"], target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.call(f"{domain}.enable")
        await page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        return page

    async def _find_new_target(self) -> str | None:
        found = (await self.call("Target.getTargets"))["targetInfos"]
        for target in found:
            is_ours = target.get("browserContextId") == self._context and target["type"] == "page"
            if is_ours and target["targetId"] not in self._targets:
                return str(target["targetId"])
        return None

    async def _read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                self._replies.pop(message["id"]).set_result(message)
            elif message.get("sessionId") in self._pages:
                self._pages[message["sessionId"]].hear(message["method"], message["params"])


class Page:
    """A page in the browser. Selectors are CSS; what is clicked is clicked where people see it.

    Attributes:
        problems: Errors of its scripts, and what its console says about errors.
        addresses: What it has asked for over the network.
    """

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.problems: list[str] = []
        self.addresses: list[str] = []
        self._browser = browser
        self._session = session
        self._target = target

    @property
    def sockets(self) -> int:
        """How many WebSockets it has opened so far."""
        return sum(address.startswith("ws:") for address in self.addresses)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol for this page."""
        return await self._browser.call(method, self._session, **params)

    async def close(self) -> None:
        """Close it, as people close tabs."""
        await self._browser.call("Target.closeTarget", targetId=self._target)

    async def loaded(self, url: str) -> None:
        """Return when the document is there."""
        start = json.dumps(url)
        await self.until(
            f"location.href.startsWith({start}) && location.protocol === 'http:'"
            " && document.readyState === 'complete'"
        )

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    async def until(self, expression: str, timeout: float = 10) -> Any:
        """Return the value of an expression as soon as it is true."""

        async def attempt() -> Any:
            try:
                return await self.evaluate(expression)
            except ProtocolError:  # between two documents there is nowhere to evaluate it
                return None

        try:
            return await eventually(attempt, timeout)
        except AssertionError:
            shown = await self.evaluate("document.body?.innerText")
            raise AssertionError(f"not true: {expression}\nThe page shows:\n{shown}") from None

    async def text(self, selector: str) -> str:
        """Return what people read in an element; nothing if it is hidden or not there."""
        element = f"document.querySelector({selector!r})"
        return str(await self.evaluate(f"{element}?.checkVisibility() ? {element}.innerText : ''"))

    async def shows(self, selector: str, text: str, timeout: float = 10) -> None:
        """Return when an element shows a text."""
        wanted = json.dumps(text)
        await self.until(
            f"document.querySelector({selector!r})?.checkVisibility()"
            f" && document.querySelector({selector!r}).innerText.includes({wanted})",
            timeout,
        )

    async def click(self, selector: str) -> None:
        """Click in the middle of an element, which must not be covered there."""
        place = await self.until(
            f"""(() => {{
                const element = document.querySelector({selector!r});
                element?.scrollIntoView({{block: "center"}});
                const box = element?.getBoundingClientRect();
                if (!box?.width) return null;
                const x = box.x + box.width / 2, y = box.y + box.height / 2;
                return element.contains(document.elementFromPoint(x, y)) ? {{x, y}} : null;
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place
            )

    async def write(self, text: str) -> None:
        """Type a text where the focus is."""
        await self.call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """Press a key: ``Enter``, ``Tab`` or ``Space``."""
        codes = {"Enter": (13, "\r"), "Tab": (9, ""), "Space": (32, " ")}
        code, text = codes[key]
        name = " " if key == "Space" else key
        down = {"key": name, "code": key, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **down)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **down)

    async def tab_to(self, is_there: Callable[[str], bool]) -> str:
        """Press Tab until the focused element's accessible text fits; return that text."""
        passed: list[str] = []
        for _ in range(40):
            await self.press("Tab")
            name = str(
                await self.evaluate(
                    "(e => e.ariaLabel || e.labels?.[0]?.innerText || e.innerText || e.value || '')"
                    "(document.activeElement).trim()"
                )
            )
            if is_there(name):
                return name
            passed.append(name)
        raise AssertionError(f"the Tab key never gets there; it passes {passed}")

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """Take note of an event."""
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(str(params["entry"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(str(params["args"]))
        elif method == "Network.requestWillBeSent":
            self.addresses.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.addresses.append(params["url"])
