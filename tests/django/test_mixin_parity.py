"""The mixin against plain Channels: errors, `dispatch`, contexts, and every class of consumers."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from channels.testing import HttpCommunicator, WebsocketCommunicator
from channels.worker import Worker

from tests.django.chats import kind, make_chat, make_chatty, tell
from tests.django.client import KINDS, Client, bases, quiet

__all__ = ["kind", "quiet"]

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


# What plain Channels and the mixin have in common


async def test_events_and_messages_are_handled(layer: Any, kind: str) -> None:
    """One after the other, each as it comes."""
    client = await Client(make_chat(kind)).connect()
    for number in range(5):
        client.say(f"{number}")
        assert await client.hear() == [f"client {number}"]
        await tell(layer, client, text=f"{number}")
        assert await client.hear() == [f"layer {number}"]
    await client.leave()


async def test_one_handler_at_a_time(layer: Any, kind: str) -> None:
    """Events in order, messages in order, never two handlers at once."""
    client = await Client(make_chat(kind)).connect()
    for number in range(20):
        client.say(f"{number}")
        await tell(layer, client, text=f"{number}")
    heard = await client.hear(40)
    for source in ("client", "layer"):
        assert [text for text in heard if source in text] == [f"{source} {n}" for n in range(20)]
    await client.leave()


@pytest.mark.parametrize("source", ["client", "layer"])
@pytest.mark.parametrize(
    ("type_", "error"), [("stop", None), ("fail", ZeroDivisionError), ("drop", None)]
)
async def test_what_a_handler_raises(
    layer: Any, kind: str, source: str, type_: str, error: type[Exception] | None
) -> None:
    """`StopConsumer` ends the consumer quietly; anything else goes out."""
    client = await Client(make_chat(kind)).connect()
    if source == "client":
        client.give(type_)
    else:
        await tell(layer, client, type_)
    await asyncio.wait([client.task], timeout=10)
    if type_ == "drop":
        assert client.task.cancelled()
    elif error is None:
        assert client.task.result() is None
    else:
        assert isinstance(client.task.exception(), error)


async def test_connect_that_fails(layer: Any, kind: str) -> None:
    """What `connect` raises goes out."""

    class Chat(*bases(kind, AsyncWebsocketConsumer)):  # type: ignore[misc]
        async def connect(self) -> None:
            raise ZeroDivisionError("on purpose")

    client = Client(Chat)
    client.give("websocket.connect")
    with pytest.raises(ZeroDivisionError):
        await client.end()


@pytest.mark.parametrize("error", [ZeroDivisionError("on purpose"), StopConsumer()])
async def test_receive_that_fails(layer: Any, kind: str, error: Exception) -> None:
    """What ``receive`` raises goes out, after what came before was handled."""
    client = await Client(make_chat(kind)).connect()
    client.say("last")
    client.give(error)
    await asyncio.wait([client.task], timeout=10)
    assert await client.hear() == ["client last"]
    expected = None if isinstance(error, StopConsumer) else error
    assert client.task.exception() is expected


async def test_receive_that_is_cancelled(layer: Any, kind: str) -> None:
    """A server that cancels ``receive`` ends the consumer."""
    client = await Client(make_chat(kind)).connect()
    client.give(asyncio.CancelledError())
    await asyncio.wait([client.task], timeout=10)
    assert client.task.cancelled()


MALFORMED: list[Any] = [
    {"type": "unknown"},
    {"type": "un.known"},
    {"type": "_hidden", "text": ""},
    {"type": ".hidden", "text": ""},
    {"type": "gate"},
    {"type": "sync"},
    {"type": ""},
    {"type": None},
    {"type": 5},
    {"type": ["said"]},
    {"text": "no type"},
    {},
]


@pytest.mark.parametrize("message", [*MALFORMED, None, "said", ["type"]], ids=str)
@pytest.mark.parametrize("dispatch", ["own", "inherited"])
async def test_malformed_events_raise_what_channels_raises(
    layer: Any, message: Any, dispatch: str
) -> None:
    """The same class and text, and more of it, with a ``dispatch`` of one's own and without."""
    errors = []
    for which in KINDS:
        chat = make_chat(which)
        if dispatch == "own":
            chat = make_chatty(chat)
        client = await Client(chat).connect()
        client._events.put_nowait(message)
        await asyncio.wait([client.task], timeout=10)
        error = client.task.exception()
        errors.append((type(error), str(error)))
    assert_alike(*errors)
    assert issubclass(errors[0][0], Exception)


def assert_alike(plain: tuple[type, str], ours: tuple[type, str]) -> None:
    """Fail if the mixin's error is not that of Channels, or says something else."""
    assert plain[0] is ours[0]
    if plain[1].startswith("No handler"):
        assert ours[1].startswith(f"{plain[1]} in make_chat")
    else:
        assert plain[1] == ours[1]


@pytest.mark.parametrize("message", MALFORMED, ids=str)
async def test_malformed_messages_raise_what_channels_raises(layer: Any, message: Any) -> None:
    """The same for what comes through the layer."""
    errors = []
    for which in KINDS:
        client = await Client(make_chat(which)).connect()
        await layer.send(client.instance.channel_name, message)
        await asyncio.wait([client.task], timeout=10)
        error = client.task.exception()
        errors.append((type(error), str(error)))
    assert_alike(*errors)


async def test_own_dispatch_sees_everything(layer: Any, kind: str) -> None:
    """In front of the mixin: client events and messages, and `super` finds the handler."""
    client = await Client(make_chatty(make_chat(kind))).connect()
    client.say("hello")
    assert await client.hear() == ["client hello"]
    await tell(layer, client, text="hello")
    assert await client.hear() == ["layer hello"]
    await client.leave()
    types = [message["type"] for message in client.instance.scope["dispatched"]]
    assert types == ["websocket.connect", "websocket.receive", "said", "websocket.disconnect"]


async def test_dispatch_of_a_base_class_is_not_left_out(layer: Any, kind: str) -> None:
    """Behind the mixin it is called as well, and so is that of Channels behind it."""
    client = await Client(make_chat(kind, make_chatty(AsyncWebsocketConsumer))).connect()
    await tell(layer, client, text="hello")
    assert await client.hear() == ["layer hello"]
    await client.leave()
    types = [message["type"] for message in client.instance.scope["dispatched"]]
    assert types == ["websocket.connect", "said", "websocket.disconnect"]


async def test_dispatch_that_keeps_events_to_itself(layer: Any, kind: str) -> None:
    """Whoever overrides `dispatch` may leave out handlers, and catch what they raise."""

    class Careful(make_chat(kind)):  # type: ignore[misc]
        async def dispatch(self, message: dict[str, Any]) -> None:
            try:
                if message.get("text") != "secret":
                    await super().dispatch(message)
            except ZeroDivisionError:
                await self.send(text_data="failed")

    client = await Client(Careful).connect()
    for text in ("secret", "open", "secret"):
        await tell(layer, client, text=text)
    await tell(layer, client, "fail")
    assert await client.hear(2) == ["layer open", "failed"]
    await client.leave()


async def test_dispatch_may_be_called_by_a_handler(layer: Any, kind: str) -> None:
    """A message may be passed on."""

    class Forwarder(make_chat(kind)):  # type: ignore[misc]
        async def forward(self, message: dict[str, Any]) -> None:
            await self.dispatch({"type": "said", "text": message["text"]})

    client = await Client(Forwarder).connect()
    await tell(layer, client, "forward", text="hello")
    assert await client.hear() == ["layer hello"]
    await client.leave()


async def test_handlers_run_in_the_consumers_own_task_and_context(layer: Any, kind: str) -> None:
    """What one handler sets the next one sees; what the client's side set is there."""

    class Chat(*bases(kind, AsyncWebsocketConsumer)):  # type: ignore[misc]
        async def connect(self) -> None:
            self.task = asyncio.current_task()
            self.first = VARIABLE.get()
            VARIABLE.set("connect")
            await self.accept()

        async def look(self, event: dict[str, Any]) -> None:
            assert asyncio.current_task() is self.task
            await self.send(text_data=f"{self.first} {VARIABLE.get()}")
            VARIABLE.set("look")

    context = contextvars.Context()
    context.run(VARIABLE.set, "server")
    client = await Client(Chat, context=context).connect()
    assert client.instance.task is client.task
    for seen in ("connect", "look"):
        await tell(layer, client, "look")
        assert await client.hear() == [f"server {seen}"]
    await client.leave()
    assert context[VARIABLE] == "server"


async def test_consumer_may_live_on_after_a_disconnect(layer: Any, kind: str) -> None:
    """If its handler does not say that it is over, ``receive`` is called again, as ever."""

    class Ghost(make_chat(kind)):  # type: ignore[misc]
        async def websocket_disconnect(self, message: dict[str, Any]) -> None:
            await self.send(text_data="disconnect")

    client = await Client(Ghost).connect()
    client.give("websocket.disconnect", code=1000)
    assert await client.hear() == ["disconnect"]
    await tell(layer, client, text="still here")
    assert await client.hear() == ["layer still here"]
    client.say("again")
    assert await client.hear() == ["client again"]
    client.give("stop")
    await client.end()


# All that Channels has


async def test_json_consumer(layer: Any, kind: str) -> None:
    """Through Channels' own communicator."""

    class Echo(*bases(kind, AsyncJsonWebsocketConsumer)):  # type: ignore[misc]
        groups = ("echo",)

        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.channel_layer.group_send("echo", {"type": "said", "content": content})

        async def said(self, event: dict[str, Any]) -> None:
            await self.send_json(event["content"])

    clients = [WebsocketCommunicator(Echo.as_asgi(), "/") for _ in range(3)]
    for client in clients:
        assert (await client.connect(10))[0]
    await clients[0].send_json_to({"a": [1, 2]})
    for client in clients:
        assert await client.receive_json_from(10) == {"a": [1, 2]}
    for client in clients:
        await client.disconnect(timeout=10)


async def test_http_consumer(layer: Any, kind: str) -> None:
    """Bodies in parts, and a response that waits for a message."""

    class Waiting(*bases(kind, AsyncHttpConsumer)):  # type: ignore[misc]
        async def handle(self, body: bytes) -> None:
            self.body = body
            await self.send_headers(headers=[(b"x", b"y")])
            await self.send_body(b"you said ", more_body=True)
            await self.channel_layer.send(self.channel_name, {"type": "now"})

        async def http_request(self, message: dict[str, Any]) -> None:
            try:
                await super().http_request(message)
            except StopConsumer:
                return  # not before the message

        async def now(self, event: dict[str, Any]) -> None:
            await self.send_body(self.body)
            raise StopConsumer

    client = HttpCommunicator(Waiting.as_asgi(), "POST", "/", b"hello")
    response = await client.get_response(10)
    assert (response["status"], response["body"]) == (200, b"you said hello")
    await client.wait(10)


@pytest.mark.parametrize("base", [WebsocketConsumer, JsonWebsocketConsumer])
async def test_sync_consumer(layer: Any, kind: str, base: type) -> None:
    """Handlers in a thread, `send` from there, and the sync verbs of the layer."""

    class Echo(*bases(kind, base)):  # type: ignore[misc]
        def connect(self) -> None:
            self.channel_layer.sync.group_add("echo", self.channel_name)
            self.accept()

        def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            self.channel_layer.sync.group_send("echo", {"type": "said", "text": text_data})

        def said(self, event: dict[str, Any]) -> None:
            WebsocketConsumer.send(self, text_data=event["text"])

        def fail(self, event: dict[str, Any]) -> None:
            raise ZeroDivisionError("on purpose")

    client = await Client(Echo).connect()
    for number in range(5):
        client.say(f"{number}")
    assert await client.hear(5) == [f"{number}" for number in range(5)]
    await tell(layer, client, "fail")
    with pytest.raises(ZeroDivisionError):
        await client.end()


async def test_consumer_under_a_worker(layer: Any, kind: str) -> None:
    """`runworker`'s class gives it messages of a worker channel; the layer gives it its own."""

    class Job(*bases(kind, AsyncConsumer)):  # type: ignore[misc]
        async def start(self, event: dict[str, Any]) -> None:
            await self.channel_layer.send(self.channel_name, {"type": "go.on", **event["job"]})

        async def go_on(self, event: dict[str, Any]) -> None:
            await self.channel_layer.send(event["to"], {"type": "done", "n": event["n"]})

    channel = await layer.new_channel()
    worker = asyncio.create_task(Worker(Job.as_asgi(), ["jobs"], layer).handle())
    for number in range(5):
        await layer.send("jobs", {"type": "start", "job": {"to": channel, "n": number}})
    done = [await asyncio.wait_for(layer.receive(channel), 10) for _ in range(5)]
    assert [message["n"] for message in done] == list(range(5))
    consumers = [task for task in asyncio.all_tasks() if "app" in repr(task.get_coro())]
    for task in (worker, *consumers):
        task.cancel()
    await asyncio.wait([worker, *consumers])
