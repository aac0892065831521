"""A process that ends while it is busy, whose loop just ends, and that forks without its hook."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.helpers import eventually
from tests.integration.faults.programs import BUSY, OFFERED, RATE, SCRIPT, SERVED, program
from tests.layers import ROOT, clients, environment, open_layer, receive, run_script
from tests.proxy import Proxy
from tests.servers import HOST, RedisServer, free_port


@contextlib.asynccontextmanager
async def running(
    source: str, *arguments: str, flags: tuple[str, ...] = ("-X", "dev", "-W", "error")
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run Python source in a process of its own inside of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *flags, "-c", textwrap.dedent(source), *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
        limit=2**24,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


#: Seconds that closing may take where only what becomes of the messages is of interest.
PATIENCE = 30.0


async def line(process: asyncio.subprocess.Process) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 30)).decode()


@contextlib.asynccontextmanager
async def counting(server: RedisServer) -> AsyncIterator[list[int]]:
    """Have a member of the group hear the numbers; at the end all of them have come."""
    async with open_layer(server, capacity=10**6) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        numbers: list[int] = []

        async def read() -> None:
            while True:
                numbers.append((await layer.receive(channel))["number"])

        reading = asyncio.ensure_future(read())
        yield numbers
        last = await layer.new_channel()
        await layer.send(last, {"type": "last"})
        await receive(layer, last)
        await eventually(lambda: layer.statistics().waiting == 0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await eventually(lambda: len(clients(server)) == 1)


def see(account: dict[str, Any], numbers: list[int], is_full: bool) -> tuple[int, int]:
    """Every message has an answer, which is true; return how many were taken, and sent."""
    outcomes = account["outcomes"]
    print(f"{len(outcomes)} messages, {account['rate']:.0f} a second")
    assert account["rate"] >= RATE or not is_full
    assert set(outcomes) <= {"taken", "unknown", "unsent"}
    by_outcome = {
        kind: {number for number, outcome in enumerate(outcomes) if outcome == kind}
        for kind in ("taken", "unsent")
    }
    assert by_outcome["taken"] <= set(numbers)
    assert len(numbers) == len(set(numbers))
    assert not by_outcome["unsent"] & set(numbers)
    return len(by_outcome["taken"]), len(outcomes)


@pytest.mark.parametrize("drain", [1.0, 0.0])
async def test_sigterm_under_load(
    redis_server: RedisServer, proxy: Proxy, drain: float, is_full: bool
) -> None:
    """SIGTERM under 5,000 messages/s: all that was sent arrives, and stderr has nothing to say.

    The control: a layer that closes at once leaves its last senders without an answer that says so.
    Not in Python's development mode, in which this rate is out of reach.
    """
    proxy.delay(0.02)  # so that many replies are under way
    url = redis_server.url_for(port=proxy.port)
    if not is_full:
        drain *= PATIENCE
    source, arguments = program(BUSY, SCRIPT), (url, str(drain), str(OFFERED))
    async with counting(redis_server) as numbers:
        async with running(source, *arguments, flags=("-W", "error")) as process:
            await eventually(lambda: len(numbers) > 1.5 * RATE, 40)
            process.terminate()
            account = json.loads(await line(process))
            assert await asyncio.wait_for(process.wait(), 30) == 0
            assert process.stderr is not None
            assert (await process.stderr.read()).decode() == ""
    taken, sent = see(account, numbers, is_full)
    assert taken == sent if drain else taken < sent


async def test_sigterm_of_a_web_server_under_load(redis_server: RedisServer, is_full: bool) -> None:
    """The same with a consumer in uvicorn, which knows nothing of the layer and does not close it."""
    port = free_port()
    drain = 1.0 if is_full else PATIENCE
    source = program(BUSY, SERVED)
    arguments = (redis_server.url, str(drain), str(OFFERED), str(port))
    async with counting(redis_server) as numbers:
        async with running(source, *arguments, flags=("-W", "default::ResourceWarning")) as process:
            async with await dialled(f"ws://{HOST}:{port}/") as browser:
                await eventually(lambda: len(numbers) > 1.5 * RATE, 40)
                process.terminate()
                account = json.loads(await line(process))
                await asyncio.wait_for(browser.wait_closed(), 30)
            assert await asyncio.wait_for(process.wait(), 30) in (0, -signal.SIGTERM)
            assert process.stderr is not None
            assert (await process.stderr.read()).decode() == ""
    taken, sent = see(account, numbers, is_full)
    assert taken == sent


async def dialled(url: str) -> ClientConnection:
    """Return a WebSocket to a server that is about to start."""
    for _ in range(1000):
        with contextlib.suppress(OSError):
            return await connect(url)
        await asyncio.sleep(0.01)
    raise AssertionError(f"nobody listens at {url}")


CRUEL = """
    import asyncio, sys
    from channels_mpx import MultiplexedChannelLayer

    async def main():
        asyncio.get_running_loop().slow_callback_duration = 10
        layer = MultiplexedChannelLayer(hosts=[sys.argv[1]])
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        waiting = [asyncio.ensure_future(layer.receive(channel)) for _ in range(10)]
        sending = [asyncio.ensure_future(layer.group_send("room", {"type": "a", "n": n})) for n in range(5000)]
        working = asyncio.ensure_future(layer.receive("work"))
        await asyncio.sleep(0)
        print("ready", flush=True)
        END

    asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["return", "raise KeyboardInterrupt"])
async def test_main_that_just_ends_leaves_nothing_to_complain_of(
    redis_server: RedisServer, end: str
) -> None:
    """Whatever ends the loop in the middle of everything: no task is destroyed while it is pending."""
    async with running(CRUEL.replace("END", end), redis_server.url) as process:
        assert await line(process) == "ready\n"
        await asyncio.wait_for(process.wait(), 20)
        assert process.stderr is not None
        text = (await process.stderr.read()).decode()
        for complaint in ("destroyed", "never awaited", "never retrieved", "ResourceWarning"):
            assert complaint not in text
    await eventually(lambda: not clients(redis_server))


async def test_complaints_would_be_seen(redis_server: RedisServer) -> None:
    """The control: a loop that is thrown away with tasks of the program's own does complain."""
    source = CRUEL.replace("    asyncio.run(main())", "    " + THROWN_AWAY)
    async with running(source.replace("END", "return"), redis_server.url) as process:
        assert await line(process) == "ready\n"
        assert process.stderr is not None
        text = (await process.stderr.read()).decode()
        assert "destroyed" in text or "ResourceWarning" in text


THROWN_AWAY: Any = " ".join(
    (
        "loop = asyncio.new_event_loop(); loop.create_task(asyncio.sleep(3600)); del loop;",
        "import gc; gc.collect(); asyncio.run(main())",
    )
)


#: Forks while its loop runs. The child says who it is and whether it could send; then the parent
#: says whether it has heard that, and how many connections it has needed.
FORKED = """
    import asyncio, json, logging, os, sys, warnings
    from channels_mpx import LinkError, MultiplexedChannelLayer
    from channels_mpx.hub import Hub
    from channels_mpx.resp import RedisLink

    PROTECTION
    # From Python 3.12 on, forking beside any thread warns.
    warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
    logging.getLogger("channels_mpx").setLevel(logging.ERROR)  # a loss is one of the outcomes
    watched = {"timeout": 2, "ping_interval": 1, "ping_timeout": 1}
    layer = MultiplexedChannelLayer(hosts=[sys.argv[1]], **watched)

    def name_and_socket():
        life = layer._hub.life
        sock = life and life.traffic.link._transport.get_extra_info("socket")
        return [layer.statistics().connection.process, sock and os.fstat(sock.fileno()).st_ino]

    def send():
        try:
            layer.sync.group_send("room", {"type": "hello"})
        except LinkError as error:
            return type(error).__name__
        return "sent"

    async def main():
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        parents = name_and_socket()
        child = os.fork()
        if not child:
            try:
                shared = [a == b for a, b in zip(parents, name_and_socket())]
                print(json.dumps([*shared, send()]), flush=True)
                os._exit(0)
            finally:
                os._exit(1)
        hearing = asyncio.ensure_future(layer.receive(channel))
        while not os.waitpid(child, os.WNOHANG)[0]:
            await asyncio.sleep(0.01)
        await asyncio.wait([hearing], timeout=3)
        print(json.dumps([hearing.done(), layer.statistics().connection.epoch]), flush=True)
        hearing.cancel()
        await layer.aclose()

    asyncio.run(main())
"""


async def forked(server: RedisServer, protection: str) -> list[list[Any]]:
    """Return what the child says, and then what the parent says."""
    source = FORKED.replace("PROTECTION", protection)
    text = await asyncio.to_thread(run_script, source, server.url)
    return [json.loads(words) for words in text.splitlines()]


async def test_child_that_keeps_the_connection_is_mute(redis_server: RedisServer) -> None:
    """The control: without the hook a child has the name and the socket, and no loop that uses them.

    With it nothing is shared, and the same program works.
    """
    apart = [[False, False, "sent"], [True, 1]]
    assert await forked(redis_server, "pass") == apart
    keep = "Hub.forget_parent = lambda hub: None"
    shared = [[True, True, "LinkLost"], [False, 1]]
    assert await forked(redis_server, keep) == shared


async def test_child_that_closes_the_connection_deafens_its_parent(
    redis_server: RedisServer,
) -> None:
    """The other control: closing in the child takes the socket from the parent's epoll set."""
    close = "RedisLink.disown = lambda link: link._transport.abort()"
    assert await forked(redis_server, close) == [[False, False, "sent"], [False, 2]]
