"""The live board: numbers from a program that knows nothing of Django."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.helpers import eventually
from tests.servers import RedisServer

from .example import EXAMPLE, ExampleProcess, Page

METRICS = {"requests", "latency", "errors", "cpu", "memory", "visitors"}


async def hear_value(page: Page) -> tuple[str, float]:
    """Return metric and value of the next message, which has to be a value."""
    message = await page.hear("value")
    return message["metric"], message["value"]


async def test_the_script_feeds_every_process(tmp_path: Path, redis_server: RedisServer) -> None:
    async with (
        ExampleProcess(tmp_path / "one", redis_server.url) as one,
        ExampleProcess(tmp_path / "two", redis_server.url) as two,
        one.page("board") as ada,
        two.page("board") as bob,
        two.page("board") as eve,
    ):
        assert "feed.py, in another terminal" in one.banner
        # They are subscribed before they are accepted: nothing has to be waited for.
        assert redis_server.command("PUBSUB", "NUMPAT") == 1
        with one.feed() as output:
            seen = [dict([await hear_value(page) for _ in METRICS]) for page in (ada, bob, eve)]
            first = json.loads((await eventually(output.read_text)).splitlines()[0])
        assert seen == [first] * 3
        assert set(first) == METRICS


async def test_the_script_needs_neither_django_nor_us(tmp_path: Path) -> None:
    program = "import feed, sys; print({'django', 'channels', 'channels_mpx'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=EXAMPLE, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")
    refused = await ExampleProcess(tmp_path).run("feed.py", REDIS_URL="")
    assert refused.returncode == 1
    assert refused.stderr == "There is no Redis to publish to: give --url, or set REDIS_URL.\n"


async def test_the_script_outlives_redis(
    tmp_path: Path, make_redis: Callable[..., RedisServer]
) -> None:
    server = make_redis()
    async with (
        ExampleProcess(tmp_path / "one", server.url) as one,
        one.page("board") as ada,
    ):
        with one.feed() as output:
            await hear_value(ada)
            server.kill()
            await eventually(lambda: "Not published" in output.read_text())
            server.start()
            while (await ada.hear_anything())["type"] != "interrupted":
                pass
            assert (await ada.hear("gap"))["seconds"] > 0
            await hear_value(ada)


async def test_what_is_no_number_is_told(tmp_path: Path, redis_server: RedisServer) -> None:
    async with (
        ExampleProcess(tmp_path / "one", redis_server.url) as one,
        one.page("board") as ada,
    ):
        for bad in ("", "much", '"7"', "[7]", "true", "null", "NaN", "1e999", "1e15", b"\xff"):
            redis_server.command("PUBLISH", "metrics.cpu", bad)
            assert await ada.hear("unreadable") == {"type": "unreadable", "metric": "cpu"}
        await ada.socket.send("viewers have nothing to say")
        for good in (7, -0.5, 999_999_999_999_999):
            redis_server.command("PUBLISH", "metrics.new thing", json.dumps(good))
            assert await hear_value(ada) == ("new thing", good)
        redis_server.command("PUBLISH", b"metrics.\xff", "1")
        assert await hear_value(ada) == ("\ufffd", 1)
        redis_server.command("PUBLISH", "other.cpu", "1")  # nobody asked for that
        redis_server.command("PUBLISH", "metrics.cpu", "2")
        assert await hear_value(ada) == ("cpu", 2)


async def test_a_gap_is_told(tmp_path: Path, redis_server: RedisServer) -> None:
    async with (
        ExampleProcess(tmp_path / "one", redis_server.url) as one,
        one.page("board") as ada,
    ):
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await ada.hear("interrupted")
        gap = await ada.hear("gap")
        assert gap["seconds"] > 0
        assert gap["reason"]
        redis_server.command("PUBLISH", "metrics.cpu", "42.5")
        assert await hear_value(ada) == ("cpu", 42.5)


async def test_without_redis_the_process_feeds_itself(tmp_path: Path) -> None:
    async with (
        ExampleProcess(tmp_path / "one") as one,
        one.page("board") as ada,
    ):
        assert "fed by this process" in one.banner
        assert {(await hear_value(ada))[0] for _ in METRICS} == METRICS
        status, page = await one.fetch("/board/")
        assert status == 200
        assert "no other program can reach this page" in page
