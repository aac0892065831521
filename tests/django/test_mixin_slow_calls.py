"""A slow synchronous call of one consumer delays no other that has nothing to do with it."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.consumer import AsyncConsumer
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from pytest_django import DjangoDbBlocker

from channels_mpx import MultiplexedChannelLayer
from channels_mpx.consumers import MultiplexedConsumerMixin, databases
from channels_mpx.consumers.databases import ThreadConnections, look
from tests.django.client import Client
from tests.helpers import eventually

pytestmark = pytest.mark.parametrize("hosts", [["memory://slow"]])

NONE = {"default": {"ENGINE": "django.db.backends.dummy"}}


class Quick(MultiplexedConsumerMixin, AsyncWebsocketConsumer):
    """Uses no database."""

    groups = ("quick",)

    async def said(self, event: dict[str, Any]) -> None:
        """Tell the client."""
        await self.send(text_data=event["text"])


class Eager(Quick):
    """With a ``dispatch`` of its own."""

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Find the handler as ever."""
        await super().dispatch(message)


class Slow(MultiplexedConsumerMixin, AsyncWebsocketConsumer):
    """Calls something in the database's thread."""

    call: Any

    async def work(self, event: dict[str, Any]) -> None:
        """Call it."""
        await database_sync_to_async(self.call)()
        await self.send(text_data="done")


class Call:
    """A call that lasts until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.gate.wait(30)


@pytest.fixture
def call() -> Iterator[Call]:
    call = Call()
    yield call
    call.gate.set()


@pytest.fixture
async def slow(layer: MultiplexedChannelLayer, call: Call) -> AsyncIterator[Client]:
    """A consumer that can be made busy."""
    client = await Client(Slow).connect()
    client.instance.call = call
    yield client
    call.gate.set()
    await client.leave()


@pytest.mark.parametrize("consumer", [Quick, Eager])
@pytest.mark.parametrize("is_configured", [True, False])
async def test_nobody_waits_for_a_database_that_nobody_uses(
    layer: MultiplexedChannelLayer,
    slow: Client,
    call: Call,
    consumer: Any,
    is_configured: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All messages are handled during the call, by those who were there and who come."""
    if not is_configured:
        monkeypatch.setattr(connections, "settings", NONE)
    there = await Client(consumer).connect()
    slow.give("work")
    await eventually(call.begun.is_set)
    come = await Client(consumer).connect()
    for number in range(200):
        await layer.group_send("quick", {"type": "said", "text": f"{number}"})
        assert await there.hear() == await come.hear() == [f"{number}"]
    assert slow.sent == []
    call.gate.set()
    assert await slow.hear() == ["done"]
    await there.leave()
    await come.leave()
    assert layer.statistics().dropped["full"] == 0


def file(path: Path, **fields: Any) -> dict[str, Any]:
    """Return the settings of a database in a file."""
    return {**connections.settings["default"], "NAME": str(path / "db.sqlite3"), **fields}


@pytest.mark.parametrize("max_age", [0, None])
async def test_connection_of_the_thread(
    layer: MultiplexedChannelLayer,
    slow: Client,
    call: Call,
    tmp_path: Path,
    django_db_blocker: DjangoDbBlocker,
    monkeypatch: pytest.MonkeyPatch,
    max_age: int | None,
) -> None:
    """One that is old must be closed first, and that waits; one that may stay keeps nobody."""
    monkeypatch.setitem(connections.settings, "file", file(tmp_path, CONN_MAX_AGE=max_age))

    def query() -> None:
        connections["file"].cursor().execute("select 1")
        call()

    slow.instance.call = query
    quick = await Client(Quick).connect()
    with django_db_blocker.unblock():
        slow.give("work")
        await eventually(call.begun.is_set)
        await layer.group_send("quick", {"type": "said", "text": "hello"})
        if max_age is None:
            assert await quick.hear() == ["hello"]
            assert slow.sent == []
            call.gate.set()
        else:
            for _ in range(100):
                await asyncio.sleep(0)
            assert quick.sent == []
            call.gate.set()
            assert await quick.hear() == ["hello"]
        assert await slow.hear() == ["done"]
        await quick.leave()
        await sync_to_async(forget)("file")


def forget(alias: str) -> None:
    """Close the calling thread's connection, and drop the object."""
    connections[alias].close()
    del connections[alias]


STATES: dict[str, dict[str, Any]] = {
    "may stay": {},
    "of an age": {"close_at": 0.0},
    "not yet": {"close_at": float("inf")},
    "after an error": {"errors_occurred": True},
    "checked": {"health_check_enabled": True, "health_check_done": True},
    "to be checked": {"health_check_enabled": True, "health_check_done": False},
    "in a transaction": {"autocommit": False},
}


@pytest.mark.parametrize("state", STATES)
def test_sees_what_django_would_do(
    hosts: Any, tmp_path: Path, django_db_blocker: DjangoDbBlocker, state: str
) -> None:
    """Without its thread: where Django changes nothing, nothing is found, and otherwise it is."""
    connection = connections.create_connection("default")
    connection.settings_dict = file(tmp_path, CONN_MAX_AGE=None)
    found = ThreadConnections()
    found.add(connection)
    found.add(connection)
    assert repr(found) == "<ThreadConnections 1 has_old=False>"
    with django_db_blocker.unblock():
        connection.connect()
        vars(connection).update({"health_check_done": False, **STATES[state]})
        before = vars(connection).copy()
        has_old = found.has_old()
        assert vars(connection) == before
        connection.close_if_unusable_or_obsolete()
        assert has_old is (vars(connection) != before)
        connection.close()
    assert not found.has_old()
    del connection, before
    assert not found.has_old()


def test_backend_with_an_opinion_of_its_own(hosts: Any, django_db_blocker: DjangoDbBlocker) -> None:
    """It is asked each time, in its thread."""

    class Wrapper(BaseDatabaseWrapper):  # type: ignore[misc]
        def __init__(self) -> None:
            self.connection: Any = object()

        def close_if_unusable_or_obsolete(self) -> None:
            """Look elsewhere."""

    wrapper = Wrapper()
    found = ThreadConnections()
    found.add(wrapper)
    assert found.has_old()
    wrapper.connection = None
    assert not found.has_old()


def test_one_that_appears_later(
    hosts: Any,
    tmp_path: Path,
    django_db_blocker: DjangoDbBlocker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when a site adds a database while it runs; one without a backend is passed over."""
    monkeypatch.setattr(databases, "_here", threading.local())
    wrong = {**connections.settings["default"], "ENGINE": "nowhere.to.be.found"}
    monkeypatch.setitem(connections.settings, "wrong", wrong)
    found = look()
    assert look() is found
    monkeypatch.setitem(connections.settings, "late", file(tmp_path, CONN_MAX_AGE=0))
    with django_db_blocker.unblock():
        assert not found.has_old()
        connections["late"].connect()
        assert found.has_old()
        forget("late")
    assert not found.has_old()


async def test_tasks_of_a_consumer_have_their_turn(layer: MultiplexedChannelLayer) -> None:
    """What a handler has handed to a task is taken before the next handler begins."""

    class Handing(MultiplexedConsumerMixin, AsyncConsumer):
        async def start(self, event: dict[str, Any]) -> None:
            self.last: asyncio.Queue[int] = asyncio.Queue(1)
            self.task = asyncio.create_task(self.tell())

        async def tell(self) -> None:
            while True:
                await self.send({"type": "told", "text": f"{await self.last.get()}"})

        async def number(self, event: dict[str, Any]) -> None:
            if self.last.full():
                self.last.get_nowait()
            self.last.put_nowait(event["number"])

    client = Client(Handing)
    client.give("start")
    await eventually(lambda: hasattr(client.instance, "task"))
    name = client.instance.channel_name
    for number in range(50):
        await layer.send(name, {"type": "number", "number": number})
    assert await client.hear(50) == [f"{number}" for number in range(50)]
    client.instance.task.cancel()
    await client.cancel()


async def test_loop_has_its_turn(layer: MultiplexedChannelLayer) -> None:
    """A backlog of handlers that wait for nothing does not keep the event loop for itself."""
    done = asyncio.Event()

    class Busy(MultiplexedConsumerMixin, AsyncConsumer):
        handled = 0

        async def start(self, event: dict[str, Any]) -> None:
            time.sleep(0)

        async def count(self, event: dict[str, Any]) -> None:
            self.handled += 1

    client = Client(Busy)
    client.give("start")
    await eventually(lambda: hasattr(client.instance, "channel_name"))
    seen: list[int] = []

    async def watch() -> None:
        while not done.is_set():
            seen.append(client.instance.handled)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    for _ in range(90):
        await layer.send(client.instance.channel_name, {"type": "count"})
    await eventually(lambda: client.instance.handled == 90)
    done.set()
    await watching
    assert max(b - a for a, b in itertools.pairwise(seen)) <= 8
    await client.cancel()
