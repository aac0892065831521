"""The page of rooms: plain Redis channels, which people and programs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.helpers import eventually
from tests.servers import RedisServer

from .example import ExampleProcess, Page


async def join(page: Page, *rooms: str) -> None:
    """Join rooms, and hear that they are active."""
    for room in rooms:
        await page.send(type="join", channel=f"room.{room}")
        assert await page.hear("active") == {"type": "active", "channel": f"room.{room}"}


async def hear_line(page: Page) -> tuple[str, str]:
    """Return room and text of the next message, which has to be a line."""
    line = await page.hear("line")
    return line["channel"].removeprefix("room."), line["text"]


async def test_rooms_join_processes_and_programs(tmp_path: Path, redis_server: RedisServer) -> None:
    async with (
        ExampleProcess(tmp_path / "one", redis_server.url) as one,
        ExampleProcess(tmp_path / "two", redis_server.url) as two,
        one.page("rooms") as ada,
        two.page("rooms") as bob,
        two.page("rooms") as eve,
    ):
        await join(ada, "lobby", "tea")
        await join(bob, "tea")
        await join(eve, "tea", "lobby")
        assert redis_server.command("PUBSUB", "NUMSUB", "room.tea") == ["room.tea", 2]

        asked = await ada.send(type="write", channel="room.tea", name=" Ada ", text="hello\n<b>☕")
        for person in (bob, eve):
            assert await hear_line(person) == ("tea", "Ada: hello <b>☕")
        own = [await ada.hear_anything() for _ in range(2)]  # in either order
        assert {"type": "written", "id": asked} in own
        assert {"type": "line", "channel": "room.tea", "text": "Ada: hello <b>☕"} in own

        assert redis_server.command("PUBLISH", "room.tea", "backup: done") == 2
        for person in (ada, bob, eve):
            assert await hear_line(person) == ("tea", "backup: done")

        await ada.send(type="leave", channel="room.tea")
        assert await ada.hear("left") == {"type": "left", "channel": "room.tea"}
        redis_server.command("PUBLISH", "room.tea", "not for Ada")
        redis_server.command("PUBLISH", "room.lobby", "for Ada and Eve")
        assert await hear_line(ada) == ("lobby", "for Ada and Eve")
        assert [await hear_line(eve) for _ in range(2)] == [
            ("tea", "not for Ada"),
            ("lobby", "for Ada and Eve"),
        ]
        redis_server.command("PUBLISH", "room.lobby", b"\xff\x00")
        assert await hear_line(ada) == ("lobby", "2 bytes that are no text")

        for person in (ada, bob, eve):
            await person.socket.close()
        await eventually(lambda: redis_server.command("PUBSUB", "CHANNELS", "room.*") == [])


async def test_clients_get_rooms_and_nothing_else(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    async with (
        ExampleProcess(tmp_path / "one", redis_server.url) as one,
        one.page("rooms") as ada,
    ):
        secret = "elsewhere"
        for bad in (
            {"type": "join"},
            {"type": "join", "channel": secret},
            {"type": "join", "channel": "room.*"},
            {"type": "join", "channel": "mpx:inbox:x"},
            {"type": "join", "channel": "room." + "x" * 41},
            {"type": "join", "channel": "room.\ud800"},
            {"type": "join", "channel": ["room.lobby"]},
            {"type": "leave", "channel": ""},
            {"type": "write", "channel": "room.lobby", "name": "Ada", "text": "not in there"},
            {"type": "write", "channel": secret, "name": "Ada", "text": "not mine"},
            {"type": "shout", "channel": "room.lobby"},
            {"type": "channel.message", "channel": "room.lobby"},
        ):
            asked = await ada.send(**bad)
            error = await ada.hear("error")
            assert (error["id"], error["retry"], bool(error["text"])) == (asked, False, True)
        await join(ada, *map(str, range(10)))
        await ada.send(type="join", channel="room.11")
        assert "leave one first" in (await ada.hear("error"))["text"]
        for bad in ({"name": "", "text": "x"}, {"name": "Ada", "text": 7}, {}):
            await ada.send(type="write", channel="room.1", **bad)
            assert (await ada.hear("error"))["retry"] is False
        assert len(redis_server.command("PUBSUB", "CHANNELS", "room.*")) == 10
        assert redis_server.command("PUBSUB", "NUMSUB", secret) == [secret, 0]


async def test_a_gap_is_told_and_rooms_come_back(tmp_path: Path, redis_server: RedisServer) -> None:
    async with (
        ExampleProcess(tmp_path / "one", redis_server.url) as one,
        one.page("rooms") as ada,
    ):
        await join(ada, "lobby", "tea")
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await ada.hear("interrupted")
        back = {(await ada.hear("active"))["channel"] for _ in range(2)}
        gap = await ada.hear("gap")
        assert back == {"room.lobby", "room.tea"}
        assert gap["seconds"] > 0
        assert gap["reason"]
        redis_server.command("PUBLISH", "room.tea", "back again")
        assert await hear_line(ada) == ("tea", "back again")


async def test_without_redis_the_page_is_told(
    tmp_path: Path, make_redis: Callable[..., RedisServer]
) -> None:
    server = make_redis()
    async with (
        ExampleProcess(tmp_path / "one", server.url) as one,
        one.page("rooms") as ada,
    ):
        await join(ada, "lobby")
        server.kill()
        await ada.hear("interrupted")
        for request in (
            {"type": "join", "channel": "room.tea"},
            {"type": "write", "channel": "room.lobby", "name": "Ada", "text": "anybody?"},
        ):
            asked = await ada.send(**request)
            error = await ada.hear("error", timeout=20)
            assert (error["id"], error["retry"]) == (asked, True)
        server.start()
        await ada.hear("active")
        await ada.hear("gap")
        await join(ada, "tea")


async def test_one_process_needs_no_redis(tmp_path: Path) -> None:
    """Also beside the thread that feeds the board, and had the connection before the pages."""
    async with (
        ExampleProcess(tmp_path / "one") as one,
        one.page("rooms") as ada,
        one.page("rooms") as bob,
    ):
        for person in (ada, bob):
            await person.send(type="join", channel="room.lobby")
            await person.hear("active")
        await bob.send(type="write", channel="room.lobby", name="Bob", text="hello")
        line = await ada.hear("line")
        assert (line["channel"], line["text"]) == ("room.lobby", "Bob: hello")
