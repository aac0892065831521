"""The example project from outside: its processes, and the sockets of people's pages."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

from tests.helpers import eventually
from tests.servers import _dies_with_us as dies_with_us

EXAMPLE = Path(__file__).resolve().parents[2] / "example_project"
COMPLAINTS = re.compile(
    "Traceback|Task was destroyed|never awaited|never retrieved|took too long"
    "|ResourceWarning|RuntimeWarning"
)


class ExampleProcess:
    """One process of the example on a free port; leaving the block ends it and checks how.

    Args:
        directory: where its output goes.
        redis_url: the layer's host.
    """

    def __init__(self, directory: Path, redis_url: str = "memory://") -> None:
        self.directory = directory
        self.redis_url = redis_url
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> ExampleProcess:
        self.directory.mkdir()
        command = [*dies_with_us(), sys.executable, "-X", "dev", str(EXAMPLE / "start.py")]
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*command, "--port", "0"],
                cwd=self.directory,  # anywhere but the checkout
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            self.url = await eventually(self._find_url, timeout=20)
        except BaseException:
            self._kill()
            sys.stderr.write(f"The example did not start:\n{self.errors}\n")
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: object
    ) -> None:
        assert self._process is not None
        try:
            if error is None:
                self._process.send_signal(signal.SIGTERM)
                status = await asyncio.to_thread(self._process.wait, 5)
                assert status == 0
                assert not COMPLAINTS.search(self.errors), self.errors
            else:
                sys.stderr.write(f"{self.url} wrote:\n{self.errors}\n")
        finally:
            self._kill()

    @property
    def port(self) -> int:
        """Where it listens on the loopback address."""
        return int(self.url.rpartition(":")[2])

    @property
    def banner(self) -> str:
        """What it printed."""
        return self._stdout.read_text()

    @property
    def errors(self) -> str:
        """What it wrote to stderr."""
        return self._stderr.read_text()

    async def fetch(self, path: str) -> tuple[int, str]:
        """Return status and text of a page."""
        return await asyncio.to_thread(_fetch, build_opener(), self.url + path)

    async def post(self, path: str, **fields: str) -> tuple[int, str]:
        """Fill in the form of a page, as a browser does; return status and text of the answer."""
        return await asyncio.to_thread(_post, self.url + path, fields)

    def person(self, room: str) -> Person:
        """Return somebody who opens the chat's page of a room here."""
        return Person(self.url, f"/ws/chat/{quote(room)}/")

    def page(self, name: str) -> Page:
        """Return the socket of the page of this name here."""
        return Page(self.url, f"/ws/{name}/")

    async def run(
        self, *command: str, timeout: float = 40, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the example in a process of its own, with the same settings."""
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-X", "dev", str(EXAMPLE / command[0]), *command[1:]],
            cwd=self.directory,
            env={**self._environment(), **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    async def announce(self, room: str, text: str) -> subprocess.CompletedProcess[str]:
        """Run the management command."""
        return await self.run("manage.py", "announce", room, text)

    @contextlib.contextmanager
    def feed(self, interval: float = 0.1) -> Iterator[Path]:
        """Run the script that feeds the board; give the file that it writes its readings to."""
        output = self.directory / "feed"
        command = [*dies_with_us(), sys.executable, "-X", "dev", str(EXAMPLE / "feed.py")]
        with output.open("wb") as stdout:
            process = subprocess.Popen(
                [*command, "--interval", str(interval)],
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                start_new_session=True,
            )
        try:
            yield output
        finally:
            process.kill()
            process.wait()

    @property
    def _stdout(self) -> Path:
        return self.directory / "stdout"

    @property
    def _stderr(self) -> Path:
        return self.directory / "stderr"

    def _environment(self) -> dict[str, str]:
        settings = {"DJANGO_SETTINGS_MODULE": "config.settings", "REDIS_URL": self.redis_url}
        return {**os.environ, **settings}

    def _find_url(self) -> str | None:
        assert self._process is not None
        assert self._process.poll() is None, "the example has ended"
        match = re.search(r"^Pages: +(\S+)/$", self.banner, re.MULTILINE)
        return match and match[1]

    def _kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


P = TypeVar("P", bound="Page")


class Page:
    """The WebSocket of a page, used as the page uses it."""

    def __init__(self, url: str, path: str, origin: str | None = None) -> None:
        self.ids = map(str, itertools.count(1))
        self.socket: ClientConnection
        #: What a page only shows in its head comes whenever it comes; rooms and board tell more by it.
        tells_little = path.startswith(("/ws/chat/", "/ws/payments/"))
        self._asides = {"interrupted", "gap"} if tells_little else set()
        address = url.replace("http", "ws", 1) + path
        self._connect = connect(address, origin=Origin(origin or url))

    async def __aenter__(self: P) -> P:
        self.socket = await self._connect
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.close()

    async def send(self, **message: Any) -> str:
        """Send any message, with the next id unless one is given, and return its id."""
        message = {"id": next(self.ids), **message}
        await self.socket.send(json.dumps(message))
        return str(message["id"])

    async def hear(self, kind: str, timeout: float = 10) -> dict[str, Any]:
        """Return the next message, which has to be of this type."""
        message = await self.hear_anything(timeout)
        assert message["type"] == kind, message
        return message

    async def hear_anything(self, timeout: float = 10) -> dict[str, Any]:
        """Return the next message that is no aside."""
        while True:
            message = dict(json.loads(await asyncio.wait_for(self.socket.recv(), timeout)))
            if message["type"] not in self._asides:
                return message

    async def still_open(self) -> bool:
        """Whether the server answers a ping on this socket."""
        await asyncio.wait_for(await self.socket.ping(), 5)
        return True


class Person(Page):
    """Somebody in a room of the chat."""

    async def join(self, typed: str, name: str = "") -> None:
        """Enter, and hear the room say so, by another name than typed if one is given."""
        name = name or typed
        await self.send(type="join", name=typed)
        assert await self.hear("joined") == {"type": "joined", "name": name}
        assert await self.hear("notice") == {"type": "notice", "text": f"{name} joined"}

    async def say(self, text: str) -> str:
        """Say something and return its id."""
        return await self.send(type="say", text=text)

    async def hear_lines(self, count: int) -> list[tuple[str, str]]:
        """Return names and texts of the next messages that people said."""
        lines = [await self.hear("message") for _ in range(count)]
        return [(line["name"], line["text"]) for line in lines]


def _fetch(opener: OpenerDirector, url: str, form: dict[str, str] | None = None) -> tuple[int, str]:
    data = None if form is None else urlencode(form).encode()
    try:
        with opener.open(url, data, timeout=10) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _post(url: str, fields: dict[str, str]) -> tuple[int, str]:
    opener = build_opener(HTTPCookieProcessor())
    _, page = _fetch(opener, url)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    return _fetch(opener, url, {"csrfmiddlewaretoken": token[1] if token else "", **fields})
