"""What the mixin's loop does beyond Channels: order of arrival, back-pressure, hooks, requests."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import channel_layers

from channels_mpx import ConfigurationError, MultiplexedChannelLayer, NoListener, RemoteError
from channels_mpx.consumers import MultiplexedConsumerMixin
from tests.django.chats import make_chat, make_chatty, tell
from tests.django.client import Client, quiet
from tests.helpers import eventually

__all__ = ["quiet"]


def is_waiting(layer: MultiplexedChannelLayer, count: int) -> bool:
    """Whether so many items wait in all mailboxes."""
    return layer.statistics().waiting == count


async def test_order_of_arrival(layer: MultiplexedChannelLayer) -> None:
    """What came while a handler was busy is handled in the order in which it came, whence ever."""
    client = await Client(make_chat("mixin")).connect()
    client.instance.gate.clear()
    client.say("first")
    assert await client.hear() == ["client first"]
    for number in range(5):
        waiting = 2 * number
        client.say(f"{number}")
        await eventually(functools.partial(is_waiting, layer, waiting + 1))
        await tell(layer, client, text=f"{number}")
        await eventually(functools.partial(is_waiting, layer, waiting + 2))
    client.instance.gate.set()
    heard = await client.hear(10)
    assert heard == [f"{source} {number}" for number in range(5) for source in ("client", "layer")]
    await client.leave()


@pytest.mark.parametrize("read_ahead", [1, 3, 16])
async def test_back_pressure(layer: MultiplexedChannelLayer, read_ahead: int) -> None:
    """While a handler is busy ``receive`` is called so often and not once more."""
    chat = make_chat("mixin")
    chat.read_ahead = read_ahead
    client = await Client(chat).connect()
    client.instance.gate.clear()
    for number in range(40):
        client.say(f"{number}")
    assert await client.hear() == ["client 0"]
    # The connect, the one in hand, and those that wait.
    await eventually(lambda: client.calls == read_ahead + 2)
    for _ in range(50):
        await asyncio.sleep(0)
    assert client.calls == read_ahead + 2
    assert layer.statistics().waiting == read_ahead
    client.instance.gate.set()
    assert await client.hear(39) == [f"client {number}" for number in range(1, 40)]
    await client.leave()


async def test_nothing_is_read_after_a_disconnect(layer: MultiplexedChannelLayer) -> None:
    """Some servers would say again and again that the client has gone."""
    client = await Client(make_chat("mixin")).connect()
    client.instance.gate.clear()
    client.say("slow")
    assert await client.hear() == ["client slow"]
    client.give("websocket.disconnect", code=1000)
    await eventually(lambda: client.calls == 3)
    for _ in range(50):
        await asyncio.sleep(0)
    assert client.calls == 3
    client.instance.gate.set()
    await client.end()
    assert client.calls == 3


@pytest.mark.parametrize("event", ["websocket.receive", "websocket.disconnect"])
async def test_somebody_cancels_the_task_that_reads(
    layer: MultiplexedChannelLayer, event: str
) -> None:
    """The consumer ends as if ``receive`` had been cancelled, in its turn."""

    class Ghost(make_chat("mixin")):  # type: ignore[misc]
        async def websocket_disconnect(self, message: dict[str, Any]) -> None:
            await self._handle("disconnect")

    client = await Client(Ghost).connect()
    client.instance.gate.clear()
    client.give(event, text="slow", code=1000)
    await client.hear()
    name = client.instance.channel_name
    (pump,) = [task for task in asyncio.all_tasks() if task.get_name() == f"{name}.pump"]
    assert "Pump waiting=0/16" in repr(pump.get_coro().cr_frame.f_locals["self"])
    pump.cancel()
    client.instance.gate.set()
    await asyncio.wait([client.task], timeout=10)
    assert client.task.cancelled()


async def test_client_events_take_no_room_from_messages(hosts: list[str]) -> None:
    """``capacity`` is for the layer's messages, and so are the numbers."""
    layer = MultiplexedChannelLayer(hosts=hosts, capacity=5)
    old = channel_layers.set("default", layer)
    try:
        client = await Client(make_chat("mixin")).connect()
        client.instance.gate.clear()
        for number in range(12):
            client.say(f"{number}")
        assert await client.hear() == ["client 0"]
        await eventually(lambda: client.calls == 14)
        assert layer.statistics().delivered == 0
        for number in range(5):
            await tell(layer, client, text=f"{number}")
        await eventually(lambda: layer.statistics().waiting == 16)
        with pytest.raises(layer.ChannelFull):
            await tell(layer, client, text="too much")
        client.instance.gate.set()
        await client.hear(16)
        assert layer.statistics().delivered == 5
        assert layer.statistics().dropped["full"] == 0
        await client.leave()
    finally:
        channel_layers.backends.clear()
        assert old is None or isinstance(old, MultiplexedChannelLayer)
        await layer.aclose()


async def test_garbage_does_not_end_the_consumer(layer: MultiplexedChannelLayer) -> None:
    """A body that cannot be decoded is counted, and the next message is handled."""
    client = await Client(make_chat("mixin")).connect()
    name = client.instance.channel_name
    verb, (inbox, payload) = layer._preparation.send(name, {"type": "said", "text": "x"})
    await layer._hub.call(verb, inbox, payload[:-2])
    await tell(layer, client, text="still here")
    assert await client.hear() == ["layer still here"]
    assert layer.statistics().dropped["malformed"] == 1
    await client.leave()


class Item:
    """Something else to be handled, as mixins put it into the mailbox."""

    size = 1
    arrived = float("inf")

    async def deliver_to(self, consumer: Any) -> None:
        """Say so."""
        await consumer._handle("item")


async def test_other_items_have_themselves_handled(layer: MultiplexedChannelLayer) -> None:
    """In their turn, after a hop, also where `dispatch` is overridden."""
    for chat in (make_chat("mixin"), make_chatty(make_chat("mixin"))):
        client = await Client(chat).connect()
        assert client.instance._mpx is not None
        client.instance._mpx.mailbox.put(Item())
        await tell(layer, client, text="hello")
        assert await client.hear(2) == ["item", "layer hello"]
        await client.leave()


async def test_false_alarm(layer: MultiplexedChannelLayer) -> None:
    """Whoever is woken for nothing waits again, once."""
    client = await Client(make_chat("mixin")).connect()
    loop = client.instance._mpx
    await eventually(lambda: loop.mailbox.is_awaited)
    for alarm in (loop.mailbox._wake, lambda: loop.mailbox._release(loop)):
        alarm()
        assert loop.done()
        await eventually(lambda: not loop.done())
        assert loop.mailbox._waiters == [loop]
    await tell(layer, client, text="hello")
    assert await client.hear() == ["layer hello"]
    assert "Chat" in repr(loop)
    await client.leave()


async def test_late_alarm(layer: MultiplexedChannelLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has a message in hand and waits for the hop takes no second one."""
    gate, begun = threading.Event(), threading.Event()

    def close() -> None:
        begun.set()
        assert gate.wait(10)

    client = await Client(make_chat("mixin")).connect()
    mailbox = client.instance._mpx.mailbox
    await eventually(lambda: mailbox.is_awaited)
    monkeypatch.setattr("channels.db.close_old_connections", close)
    await tell(layer, client, text="first")
    await eventually(begun.is_set)
    await tell(layer, client, text="second")
    await eventually(lambda: len(mailbox) == 1)
    mailbox._release(client.instance._mpx)  # as another thread's call that comes too late
    assert len(mailbox) == 1
    gate.set()
    assert await client.hear(2) == ["layer first", "layer second"]
    await client.leave()


async def test_hooks_of_mixins(layer: MultiplexedChannelLayer) -> None:
    """`_begin` before the first event, `_client_event` at once, `_passes_over`, `_end`."""
    notes: list[Any] = []

    class Noting(make_chat("mixin")):  # type: ignore[misc]
        async def _begin(self) -> None:
            await super()._begin()
            assert self.channel_name in self.channel_layer._mailboxes
            notes.append("begin")

        def _client_event(self, event: dict[str, Any]) -> None:
            super()._client_event(event)
            notes.append(event["type"])

        def _passes_over(self, error: Exception) -> bool:
            return isinstance(error, ZeroDivisionError) or super()._passes_over(error)

        def _end(self) -> None:
            super()._end()
            assert self.channel_name in self.channel_layer._mailboxes
            notes.append("end")

    client = await Client(Noting).connect()
    assert notes == ["begin", "websocket.connect"]
    client.instance.gate.clear()
    client.say("slow")
    assert await client.hear() == ["client slow"]
    client.give("fail")
    client.give("unknown")
    await eventually(lambda: notes[-1] == "unknown")
    client.instance.gate.set()
    with pytest.raises(ValueError, match="No handler for message type unknown"):
        await client.end()
    assert notes[3:] == ["fail", "unknown", "end"]


async def test_begin_that_fails(layer: MultiplexedChannelLayer) -> None:
    """The consumer ends with it, and `_end` is called."""
    ended = []

    class Failing(make_chat("mixin")):  # type: ignore[misc]
        async def _begin(self) -> None:
            raise ZeroDivisionError("on purpose")

        def _end(self) -> None:
            ended.append(self.channel_name)

    client = Client(Failing)
    with pytest.raises(ZeroDivisionError):
        await client.end()
    assert (len(ended), client.calls) == (1, 0)


@pytest.mark.parametrize("source", ["client", "layer", "dispatch"])
@pytest.mark.parametrize("is_told", [True, False])
async def test_asker_is_told_of_an_error(
    layer: MultiplexedChannelLayer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    source: str,
    is_told: bool,
) -> None:
    """And the error goes out as ever, also if nobody can be told."""
    told = []

    async def reply_error(event: dict[str, Any], error: Exception) -> None:
        told.append((event["type"], error))
        if not is_told:
            raise ConnectionError("no way")

    monkeypatch.setattr(layer, "reply_error", reply_error, raising=False)
    chat = make_chat("mixin")
    client = await Client(make_chatty(chat) if source == "dispatch" else chat).connect()
    if source == "client":
        client.give("fail", **{"mpx.reply_to": "somebody"})
    else:
        await tell(layer, client, "fail", **{"mpx.reply_to": "somebody"})
    with pytest.raises(ZeroDivisionError) as caught:
        await client.end()
    assert told == [("fail", caught.value)]
    assert ("could not tell the sender of a request" in caplog.text) is not is_told


@pytest.mark.parametrize("type_", ["stop", "drop", "fail"])
async def test_nobody_else_is_told(
    layer: MultiplexedChannelLayer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    type_: str,
) -> None:
    """Neither of `StopConsumer` and cancellation, nor of what is no request."""
    monkeypatch.setattr(layer, "reply_error", None, raising=False)
    client = await Client(make_chat("mixin")).connect()
    extra = {} if type_ == "fail" else {"mpx.reply_to": "somebody"}
    await tell(layer, client, type_, **extra)
    (error,) = await asyncio.gather(client.task, return_exceptions=True)
    assert type(error) is {"stop": type(None), "drop": asyncio.CancelledError}.get(
        type_, ZeroDivisionError
    )
    assert not caplog.records


async def test_requests(layer: MultiplexedChannelLayer) -> None:
    """A handler answers what it was asked; what it raises is an answer too."""

    class Answering(make_chat("mixin")):  # type: ignore[misc]
        async def ask(self, event: dict[str, Any]) -> None:
            await self.reply(event, {"answer": 6 * event["number"]})

    client = await Client(Answering).connect()
    name = client.instance.channel_name
    numbers = range(10)
    answers = await asyncio.gather(
        *(layer.request(name, {"type": "ask", "number": number}) for number in numbers)
    )
    assert [answer["answer"] for answer in answers] == [6 * number for number in numbers]
    with pytest.raises(RemoteError, match="ZeroDivisionError: on purpose"):
        await layer.request(name, {"type": "fail"})
    with pytest.raises(ZeroDivisionError):
        await client.end()
    with pytest.raises(NoListener):
        await layer.request(name, {"type": "ask", "number": 7})


# How it may not be used


def test_mixin_comes_first() -> None:
    """Behind the consumer it would do nothing, and nobody would notice."""
    with pytest.raises(ConfigurationError, match="Wrong must have MultiplexedConsumerMixin before"):

        class Wrong(AsyncWebsocketConsumer, MultiplexedConsumerMixin):  # type: ignore[misc]
            pass


def test_call_of_a_base_class_is_not_left_out_in_silence() -> None:
    """It would be, so that it is refused; the class itself may have the mixin."""

    class Wrapping(AsyncWebsocketConsumer):  # type: ignore[misc]
        async def __call__(self, *args: Any) -> None:
            await super().__call__(*args)

    with pytest.raises(ConfigurationError, match="Wrapping, behind MultiplexedConsumerMixin in W"):

        class Wrong(MultiplexedConsumerMixin, Wrapping):
            pass

    class Right(MultiplexedConsumerMixin, AsyncWebsocketConsumer):
        async def __call__(self, *args: Any) -> None:
            await super().__call__(*args)

    class Further(Right):
        pass

    assert Further.read_ahead == 16


@pytest.mark.parametrize("read_ahead", [0, -1, None, "16", 1.5])
async def test_wrong_read_ahead(layer: MultiplexedChannelLayer, read_ahead: Any) -> None:
    """It is an error before anything is made."""
    chat = make_chat("mixin")
    chat.read_ahead = read_ahead
    with pytest.raises(ConfigurationError, match="read_ahead of a consumer must be 1 or more"):
        await Client(chat).end()
    assert layer.statistics().channels == 0
