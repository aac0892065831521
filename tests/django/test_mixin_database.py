"""Old database connections are closed before each handler, as Channels closes them, for less."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from django.db import close_old_connections, connections, models
from django.db.backends.signals import connection_created
from pytest_django import DjangoDbBlocker

from channels_mpx import MultiplexedChannelLayer
from channels_mpx.consumers import MultiplexedConsumerMixin
from channels_mpx.consumers.hop import find_hop
from tests.django.client import KINDS, Client, bases, quiet
from tests.helpers import eventually

__all__ = ["quiet"]

pytestmark = pytest.mark.parametrize("hosts", [["memory://database"]])


class Note(models.Model):
    """A row in a database."""

    text = models.CharField(max_length=20)

    class Meta:
        app_label = "channels"


class Database:
    """A database in a file.

    Attributes:
        opened: The threads where a connection was opened, one entry for each.
    """

    def __init__(self) -> None:
        self.opened: list[threading.Thread] = []

    def note(self, **_: Any) -> None:
        """See Django's ``connection_created``."""
        self.opened.append(threading.current_thread())


@pytest.fixture
def database(
    tmp_path: Path, django_db_blocker: DjangoDbBlocker, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """A database whose connections are old as soon as they are opened."""
    settings = {**connections.settings["default"], "NAME": str(tmp_path / "db.sqlite3")}
    assert settings["CONN_MAX_AGE"] == 0
    monkeypatch.setitem(connections.settings, "file", settings)

    def create() -> None:
        with connections["file"].schema_editor() as editor:
            editor.create_model(Note)

    def forget() -> None:
        connections["file"].close()
        del connections["file"]

    database = Database()
    with django_db_blocker.unblock():
        async_to_sync(sync_to_async(create))()
        connection_created.connect(database.note)
        yield database
        connection_created.disconnect(database.note)
        forget()
        asyncio.run(sync_to_async(forget)())


@pytest.fixture
def closings(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads where old connections were closed, one entry for each time."""
    threads: list[threading.Thread] = []

    def close() -> None:
        threads.append(threading.current_thread())
        close_old_connections()

    monkeypatch.setattr("channels.db.close_old_connections", close)
    return threads


def make_writer(kind: str) -> Any:
    """Return a consumer whose handlers use the database."""

    class Writer(*bases(kind, AsyncWebsocketConsumer)):  # type: ignore[misc]
        groups = ("writers",)

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.write({"text": text_data})

        async def write(self, event: dict[str, Any]) -> None:
            assert not await sync_to_async(self.is_open)(), "an old connection"
            await Note.objects.using("file").acreate(text=event["text"])
            count = await Note.objects.using("file").filter(text=event["text"]).acount()
            await self.send(text_data=f"{event['text']} {count}")

        @staticmethod
        def is_open() -> bool:
            return connections["file"].connection is not None

    return Writer


@pytest.mark.parametrize("kind", KINDS)
async def test_each_handler_begins_without_old_connections(
    layer: MultiplexedChannelLayer, database: Database, kind: str
) -> None:
    """One connection is opened for each handler, and used by all of it."""
    client = await Client(make_writer(kind)).connect()
    for number in range(5):
        client.say(f"client {number}")
        assert await client.hear() == [f"client {number} 1"]
        await layer.group_send("writers", {"type": "write", "text": f"layer {number}"})
        assert await client.hear() == [f"layer {number} 1"]
    assert len(database.opened) == 10
    assert len(set(database.opened)) == 1
    await client.leave()


@pytest.mark.parametrize("kind", KINDS)
async def test_backlog_is_no_exception(
    layer: MultiplexedChannelLayer, database: Database, kind: str
) -> None:
    """A message that waits while a handler is busy is ready when that has ended, not before."""
    client = await Client(make_writer(kind)).connect()
    for number in range(10):
        client.say(f"{number}")
        await layer.group_send("writers", {"type": "write", "text": "layer"})
    heard = await client.hear(20)
    assert sorted(heard) == sorted(
        [f"{number} 1" for number in range(10)] + [f"layer {number}" for number in range(1, 11)]
    )
    assert len(database.opened) == 20
    await client.leave()


class Listener(MultiplexedConsumerMixin, AsyncWebsocketConsumer):
    """A consumer with a handler that needs no database."""

    groups = ("listeners",)

    async def said(self, event: dict[str, Any]) -> None:
        """Tell the client."""
        await self.send(text_data=event["text"])


class Chatty(Listener):
    """One with a ``dispatch`` of its own."""

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Find the handler as ever."""
        await super().dispatch(message)


@pytest.mark.parametrize("consumer", [Listener, Chatty])
async def test_consumers_share(
    layer: MultiplexedChannelLayer, closings: list[threading.Thread], consumer: Any
) -> None:
    """A group's message costs one hop, however many hear it."""
    clients = [await Client(consumer).connect() for _ in range(50)]
    closings.clear()
    for number in range(5):
        await layer.group_send("listeners", {"type": "said", "text": f"{number}"})
        for client in clients:
            assert await client.hear() == [f"{number}"]
    assert len(closings) == 5
    assert len(set(closings)) == 1
    for client in clients:
        await client.leave()


@pytest.mark.parametrize("consumer", [Listener, Chatty])
async def test_contexts_do_not_share(
    layer: MultiplexedChannelLayer, closings: list[threading.Thread], consumer: Any
) -> None:
    """Each context has a thread of its own, where its connections are: two in one share."""
    none = [await Client(consumer).connect() for _ in range(5)]
    contexts = ThreadSensitiveContext(), ThreadSensitiveContext()
    async with contexts[0]:
        first = [
            await Client(consumer, context=contextvars.copy_context()).connect() for _ in range(5)
        ]

        async def elsewhere() -> None:
            async with contexts[1]:
                context = contextvars.copy_context()
                second = [await Client(consumer, context=context.copy()).connect() for _ in "ab"]
                closings.clear()
                await layer.group_send("listeners", {"type": "said", "text": "hello"})
                for client in (*none, *first, *second):
                    assert await client.hear() == ["hello"]
                assert len(closings) == len(set(closings)) == 3
                for client in (*none, *first, *second):
                    await client.leave()

        await contextvars.Context().run(asyncio.create_task, elsewhere())


async def test_context_that_is_entered_in_a_handler(
    layer: MultiplexedChannelLayer, closings: list[threading.Thread]
) -> None:
    """From then on the hop goes to its thread, and back when it is left."""

    class Moving(Listener):
        async def enter(self, event: dict[str, Any]) -> None:
            self.context = ThreadSensitiveContext()
            await self.context.__aenter__()
            thread = await sync_to_async(threading.current_thread)()
            await self.send(text_data=thread.name)

        async def leave(self, event: dict[str, Any]) -> None:
            await self.context.__aexit__(None, None, None)
            await self.send(text_data="left")

    client, other = await Client(Moving).connect(), await Client(Listener).connect()
    home = closings[0]
    for _ in range(2):
        client.give("enter")
        (name,) = await client.hear()
        closings.clear()
        await layer.group_send("listeners", {"type": "said", "text": "hello"})
        assert await client.hear() + await other.hear() == ["hello"] * 2
        assert {thread.name for thread in closings} == {name, home.name}
        client.give("leave")
        assert await client.hear() == ["left"]
        closings.clear()
        await layer.group_send("listeners", {"type": "said", "text": "hello"})
        assert await client.hear() + await other.hear() == ["hello"] * 2
        assert closings == [home]
    await client.leave()
    await other.leave()


@pytest.mark.parametrize("kind", KINDS)
async def test_context_that_is_entered_in_dispatch(
    layer: MultiplexedChannelLayer, closings: list[threading.Thread], kind: str
) -> None:
    """The hop goes where the handler's own thread-sensitive code goes."""

    class Apart(*bases(kind, AsyncWebsocketConsumer)):  # type: ignore[misc]
        async def dispatch(self, message: dict[str, Any]) -> None:
            async with ThreadSensitiveContext():
                await super().dispatch(message)

        async def look(self, event: dict[str, Any]) -> None:
            thread = await sync_to_async(threading.current_thread)()
            await self.send(text_data="same" if thread is closings[-1] else "another")

    client = await Client(Apart).connect()
    for _ in range(2):
        client.give("look")
        assert await client.hear() == ["same"]
    assert len(set(closings)) == 3
    await client.leave()


class Item:
    """Something else to be handled."""

    size = 1
    arrived = float("inf")

    async def deliver_to(self, consumer: Any) -> None:
        """Say so."""
        await consumer.send(text_data="item")


async def has_no_hop() -> bool:
    """Whether a task here cannot share a hop."""
    return find_hop() is None


@pytest.mark.parametrize("consumer", [Listener, Chatty])
def test_below_async_to_sync_each_goes_alone(
    layer: MultiplexedChannelLayer, closings: list[threading.Thread], consumer: Any
) -> None:
    """To the thread that waits for it, as the handler's own thread-sensitive code."""

    async def main() -> None:
        context = contextvars.copy_context()
        # Before asgiref 3.8 a task did not know what it was below; then the loop tells the thread.
        is_alone = await context.copy().run(asyncio.create_task, has_no_hop())
        clients = [await Client(consumer, context=context.copy()).connect() for _ in range(3)]
        closings.clear()
        await layer.group_send("listeners", {"type": "said", "text": "hello"})
        for client in clients:
            assert await client.hear() == ["hello"]
        assert closings == [threading.main_thread()] * (3 if is_alone else 1)
        closings.clear()
        clients[0].instance._mpx.mailbox.put(Item())
        assert await clients[0].hear() == ["item"]
        assert closings == [threading.main_thread()]
        for client in clients:
            await client.leave()

    async_to_sync(main)()


@pytest.mark.parametrize("consumer", [Listener, Chatty])
async def test_every_kind_of_item_needs_a_hop(
    layer: MultiplexedChannelLayer, closings: list[threading.Thread], consumer: Any
) -> None:
    """Client events, messages, and what mixins put into the mailbox."""
    client = await Client(consumer).connect()
    closings.clear()
    client.instance._mpx.mailbox.put(Item())
    assert await client.hear() == ["item"]
    assert len(closings) == 1
    client.give("said", text="hello")
    assert await client.hear() == ["hello"]
    assert len(closings) == 2
    await client.leave()


async def test_dispatch_from_another_loop_goes_alone(
    layer: MultiplexedChannelLayer, closings: list[threading.Thread]
) -> None:
    """A hop is of one loop."""
    client = await Client(Chatty).connect()
    closings.clear()
    message = {"type": "said", "text": "elsewhere"}
    client.instance.base_send = lambda sent: asyncio.sleep(0)
    await asyncio.to_thread(lambda: asyncio.run(client.instance.dispatch(message)))
    assert len(closings) == 1
    await client.leave()


@pytest.mark.parametrize("kind", KINDS)
async def test_own_work_before_dispatch_is_cleaned_up_after(
    layer: MultiplexedChannelLayer, database: Database, kind: str
) -> None:
    """What a ``dispatch`` has opened is closed before the handler begins."""

    class Careful(make_writer(kind)):  # type: ignore[misc]
        async def dispatch(self, message: dict[str, Any]) -> None:
            await Note.objects.using("file").acount()
            await super().dispatch(message)

    client = await Client(Careful).connect()
    client.say("hello")
    assert await client.hear() == ["hello 1"]
    # At the connect before the handler; then before it and in it.
    assert len(database.opened) == 3
    await client.leave()


@pytest.mark.parametrize("kind", KINDS)
async def test_sync_consumers_close_in_their_threads(
    layer: MultiplexedChannelLayer, closings: list[threading.Thread], kind: str
) -> None:
    """Before and after each handler, as Channels does it; nothing besides."""

    class Sync(*bases(kind, WebsocketConsumer)):  # type: ignore[misc]
        def connect(self) -> None:
            self.thread = threading.current_thread()
            self.accept()

        def said(self, event: dict[str, Any]) -> None:
            assert threading.current_thread() is self.thread
            self.send(text_data=event["text"])

    client = await Client(Sync).connect()
    await eventually(lambda: len(closings) == 2)
    await layer.send(client.instance.channel_name, {"type": "said", "text": "hello"})
    assert await client.hear() == ["hello"]
    await eventually(lambda: len(closings) == 4)
    assert set(closings) == {client.instance.thread}
    if kind == "mixin":
        delivered = asyncio.Event()
        item = Item()
        item.deliver_to = lambda consumer: asyncio.sleep(0, delivered.set())  # type: ignore[method-assign]
        client.instance._mpx.mailbox.put(item)
        await asyncio.wait_for(delivered.wait(), 10)
        assert len(closings) == 4
    await client.leave()


@pytest.mark.parametrize("kind", KINDS)
async def test_handlers_may_go_to_the_database_themselves(
    layer: MultiplexedChannelLayer, database: Database, kind: str
) -> None:
    """`database_sync_to_async` in handlers works as ever."""

    class Reader(*bases(kind, AsyncWebsocketConsumer)):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            count = await database_sync_to_async(Note.objects.using("file").count)()
            await self.send(text_data=f"{count} notes")

    client = await Client(Reader).connect()
    client.say("count")
    assert await client.hear() == ["0 notes"]
    assert len(database.opened) == 1
    await client.leave()
