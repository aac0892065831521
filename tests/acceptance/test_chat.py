"""The example's chat as people meet it: real processes, real WebSockets, a Redis that dies."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.servers import RedisServer

from .example import ExampleProcess, Person

RETURN_DEADLINE = 10  # seconds until messages cross again once Redis is back


async def test_two_processes_are_one_chat(tmp_path: Path, redis_server: RedisServer) -> None:
    async with (
        ExampleProcess(tmp_path / "one", redis_server.url) as one,
        ExampleProcess(tmp_path / "two", redis_server.url) as two,
        one.person("lobby") as ada,
        two.person("lobby") as bob,
        two.person("tea-break") as eve,
    ):
        await ada.join("Ada")
        await bob.join("Bob")
        await eve.join("Eve")
        assert await ada.hear("notice") == {"type": "notice", "text": "Bob joined"}

        for sender, other, name in [(ada, bob, "Ada"), (bob, ada, "Bob")]:
            said = [f"{name} {number} <b>&amp;</b> ☕" for number in range(50)]
            ids = [await sender.say(text) for text in said]
            heard = [await sender.hear("message") for _ in said]
            assert [(line["id"], line["text"]) for line in heard] == list(
                zip(ids, said, strict=True)
            )
            heard = [await other.hear("message") for _ in said]
            assert [(line["name"], line["text"]) for line in heard] == [(name, t) for t in said]
            assert {line["id"] for line in heard} == {None}

        told = await one.announce("lobby", "The tea is ready.")
        assert (told.returncode, told.stdout) == (0, "Told lobby: The tea is ready.\n")
        assert not told.stderr
        for person in (ada, bob):
            assert (await person.hear("announcement"))["text"] == "The tea is ready."

        await bob.socket.close()
        assert await ada.hear("notice") == {"type": "notice", "text": "Bob left"}
        await eve.say("alone here")  # nothing that was said in the lobby comes before it
        assert await eve.hear_lines(1) == [("Eve", "alone here")]


async def test_sockets_outlive_redis(
    tmp_path: Path, make_redis: Callable[..., RedisServer]
) -> None:
    server = make_redis()
    async with (
        ExampleProcess(tmp_path / "one", server.url) as one,
        ExampleProcess(tmp_path / "two", server.url) as two,
        one.person("lobby") as ada,
        two.person("lobby") as bob,
    ):
        await ada.join("Ada")
        await bob.join("Bob")
        assert (await ada.hear("notice"))["text"] == "Bob joined"

        server.kill()
        for person in (ada, bob):
            message_id = await person.say("anybody?")
            error = await person.hear("error", timeout=20)
            assert (error["id"], error["retry"]) == (message_id, True)
            assert "ot done" in error["text"]
            assert await person.still_open()
        told = await two.announce("lobby", "Nobody hears this.")
        assert told.returncode == 1
        assert str(server.port) in told.stderr
        assert "Is Redis running there" in told.stderr
        assert "Traceback" not in told.stderr

        server.restart()
        await asyncio.wait_for(_until_heard("Ada is back", ada, bob), RETURN_DEADLINE)
        await asyncio.wait_for(_until_heard("Bob is back", bob, ada), RETURN_DEADLINE)

        async with one.person("lobby") as cleo:  # and somebody new gets in
            await cleo.send(type="join", name="Cleo")
            await asyncio.wait_for(_until_heard("Cleo is in", cleo, ada), RETURN_DEADLINE)


async def test_who_leaves_during_an_outage_holds_nothing_up(
    tmp_path: Path, make_redis: Callable[..., RedisServer]
) -> None:
    server = make_redis()
    async with (
        ExampleProcess(tmp_path / "one", server.url) as one,
        one.person("lobby") as ada,
    ):
        await ada.join("Ada")
        server.kill()
        async with one.person("lobby") as bob:  # cannot get in, is told so, may try again
            message_id = await bob.send(type="join", name="Bob")
            assert (await bob.hear("error"))["id"] == message_id
            await ada.socket.close()
            server.start()
            await bob.send(type="join", name="Bob")
            await asyncio.wait_for(_until_heard("Bob is in", bob, bob), RETURN_DEADLINE)


async def test_one_process_needs_no_redis(tmp_path: Path) -> None:
    async with (
        ExampleProcess(tmp_path / "one") as one,
        one.person("tea-break") as ada,
        one.person("tea-break") as bob,
    ):
        assert "memory://" in one.banner
        await ada.join("Ada")
        await bob.join("  Bob\u202e\n ", "Bob")  # space at the ends and invisible signs are dropped
        assert (await ada.hear("notice"))["text"] == "Bob joined"
        await ada.say("hello")
        assert await bob.hear_lines(1) == await ada.hear_lines(1) == [("Ada", "hello")]

        told = await one.announce("tea-break", "Nobody hears this.")
        assert told.returncode == 1
        assert "no other process can reach" in told.stderr
        told = await one.announce("Tea Break", "There is no such room.")
        assert told.returncode == 1
        assert "lower-case letters" in told.stderr


async def test_pages_and_static_files(tmp_path: Path) -> None:
    async with ExampleProcess(tmp_path / "one") as one:
        status, home = await one.fetch("/chat/")
        assert (status, "lobby" in home, "Your name" in home) == (200, True, True)
        status, room = await one.fetch("/chat/?room=lobby&name=%3Cb%3EAda")
        assert status == 200
        assert 'data-room="lobby" data-name="&lt;b&gt;Ada"' in room
        paths = re.findall(r'(?:href|src)="(/static/[^"]+)"', room)
        assert {path.rpartition(".")[2] for path in paths} == {"css", "js", "svg"}
        for path in paths:
            status, content = await one.fetch(path)
            assert status == 200
            assert content
        status, home = await one.fetch("/chat/?name=Ada&own_room=no+such_room")
        assert status == 400
        assert "lower-case letters" in home
        status, home = await one.fetch("/chat/rubber-ducks/")  # without a name: asks for it
        assert status == 200
        assert 'value="rubber-ducks" checked' in home
        assert (await one.fetch("/chat/Lobby/"))[0] == 404


async def test_sockets_are_refused(tmp_path: Path) -> None:
    async with ExampleProcess(tmp_path / "one") as one:
        for room in ("Lobby", "tea_break", "tea break", "caf\u00e9", "x" * 41, "lobby\n", "a/b"):
            with pytest.raises(InvalidStatus, match="403"):
                await one.person(room).__aenter__()
        with pytest.raises(InvalidStatus, match="403"):
            await Person(one.url, "/ws/chat/lobby/", origin="http://elsewhere.example").__aenter__()
        async with one.person("x" * 40) as ada:
            await ada.join("Ada")


async def test_bad_messages_are_answered_on_an_open_socket(tmp_path: Path) -> None:
    async with ExampleProcess(tmp_path / "one") as one, one.person("lobby") as ada:
        for early in ({"type": "say", "text": "before I joined"}, {"type": "join", "name": " "}):
            message_id = await ada.send(**early)
            assert (await ada.hear("error"))["id"] == message_id
        await ada.join("Ada")
        for frame in (b"\xff\x00", "", "no JSON", "[" * 100_000, "[]", "{}", '{"id": 7}'):
            await ada.socket.send(frame)
            assert (await ada.hear("error"))["retry"] is False
        for bad in (
            {"type": "say"},
            {"type": "say", "text": 7},
            {"type": "say", "text": " \u200b\ud800 "},
            {"type": "say", "text": "x" * 501},
            {"type": "join", "name": "Bob"},
            {"type": "chat.message", "text": "x"},
            {"type": ["say"], "text": "x"},
            {"type": "say", "text": "x", "id": "x" * 41},
        ):
            await ada.send(**bad)
            error = await ada.hear("error")
            assert (error["retry"], bool(error["text"])) == (False, True)
        await ada.say("x" * 500)
        assert await ada.hear_lines(1) == [("Ada", "x" * 500)]


async def _until_heard(text: str, sender: Person, other: Person) -> None:
    """Say a new thing until the other hears it: what was said while Redis was away may be missing."""

    async def speak() -> None:
        while True:
            await sender.say(text)
            await asyncio.sleep(0.1)

    speaking = asyncio.create_task(speak())
    try:
        while (await other.hear_anything()).get("text") != text:
            pass
    finally:
        speaking.cancel()
        await asyncio.wait([speaking])
