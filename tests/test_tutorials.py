"""Both parts of the tutorial, followed to the letter, lead where they say."""

from __future__ import annotations

import asyncio
import contextlib
import json
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


# The tutorial


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The tutorial's project, as its reader has it."""
    return Path(shutil.copytree(EXAMPLES / "first_chat", tmp_path / "first_chat"))


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
    words = command("python -m django runserver")[1:]
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

        _, python, *words = command("REDIS_URL")
        assert python == "python"
        said = subprocess.run([sys.executable, *words], cwd=project, env=fresh(**env), check=False)
        assert said.returncode == 0
        for person in people:
            assert await asyncio.wait_for(person.recv(), 10) == f'{{"text": "{words[-1]}"}}'
        assert str(server.command("CLIENT", "LIST")).count("channels_mpx:mysite:") == 2


@pytest.mark.parametrize(
    "words",
    ["pytest -p no:cacheprovider -o asyncio_mode=auto", "django test --settings mysite.settings"],
    ids=["pytest", "django"],
)
def test_examples_of_tests_run(project: Path, words: str) -> None:
    """Those of the chat pass under pytest, and the test cases under Django's runner."""
    if "django" in words:
        for path in set(project.glob("test_*.py")) - {project / "test_cases.py"}:
            path.unlink()  # they import pytest, or need its fixtures
    write_metadata(project)
    path = f"{project}:{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", *words.split()],
        cwd=project,
        env=environment(DJANGO_SETTINGS_MODULE="mysite.settings", PYTHONPATH=path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The second part of the tutorial


@pytest.fixture
def second_project(project: Path) -> Path:
    """The project after the second part."""
    return Path(shutil.copytree(EXAMPLES / "payment_page", project, dirs_exist_ok=True))


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
    words = command("python -m django runserver", SECOND_TUTORIAL)[1:]
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


def test_examples_of_tests_of_consumers_run(second_project: Path) -> None:
    """Those of the payment page, and of the page about subscriptions."""
    for name in ("market.py", "test_market.py"):
        shutil.copy(EXAMPLES / name, second_project)
    write_metadata(second_project)
    words = "-m pytest -p no:cacheprovider -o asyncio_mode=auto test_pay.py test_market.py"
    done = subprocess.run(
        [sys.executable, *words.split()],
        cwd=second_project,
        env=environment(
            DJANGO_SETTINGS_MODULE="mysite.settings", PYTHONPATH=f"{second_project}:{ROOT}"
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
