"""Both parts of the tutorial, followed to the letter, lead where they say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Origin

from tests.helpers import eventually
from tests.installed import write_metadata
from tests.layers import environment
from tests.pages import DOCS, EXAMPLES, ROOT, blocks
from tests.servers import RedisServer, free_port

TUTORIAL = DOCS / "tutorial" / "first-chat.md"
SECOND_TUTORIAL = DOCS / "tutorial" / "payment-page.md"

#: A block of commands, or a file and where the reader puts it.
STEP = re.compile(
    r"^```(?:sh\n(?P<commands>.*?)|\{literalinclude\} (?P<source>\S+)\n[^`]*?"
    r"^:caption: (?P<target>\S+)\n.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


# The tutorial


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The tutorial's project, as its reader has it before Redis goes away."""
    return made_by(TUTORIAL, tmp_path, until="## When Redis goes away")


@pytest.fixture
def finished_project(tmp_path: Path) -> Path:
    """The tutorial's project, as its reader has it in the end."""
    return made_by(TUTORIAL, tmp_path)


def made_by(tutorial: Path, directory: Path, until: str = "\0") -> Path:
    """Do in a directory what a tutorial says: its commands, and the files that it shows.

    Only what makes files is run: what installs packages or serves pages is not. Return where
    the reader is then.
    """
    page = tutorial.read_text().partition(until)[0]
    for match in STEP.finditer(page):
        for line in (match["commands"] or "").splitlines():
            words = shlex.split(line)
            if words[0] == "cd":
                directory /= words[1]
            elif words[0] == "django-admin":
                words = [sys.executable, "-m", "django", *words[1:]]
                subprocess.run(words, cwd=directory, env=fresh(), check=True)
            elif words[0] in ("mkdir", "touch"):
                subprocess.run(words, cwd=directory, check=True)
        if match["source"]:
            shutil.copyfile(tutorial.parent / match["source"], directory / match["target"])
    return directory


def command(beginning: str, tutorial: Path = TUTORIAL) -> list[str]:
    """Return the words of a command that the tutorial shows."""
    (line,) = {
        line
        for block in blocks(tutorial, "sh")
        for line in block.splitlines()
        if line.startswith(beginning)
    }
    return shlex.split(line)


def fresh(**extra: str) -> dict[str, str]:
    """Return the environment of the tutorial's reader, in which no settings are chosen."""
    chosen = environment(**extra)
    chosen.pop("DJANGO_SETTINGS_MODULE", None)
    return chosen


@contextlib.asynccontextmanager
async def served(project: Path, words: list[str], port: int, **env: str) -> AsyncIterator[int]:
    """Run a server of the project until the context ends; yield its port."""
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=project,
        env=fresh(**env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    page = f"http://localhost:{port}/"

    def answers() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        with contextlib.suppress(OSError), urllib.request.urlopen(page, timeout=5) as response:
            return b"WebSocket" in response.read()
        return False

    try:
        await eventually(lambda: asyncio.to_thread(answers), timeout=30)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.to_thread(process.communicate, timeout=10)
        assert b"Traceback" not in errors, errors.decode()


def room(port: int) -> Any:
    """Open the socket of the page on a port."""
    return connect(f"ws://localhost:{port}/ws/", origin=Origin(f"http://localhost:{port}"))


async def test_tutorial_runs_in_one_process(project: Path) -> None:
    """With runserver on memory://, one window hears the other."""
    words = command("python manage.py runserver")[1:]
    port = free_port()
    words = [*words, "--noreload", f"localhost:{port}"]
    async with served(project, words, port), room(port) as ada, room(port) as bob:
        await ada.send('{"text": "hello"}')
        for person in (ada, bob):
            assert await asyncio.wait_for(person.recv(), 10) == '{"text": "hello"}'


async def test_tutorial_runs_in_two_processes(
    project: Path, make_redis: Callable[..., RedisServer]
) -> None:
    """With Redis, windows of two processes hear each other and the script."""
    server = make_redis()
    _, _, _, application = command("daphne -p 8001")
    env = {"REDIS_URL": server.url}
    async with contextlib.AsyncExitStack() as stack:
        people = []
        for port in (free_port(), free_port()):
            words = ["-m", "daphne", "-p", str(port), application]
            await stack.enter_async_context(served(project, words, port, **env))
            people.append(await stack.enter_async_context(room(port)))
        await people[0].send('{"text": "hello"}')
        for person in people:
            assert await asyncio.wait_for(person.recv(), 10) == '{"text": "hello"}'

        _, python, *words = command("REDIS_URL=redis://localhost:6379/0 python say.py")
        assert python == "python"
        said = subprocess.run([sys.executable, *words], cwd=project, env=fresh(**env), check=False)
        assert said.returncode == 0
        for person in people:
            assert await asyncio.wait_for(person.recv(), 10) == f'{{"text": "{words[-1]}"}}'
        assert str(server.command("CLIENT", "LIST")).count("channels_mpx:mysite:") == 2


async def test_chat_survives_an_outage(
    finished_project: Path, make_redis: Callable[..., RedisServer]
) -> None:
    """Who speaks while Redis is away is told, and hears the others again afterwards."""
    server = make_redis()
    port = free_port()
    words = [*command("python manage.py runserver")[1:], "--noreload", f"localhost:{port}"]
    async with served(finished_project, words, port, REDIS_URL=server.url), room(port) as ada:
        await ada.send('{"text": "hello"}')
        assert json.loads(await asyncio.wait_for(ada.recv(), 10)) == {"text": "hello"}
        server.stop()
        await ada.send('{"text": "lost"}')
        notice = json.loads(await asyncio.wait_for(ada.recv(), 30))["notice"]
        assert notice.startswith("Perhaps not sent")
        server.start()
        notice = json.loads(await asyncio.wait_for(ada.recv(), 30))["notice"]
        assert "Lines may be missing" in notice
        await ada.send('{"text": "back"}')
        assert json.loads(await asyncio.wait_for(ada.recv(), 10)) == {"text": "back"}


def output_of(project: Path, tmp_path: Path, *words: str) -> str:
    """Run a command of Python in a project whose reader has set nothing; return what it says."""
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    if not list(site.iterdir()):
        write_metadata(site)
    done = subprocess.run(
        [sys.executable, *words],
        cwd=project,
        env=fresh(PYTHONPATH=f"{site}:{ROOT}"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_tests_of_the_tutorial_pass(finished_project: Path, tmp_path: Path) -> None:
    """With the command and the settings of the page, and nothing else."""
    assert "3 passed" in output_of(finished_project, tmp_path, *command("python -m pytest")[1:])


def test_examples_of_tests_run(project: Path, tmp_path: Path) -> None:
    """Those of the page about tests pass beside its settings."""
    shutil.copy(EXAMPLES / "first_chat" / "pytest.ini", project)
    for path in (EXAMPLES / "first_chat").glob("test_*.py"):
        shutil.copy(path, project)
    assert "9 passed" in output_of(project, tmp_path, *command("python -m pytest")[1:])


def test_examples_of_test_cases_run(project: Path, tmp_path: Path) -> None:
    """Under Django's runner."""
    shutil.copy(EXAMPLES / "first_chat" / "test_cases.py", project)
    assert "Ran 2 tests" in output_of(project, tmp_path, "manage.py", "test")


def test_commands_of_the_layer_are_there(project: Path, tmp_path: Path) -> None:
    """``manage.py mpx``, of which other pages speak, is known to the tutorial's project."""
    assert "status" in output_of(project, tmp_path, "manage.py", "mpx", "--help")


# The second part of the tutorial


@pytest.fixture
def second_project(finished_project: Path) -> Path:
    """The project after the second part."""
    return made_by(SECOND_TUTORIAL, finished_project)


def pay_page(port: int) -> Any:
    """Open the socket of the payment page on a port."""
    return connect(f"ws://localhost:{port}/ws/pay/", origin=Origin(f"http://localhost:{port}"))


async def order(page: Any) -> str:
    """Pay; return the number of the order, which waits from now on."""
    await page.send("{}")
    number: str = json.loads(await asyncio.wait_for(page.recv(), 10))["order"]
    return number


async def outcome(page: Any, number: str) -> str:
    """Return what became of an order."""
    heard = json.loads(await asyncio.wait_for(page.recv(), 10))
    assert heard["order"] == number
    return str(heard["outcome"])


async def answer(port: int, number: str, said: str) -> str:
    """Have the bank's page say something; return what it shows then."""
    url, data = f"http://localhost:{port}/bank/{number}/", f"answer={said}".encode()

    assert f'value="{said}"' in await asyncio.to_thread(read, url)
    return await asyncio.to_thread(read, url, data)


def read(url: str, data: bytes | None = None) -> str:
    """Return a page; data is posted."""
    with urllib.request.urlopen(url, data, timeout=5) as response:
        return str(response.read().decode())


async def test_second_tutorial_runs_in_one_process(second_project: Path) -> None:
    """With runserver on memory://, the bank's tab keeps the promise, or comes too late."""
    words = command("python manage.py runserver", SECOND_TUTORIAL)[1:]
    port = free_port()
    words = [*words, "--noreload", f"localhost:{port}"]
    async with served(second_project, words, port):
        assert "/ws/pay/" in await asyncio.to_thread(read, f"http://localhost:{port}/pay/")
        async with pay_page(port) as page:
            for said in ("approved", "declined"):
                number = await order(page)
                assert "Told to 1 waiting process." in await answer(port, number, said)
                assert await outcome(page, number) == said
            closed = await order(page)
        await eventually(lambda: says(port, closed, "Told to 0 waiting processes."))


async def says(port: int, number: str, text: str) -> bool:
    """Whether the bank's page shows a text after it has said yes."""
    return text in await answer(port, number, "approved")


async def test_second_tutorial_runs_in_two_processes(
    second_project: Path, make_redis: Callable[..., RedisServer]
) -> None:
    """With Redis, the bank may be in another process, or a shell; a lost connection is told."""
    server = make_redis()
    *_, application = command("daphne -p 8001", SECOND_TUTORIAL)
    env, ports = {"REDIS_URL": server.url}, (free_port(), free_port())
    async with contextlib.AsyncExitStack() as stack:
        for port in ports:
            words = ["-m", "daphne", "-p", str(port), application]
            await stack.enter_async_context(served(second_project, words, port, **env))
        page = await stack.enter_async_context(pay_page(ports[0]))
        number = await order(page)
        assert "Told to 1 waiting process." in await answer(ports[1], number, "approved")
        assert await outcome(page, number) == "approved"

        number = await order(page)
        _, verb, channel, said = command("redis-cli publish", SECOND_TUTORIAL)
        assert server.command(verb, channel.replace("30b17e52", number), said) == 1
        assert await outcome(page, number) == said

        number = await order(page)
        server.command(*command("redis-cli client kill", SECOND_TUTORIAL)[1:])
        assert (await outcome(page, number)).startswith("unknown: ")


def test_examples_of_tests_of_consumers_run(second_project: Path, tmp_path: Path) -> None:
    """Those of the two parts, and of the page about subscriptions."""
    words = command("python -m pytest", SECOND_TUTORIAL)[1:]
    assert "7 passed" in output_of(second_project, tmp_path, *words)
    for name in ("market.py", "test_market.py"):
        shutil.copy(EXAMPLES / name, second_project)
    assert "9 passed" in output_of(second_project, tmp_path, *words)
