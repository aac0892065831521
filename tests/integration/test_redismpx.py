"""What RedisMPX's README shows runs here, with the import changed and two names set right.

The snippets are in ``redismpx_snippets.md``, word for word.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

import channels_mpx
from channels_mpx import PromiseInterrupted
from tests.helpers import eventually
from tests.layers import ROOT, clients, environment, kill_clients
from tests.servers import RedisServer, free_port
from tests.sites import RedisSite, subscribers

SNIPPETS = Path(__file__).with_name("redismpx_snippets.md")
EXAMPLE = ROOT / "docs" / "examples" / "starlette_chat.py"


def snippet(name: str) -> str:
    """Return a snippet as it stands in the README."""
    found = re.search(rf"^## {name}\n\n```python\n(.*?)```", SNIPPETS.read_text(), re.M | re.S)
    assert found is not None, name
    return found[1]


def changed(code: str, url: str) -> str:
    """Return a snippet with what whoever switches has to change, and the tests' server.

    RedisMPX itself has no ``new_channel_subcription``: two names are misspelt in its README. Its
    ``except`` clauses have comments for bodies, which Python does not take.
    """
    for old, new in [
        ("from redismpx import", "from channels_mpx import"),
        ("redismpx.", "channels_mpx."),
        ("new_channel_subcription", "new_channel_subscription"),
        ("new_pattern_subcription", "new_pattern_subscription"),
        ("redis://localhost", url),
    ]:
        code = code.replace(old, new)
    return re.sub(r"^(except .*:)$", r"\1\n    pass", code, flags=re.M)


async def run(code: str, namespace: dict[str, Any]) -> None:
    """Run code that may await at its top."""
    compiled = compile(code, SNIPPETS.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(compiled, CodeType)
    outcome = eval(compiled, namespace)
    if inspect.isawaitable(outcome):
        await outcome


class WebSocket:
    """The ``websocket`` of the snippet."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, text: str) -> None:
        self.sent.append(text)


class Output:
    """What has been printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def has(self, text: str) -> bool:
        """Tell whether ``text`` has been printed; what stands before it is forgotten then."""
        self._text += self._capsys.readouterr().out
        _, found, rest = self._text.partition(text)
        self._text = rest if found else self._text
        return bool(found)


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    return Output(capsys)


@pytest.fixture
async def usage(redis_server: RedisServer) -> AsyncIterator[dict[str, Any]]:
    """The names that the snippet "Usage" leaves, for those after it."""
    namespace = {"websocket": WebSocket(), "asyncio": asyncio, "channels_mpx": channels_mpx}
    await run(changed(snippet("Usage"), redis_server.url), namespace)
    yield namespace
    await namespace["mpx"].aclose()


def active(server: RedisServer) -> tuple[set[str], int]:
    """Return what is subscribed on the server: channels, and how many patterns."""
    return set(server.command("PUBSUB", "CHANNELS")), server.command("PUBSUB", "NUMPAT")


async def test_usage(redis_server: RedisServer, usage: dict[str, Any], output: Output) -> None:
    """All three kinds of subscriptions, callbacks async and not, and those that are None."""
    usage["channel_sub"].add("news")
    # The pattern "hello-*" and the prefix "hello-" are one in Redis.
    await eventually(lambda: active(redis_server) == ({"news"}, 1))
    await eventually(lambda: output.has("activated: b'hello-*'\n"))
    assert redis_server.command("PUBLISH", "hello-world", "1") == 1
    assert redis_server.command("PUBLISH", "news", "2") == 1
    sent = usage["websocket"].sent
    await eventually(lambda: sent == ["ch: b'hello-world' msg: b'1'", "ch: b'news' msg: b'2'"])
    await usage["promise_sub"].wait_for_activation()
    kill_clients(redis_server)
    await usage["promise_sub"].wait_for_activation()
    for text in ("oh no!\n", "activated: b'hello-*'\n"):
        await eventually(lambda text=text: output.has(text))  # type: ignore[misc]


def test_usage_at_the_top_of_a_module(redis_server: RedisServer, output: Output) -> None:
    """Where the README has it, no event loop runs; callbacks are called in the background."""
    namespace: dict[str, Any] = {"websocket": WebSocket()}
    exec(changed(snippet("Usage"), redis_server.url), namespace)
    asyncio.run(eventually(lambda: output.has("activated: b'hello-*'\n")))
    assert namespace["mpx"].sync.publish("hello-world", "1") == 1
    sent = namespace["websocket"].sent
    asyncio.run(eventually(lambda: sent == ["ch: b'hello-world' msg: b'1'"]))
    namespace["mpx"].close()


async def test_channel_subscription(
    redis_server: RedisServer, usage: dict[str, Any], output: Output
) -> None:
    """It ends with its close(), so the steps before it are taken one by one."""
    code = changed(snippet("ChannelSubscription"), redis_server.url)
    create, add, remove, close = re.split(r"\n\n(?=# (?:Add|Remove|Close))", code)
    await run(create, usage)
    await run(add, usage)
    for name in ("chan1", "chan2", "chan3"):
        await eventually(lambda name=name: output.has(f"Subscription now active: b'{name}'\n"))  # type: ignore[misc]
    await run(remove, usage)
    await eventually(lambda: active(redis_server)[0] == {"chan1", "chan3"})
    assert redis_server.command("PUBLISH", "chan2", "no") == 0
    assert redis_server.command("PUBLISH", "chan1", "yes") == 1
    await eventually(lambda: output.has("Message @ b'chan1': b'yes'\n"))
    kill_clients(redis_server)
    await eventually(
        lambda: output.has("Network Error: <class 'channels_mpx.exceptions.ConnectionInterrupted'>")
    )
    await run(close, usage)
    await eventually(lambda: active(redis_server)[0] == set())


async def test_channel_subscription_in_one_go(
    redis_server: RedisServer, usage: dict[str, Any]
) -> None:
    """Added, removed and closed before Redis has confirmed anything: nothing is left."""
    await run(changed(snippet("ChannelSubscription"), redis_server.url), usage)
    assert usage["channel_sub"].closed
    await usage["promise_sub"].wait_for_activation()
    await eventually(lambda: active(redis_server) == (set(), 1))


async def test_pattern_subscription(
    redis_server: RedisServer, usage: dict[str, Any], output: Output
) -> None:
    """Created, told, closed."""
    code = changed(snippet("PatternSubscription"), redis_server.url)
    create, close = re.split(r"\n\n(?=# PatternSubscriptions)", code)
    await usage["promise_sub"].wait_for_activation()
    before = active(redis_server)[1]
    await run(create, usage)
    await eventually(lambda: output.has("Subscription now active: b'notifications:*'\n"))
    assert redis_server.command("PUBLISH", "notifications:mail", "1") == 1
    await eventually(lambda: output.has("Message @ b'notifications:mail': b'1'\n"))
    assert active(redis_server)[1] == before + 1
    await run(close, usage)
    await eventually(lambda: active(redis_server)[1] == before)


async def test_promise_subscription(
    redis_server: RedisServer, usage: dict[str, Any], output: Output
) -> None:
    """Both promises are for one name, and one message, as from redis-cli, keeps both."""
    running = asyncio.create_task(
        run(changed(snippet("PromiseSubscription"), redis_server.url), usage)
    )
    await eventually(lambda: usage["promise_sub"].outstanding == 2)
    redis_server.command("PUBLISH", "hello-world", "your-promise-payload")
    await asyncio.wait_for(running, 10)
    assert output.has("b'your-promise-payload'\n")
    assert usage["promise_sub"].closed


async def test_promise_subscription_timed_out(
    redis_server: RedisServer, usage: dict[str, Any], output: Output
) -> None:
    """The snippet's ``except asyncio.TimeoutError`` means what it says."""
    code = changed(snippet("PromiseSubscription"), redis_server.url)
    await asyncio.wait_for(run(code.replace('"world", 10', '"world", 0.05'), usage), 10)
    assert not output.has("payload")
    assert usage["promise_sub"].closed


async def test_promise_subscription_interrupted(
    redis_server: RedisServer, usage: dict[str, Any]
) -> None:
    """The one difference: a lost link is no CancelledError, which would mean this very task."""
    running = asyncio.create_task(
        run(changed(snippet("PromiseSubscription"), redis_server.url), usage)
    )
    await eventually(lambda: usage["promise_sub"].outstanding == 2)
    kill_clients(redis_server)
    with pytest.raises(PromiseInterrupted, match="Redis closed the connection"):
        await asyncio.wait_for(running, 10)


# The WebSocket example


@contextlib.asynccontextmanager
async def served(url: str) -> AsyncIterator[Callable[[], connect]]:
    """Serve the example of the documentation with uvicorn; yield what opens a websocket."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--port", str(port), f"{EXAMPLE.stem}:app"],
        cwd=EXAMPLE.parent,
        env=environment(REDIS_URL=url, PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    async def is_up() -> bool:
        assert process.poll() is None, process.communicate()
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()
            return True
        return False

    try:
        await eventually(is_up, timeout=30)
        yield lambda: connect(f"ws://127.0.0.1:{port}/ws")
    finally:
        process.terminate()
        output, errors = await asyncio.to_thread(process.communicate, timeout=20)
        assert b"Traceback" not in errors, errors.decode()
        assert process.returncode in (0, -15), errors.decode()
        assert b"Network Error" not in output


async def hear(ws: ClientConnection) -> str:
    text = await asyncio.wait_for(ws.recv(), 10)
    assert isinstance(text, str)
    return text


@pytest.mark.skipif(os.name == "nt", reason="uvicorn is ended by a signal")
async def test_websocket_example(redis_server: RedisServer) -> None:
    """Two clients chat, in one process and in two, and leave nothing behind."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    site = RedisSite(redis_server)
    async with served(redis_server.url) as here, served(redis_server.url) as there:
        async with here() as ada, here() as bob, there() as eve:
            for person in (ada, bob, eve):
                for _ in range(3):
                    assert (await hear(person)).startswith("# ")
                await person.send("+hello")
            await eventually(lambda: subscribers(site, b"hello") == 2)
            # A client of the same process may be active a moment later than the first one.
            await ada.send("!hello")
            await ada.send("hello world!")
            for person in (ada, eve):
                assert await hear(person) == "ch: [hello] msg: [hello world!]\n"
            await bob.send("-hello")
            await bob.send("+bob")
            await eventually(lambda: subscribers(site, b"bob") == 1)
            await eve.send("!hello")
            await eve.send("without bob")
            for person in (ada, eve):
                assert await hear(person) == "ch: [hello] msg: [without bob]\n"
            await eve.send("!bob")
            await eve.send("psst")
            heard = await hear(bob)
            if heard == "ch: [hello] msg: [hello world!]\n":
                heard = await hear(bob)
            assert heard == "ch: [bob] msg: [psst]\n"
            for nonsense in ("", "?", "+", "hello"):
                await ada.send(nonsense)
            await ada.send("!hello")
            await ada.send("still here")
            for person in (ada, eve):
                assert await hear(person) == "ch: [hello] msg: [still here]\n"
        await eventually(lambda: active(redis_server) == (set(), 0))
        names = {row["name"].rpartition(":")[0] for row in clients(redis_server)}
        assert names == {"channels_mpx:python"}
        assert len(clients(redis_server)) == 2
    await eventually(lambda: clients(redis_server) == [])
