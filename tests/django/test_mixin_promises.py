"""Promises in consumers: a handler waits, and whatever becomes of it, nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.testing import WebsocketCommunicator

from channels_mpx import (
    MPXError,
    MultiplexedChannelLayer,
    Promise,
    PromiseCancelled,
    PromiseSubscription,
    PromiseTimeout,
    SubscriptionIsClosed,
)
from channels_mpx.consumers import PromiseMixin
from channels_mpx.testing import Broker
from tests.django.client import Client, is_empty, others, quiet
from tests.django.talk import Obedient, Place, Talker, default, open_talker, place
from tests.helpers import eventually
from tests.layers import run_script
from tests.servers import RedisServer

__all__ = ["default", "place", "quiet"]


class Payer(Obedient, PromiseMixin, AsyncJsonWebsocketConsumer):
    """Says when a promise exists, and notes what becomes of its handlers."""

    payload = "text"

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    async def pay(self, order: str, timeout: float = 60) -> Any:
        """Wait for what is said about an order."""
        promise = await self.promise_created("pay.", order, timeout)
        await self.send_json("waiting")
        return await promise

    async def insist(self) -> None:
        """Wait, and do not let the release pass."""
        try:
            await self.pay("insist")
        except PromiseCancelled as error:
            self.notes.append(error.reason)  # type: ignore[attr-defined]
            with contextlib.suppress(PromiseCancelled):
                await self.promise("pay.", "again", 60)
            self.notes.append("insisted")

    async def receive_json(self, content: Any) -> None:
        """Let what is no news to the client pass."""
        self.notes.append(content[0])
        try:
            await super().receive_json(content)
        finally:
            self.notes.append("handled")

    async def said(self, event: dict[str, Any]) -> None:
        """Note it."""
        self.notes.append(event["text"])

    async def disconnect(self, code: int) -> None:
        """Note it."""
        self.notes.append("farewell")


class Letting(Payer):
    """Lets the release pass."""

    async def receive_json(self, content: Any) -> None:
        """Let the release pass."""
        self.notes.append(content[0])
        await self.send_json(await getattr(self, content[0])(*content[1:]))


def outstanding(layer: MultiplexedChannelLayer) -> int:
    """Return how many promises there are in the process."""
    ledgers = [ledger for ledger, _ in layer._process.board._ledgers.values()]
    return sum(len(ledger._outstanding) for ledger in ledgers)


async def is_left_clean(layer: MultiplexedChannelLayer, place: Place) -> bool:
    """Whether nothing of any consumer is left, here and in Redis."""
    is_clean = is_empty(layer) and not outstanding(layer) and not place.numpat()
    return is_clean and not others()


# Kept


async def test_a_plain_publish_keeps_it(layer: Any, place: Place) -> None:
    """From the moment when it exists; other names do not."""
    talker = await open_talker(Payer)
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    assert place.publish("pay.2", "other") == 1
    assert place.publish("pay.1", "approved") == 1
    assert await talker.next() == ["done", "approved"]
    assert await talker.ask("promise", "pay.", "1", 0.01) == "PromiseTimeout"
    await talker.leave()
    await eventually(lambda: is_left_clean(layer, place))


async def test_another_consumer_keeps_it(layer: Any, place: Place) -> None:
    """Two promises on one name are both kept by one message, and share one pattern."""

    class Bank(Payer):
        async def approve(self, order: str) -> int:
            published: int = await self.channel_layer.multiplexer.publish(f"pay.{order}", "yes")
            return published

    payers, bank = [await open_talker(Payer) for _ in range(3)], await open_talker(Bank)
    for payer in payers:
        payer.tell("pay", "1")
        assert await payer.next() == "waiting"
    assert (place.numpat(), outstanding(layer)) == (1, 1)
    assert await bank.ask("approve", "1") == 1
    for payer in payers:
        assert await payer.next() == ["done", "yes"]
    assert outstanding(layer) == 0
    for talker in (*payers, bank):
        await talker.leave()
    await eventually(lambda: is_left_clean(layer, place))


async def test_another_process_keeps_it(redis_server: RedisServer, default: Any) -> None:
    """Through a multiplexer of its own."""
    layer = default(MultiplexedChannelLayer(hosts=[redis_server.url]))
    talker = await open_talker(Payer)
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    source = """
        import sys
        from channels_mpx import Multiplexer
        mpx = Multiplexer(sys.argv[1])
        assert mpx.sync.publish("pay.1", "from afar") == 1
        mpx.close()
    """
    await asyncio.to_thread(run_script, source, redis_server.url)
    assert await talker.next() == ["done", "from afar"]
    await talker.leave()
    await eventually(lambda: is_left_clean(layer, Place(redis_server)))


async def test_the_prefix_is_plain_text(layer: Any, place: Place) -> None:
    """Special characters of globs have no meaning in it, nor in the suffix."""
    talker = await open_talker(Payer)
    promise = await talker.instance.promise_created("*[a]?\\", "*", 60)
    place.publish("xa?\\*", "no")
    place.publish("*[a]?\\x", "no")
    place.publish("*[a]?\\*", "yes")
    assert await promise == "yes"
    await talker.leave()


@pytest.mark.parametrize(
    ("payload", "good", "value", "bad"),
    [
        ("bytes", b"\xff", b"\xff", None),
        ("text", b"yes", "yes", b"\xff"),
        ("json", b"null", None, b"yes"),
        ("msgpack", b"\xc0", None, b"\x92"),
    ],
)
async def test_payloads(
    layer: Any, place: Place, payload: str, good: bytes, value: Any, bad: bytes | None
) -> None:
    """Both forms decode; what cannot be decoded is counted, and raised where it is awaited."""
    talker = await open_talker(type("Reading", (Payer,), {"payload": payload}))
    consumer = talker.instance
    promise = await consumer.promise_created("pay.", "1", 60)
    waiting = asyncio.ensure_future(consumer.promise("pay.", "1", 60))
    await eventually(lambda: len(layer._process.board._ledgers[b"pay."][0]._outstanding) == 1)
    await eventually(lambda: consumer._promise_subscriptions[b"pay."].outstanding == 2)
    place.publish("pay.1", good)
    assert await promise == value
    assert await waiting == value
    if bad is not None:
        promise = await consumer.promise_created("pay.", "1", 60)
        forgotten = await consumer.promise_created("pay.", "1", 60)
        place.publish("pay.1", bad)
        with pytest.raises(ValueError, match=f"the payload is not {payload!r}: "):
            await promise
        assert consumer.bad_payloads == layer.statistics().dropped["malformed"] == 2
        await eventually(forgotten.done)
    await talker.leave()


# Not kept


async def test_the_deadline_runs_from_the_making(layer: Any, place: Place) -> None:
    """Awaited or not, whatever the consumer's loop is doing."""
    talker = await open_talker(Payer)
    began = time.monotonic()
    promise = await talker.instance.promise_created("pay.", "1", 0.05)
    assert isinstance(promise, Promise)
    assert (promise.name, promise.seconds) == (b"pay.1", 0.05)
    assert 0 <= promise.deadline - began - 0.05 < 5
    forgotten = await talker.instance.promise_created("pay.", "2", 0.05)
    await eventually(lambda: promise.done() and forgotten.done())
    with pytest.raises(PromiseTimeout, match=r"'pay\.1' within 0\.05 s"):
        await promise
    assert not promise.is_outstanding
    assert outstanding(layer) == 0
    await talker.leave()


async def test_a_killed_link_interrupts_it(layer: Any, place: Place) -> None:
    """With the reason; the consumer lives, and the next promise waits for the next link."""
    talker = await open_talker(Payer)
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    place.kill()
    assert await talker.next() == ["done", "PromiseInterrupted"]
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    assert place.publish("pay.1", "again") == 1
    assert await talker.next() == ["done", "again"]
    assert layer.statistics().connection.epoch == 2
    await talker.leave()


async def test_a_link_that_is_lost_between_waiting_and_making(
    layer: Any, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for again."""
    talker = await open_talker(Payer)
    await talker.instance.promise_created("pay.", "0", 0)
    wait = PromiseSubscription.wait_for_activation
    waited = []

    async def wait_and_lose(self: PromiseSubscription, timeout: float | None = None) -> None:
        waited.append(timeout)
        if len(waited) > 1:
            await wait(self, timeout)
            return
        place.kill()
        while self.active:  # each turn of the loop: the next link is soon there
            await asyncio.sleep(0)

    monkeypatch.setattr(PromiseSubscription, "wait_for_activation", wait_and_lose)
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    assert len(waited) == 2
    place.publish("pay.1", "yes")
    assert await talker.next() == ["done", "yes"]
    await talker.leave()


async def test_a_promise_that_its_owner_cancels(layer: Any, place: Place) -> None:
    """Is forgotten at once; so is one whose awaiting task is cancelled."""
    talker = await open_talker(Payer)
    promise = await talker.instance.promise_created("pay.", "1", 60)
    promise.cancel()
    task = asyncio.ensure_future(talker.instance.promise("pay.", "2", 60))
    await eventually(lambda: outstanding(layer) == 1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await eventually(lambda: outstanding(layer) == 0)
    assert talker.instance._promise_subscriptions[b"pay."].outstanding == 0
    place.publish("pay.1", "late")
    assert await talker.ask("promise", "pay.", "1", 0) == "PromiseTimeout"
    await talker.leave()


async def test_promises_at_one_time(layer: Any, place: Place) -> None:
    """A consumer's tasks share one subscription for each prefix, also while they wait for it."""

    class Slow(Payer):
        async def authorize_subscription(self, kind: str, name: bytes) -> bool:
            await asyncio.sleep(0)
            return True

    talker = await open_talker(Slow)
    pays = [talker.instance.promise("mpx", f"{number}", 60) for number in range(3)]
    tasks = [asyncio.ensure_future(pay) for pay in pays]
    await eventually(lambda: outstanding(layer) == 3)
    assert len(layer._process.board._ledgers[b"mpx"][1]) == 1
    for number in range(3):
        place.publish(f"mpx{number}", str(number))
    assert await asyncio.gather(*tasks) == ["0", "1", "2"]
    await talker.leave()
    await eventually(lambda: is_left_clean(layer, place))


async def test_closing_the_layers_multiplexer_gives_them_up(layer: Any, place: Place) -> None:
    """The handler gets an error; the next promise makes a new subscription."""
    talker = await open_talker(Payer)
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    await layer.multiplexer.aclose()
    assert await talker.next() == ["done", "PromiseCancelled"]
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    place.publish("pay.1", "yes")
    assert await talker.next() == ["done", "yes"]
    await talker.leave()


# The client goes away


async def test_the_client_goes_away(layer: Any, place: Place) -> None:
    """The handler is released at once, the farewell is said, and nothing is left."""
    for consumer in (Payer, Letting):
        talker = await open_talker(consumer)
        talker.tell("pay", "1")
        assert await talker.next() == "waiting"
        assert outstanding(layer) == 1
        await talker.leave()
        assert talker.instance.notes[-1] == "farewell"
        await eventually(lambda: is_left_clean(layer, place))


async def test_the_client_goes_away_from_a_communicator(layer: Any, place: Place) -> None:
    """As users test it."""
    communicator = WebsocketCommunicator(Letting.as_asgi(), "/")
    assert (await communicator.connect())[0]
    await communicator.send_json_to(["promise", "pay.", "1", 60])
    await eventually(lambda: outstanding(layer) == 1)
    await communicator.disconnect(timeout=10)
    await eventually(lambda: is_left_clean(layer, place))


async def test_other_events_wait_before_the_farewell(layer: Any, place: Place) -> None:
    """They are handled, each is released in its turn, and so are messages of the layer."""
    talker = await open_talker(Letting)
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    await layer.send(talker.instance.channel_name, {"type": "said", "text": "layer"})
    for number in range(2, 10):
        talker.tell("pay", str(number))
    talker.tell("both")
    await talker.leave()
    assert talker.instance.notes == ["pay", "layer", *["pay"] * 8, "both", "farewell"]
    await eventually(lambda: is_left_clean(layer, place))


async def test_too_many_events_wait_before_the_farewell(layer: Any, place: Place) -> None:
    """With more than `read_ahead` of them it is not read, and the handler waits on."""
    talker = await open_talker(type("Near", (Letting,), {"read_ahead": 2}))
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    for _ in range(3):
        talker.tell("both")
    talker.give("websocket.disconnect", code=1000)
    await eventually(lambda: talker.calls == 4)
    assert outstanding(layer) == 1
    place.publish("pay.1", "yes")
    await talker.end()
    assert talker.instance.notes == ["pay", *["both"] * 3, "farewell"]


async def test_a_handler_that_does_not_let_it_pass(layer: Any, place: Place) -> None:
    """Goes on; its next promise is released at once too."""
    talker = await open_talker(Payer)
    talker.tell("insist")
    assert await talker.next() == "waiting"
    await talker.leave()
    assert talker.instance.notes == [
        *("insist", "the client has gone away", "insisted", "handled", "farewell")
    ]


async def test_the_client_goes_away_before_the_promise_exists(default: Any) -> None:
    """While the link is down, and while it is being authorised."""
    broker = Broker()
    layer = default(broker.layer(max_reconnect_delay=0.05))
    gate = asyncio.Event()
    gate.set()

    class Thinking(Letting):
        async def authorize_subscription(self, kind: str, name: bytes) -> bool:
            self.notes.append("asked")
            await gate.wait()
            return True

    talker = await open_talker(Thinking)
    with broker.down():
        talker.tell("promise", "pay.", "1", 60)
        await eventually(lambda: layer.statistics().connection.wanted == 2)
        await talker.leave()
    assert talker.instance.notes == ["promise", "asked", "farewell"]

    talker = await open_talker(Thinking)
    gate.clear()
    talker.tell("promise", "pay.", "1", 60)
    await eventually(lambda: talker.instance.notes == ["promise", "asked"])
    talker.give("websocket.disconnect", code=1000)
    await eventually(lambda: bool(talker.instance._promises_ended))
    gate.set()
    await talker.end()
    assert talker.instance.notes == ["promise", "asked", "farewell"]
    await eventually(lambda: is_left_clean(layer, Place(broker)))


async def test_the_multiplexer_is_closed_before_the_promise_exists(default: Any) -> None:
    """That is an error: the client is there."""
    broker = Broker()
    layer = default(broker.layer(max_reconnect_delay=0.05))
    talker = await open_talker(Letting)
    with broker.down():
        talker.tell("promise", "pay.", "1", 60)
        await eventually(lambda: layer.statistics().connection.wanted == 2)
        await layer.multiplexer.aclose()
        with pytest.raises(SubscriptionIsClosed):
            await talker.end()


async def test_a_promise_in_the_farewell(layer: Any, place: Place) -> None:
    """Nobody is there to wait for it: the error is as any other, and the consumer ends."""

    class Late(Letting):
        async def disconnect(self, code: int) -> None:
            await self.promise("pay.", "late", 60)

    talker = await open_talker(Late)
    talker.give("websocket.disconnect", code=1000)
    with pytest.raises(PromiseCancelled, match="the client has gone away"):
        await talker.end()
    await eventually(lambda: is_left_clean(layer, place))


async def test_another_error_is_not_let_pass(layer: Any, place: Place) -> None:
    """What a handler makes of the release is its own error."""

    class Converting(Letting):
        async def pay(self, order: str, timeout: float = 60) -> Any:
            try:
                return await super().pay(order, timeout)
            except PromiseCancelled as error:
                raise ZeroDivisionError("on purpose") from error

    talker = await open_talker(Converting)
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    talker.give("websocket.disconnect", code=1000)
    with pytest.raises(ZeroDivisionError):
        await talker.end()
    assert talker.instance.notes == ["pay"]


class Page(PromiseMixin, AsyncHttpConsumer):
    """A long poll."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Any] = []

    async def handle(self, body: bytes) -> None:
        """Answer with what is published."""
        await self.send_headers()
        await self.send_body(b"", more_body=True)
        await self.send_body(await self.promise("poll.", body, 60))

    async def said(self, event: dict[str, Any]) -> None:
        """Wait for something."""
        await self.promise("poll.", event["text"], 60)

    async def disconnect(self) -> None:
        """Note it."""
        self.notes.append("farewell")


async def test_http_long_poll(layer: Any, place: Place) -> None:
    """It is answered by a publish; `disconnect` is called once."""
    client = Client(Page, {"type": "http"})
    client.give("http.request", body=b"1")
    assert await client.hear(2) == ["http.response.start", "http.response.body"]
    await eventually(lambda: outstanding(layer) == 1)
    place.publish("poll.1", "now")
    await client.end()
    assert client.sent == [{"type": "http.response.body", "body": b"now", "more_body": False}]
    assert client.instance.notes == ["farewell"]
    await eventually(lambda: is_left_clean(layer, place))


async def test_http_client_goes_away(layer: Any, place: Place) -> None:
    """The handler is released, and `disconnect` is called once, as if it had returned."""
    client = Client(Page, {"type": "http"})
    client.give("http.request", body=b"1")
    await eventually(lambda: outstanding(layer) == 1)
    client.give("http.disconnect")
    await client.end()
    assert client.instance.notes == ["farewell"]
    await eventually(lambda: is_left_clean(layer, place))


async def test_http_client_goes_away_while_a_message_is_handled(layer: Any, place: Place) -> None:
    """Then its farewell is to come."""
    client = Client(Page, {"type": "http"})
    client.give("http.request", body=b"1", more_body=True)
    await eventually(lambda: layer.statistics().channels == 1)
    await layer.send(client.instance.channel_name, {"type": "said", "text": "x"})
    await eventually(lambda: outstanding(layer) == 1)
    client.give("http.disconnect")
    await client.end()
    assert client.instance.notes == ["farewell"]


async def test_http_consumer_that_stays(layer: Any, place: Place) -> None:
    """With an `http_request` of its own, the farewell is another event."""

    class Stream(Page):
        async def http_request(self, message: Any) -> None:
            await self.handle(message["body"])

        async def http_disconnect(self, message: Any) -> None:
            self.notes.append("gone")
            await super().http_disconnect(message)

    client = Client(Stream, {"type": "http"})
    client.give("http.request", body=b"1")
    await eventually(lambda: outstanding(layer) == 1)
    client.give("http.disconnect")
    await client.end()
    assert client.instance.notes == ["gone", "farewell"]


# The consumer ends


@pytest.mark.parametrize("way", ["exception", "cancel", "stop", "receive"])
async def test_however_the_consumer_ends(layer: Any, place: Place, way: str) -> None:
    """Its promises are given up and forgotten at once; nobody is warned of anything."""
    outcomes: list[Any] = []

    class Ending(Payer):
        async def hold(self) -> None:
            for number in range(5):
                await self.promise_created("pay.", f"forgotten{number}", 60)
            promise = await self.promise_created("pay.", "beside", 60)
            promise.add_done_callback(lambda promise: outcomes.append(promise.exception()))

        async def fail(self) -> None:
            raise ZeroDivisionError("on purpose")

    talker = await open_talker(Ending)
    assert await talker.ask("hold") is None
    assert (outstanding(layer), place.numpat()) == (6, 1)
    if way == "exception":
        talker.tell("fail")
    elif way == "cancel":
        talker.tell("pay", "awaited")
        assert await talker.next() == "waiting"
        talker.task.cancel()
    elif way == "stop":
        talker.give("websocket.disconnect", code=1000)
    else:
        talker.give(ZeroDivisionError("on purpose"))
    (ended,) = await asyncio.wait_for(asyncio.gather(talker.task, return_exceptions=True), 10)
    assert type(ended) is {
        "cancel": asyncio.CancelledError,
        "stop": type(None),
    }.get(way, ZeroDivisionError)
    assert (outstanding(layer), is_empty(layer)) == (0, True)
    await eventually(lambda: is_left_clean(layer, place))
    await eventually(lambda: layer.statistics().connection.patterns == 0)
    (error,) = outcomes
    reason = "the client has gone away" if way == "stop" else "its consumer has ended"
    assert isinstance(error, PromiseCancelled)
    assert reason in str(error)
    with pytest.raises(PromiseCancelled, match="its consumer has ended"):
        await talker.instance.promise("pay.", "after the end", 60)


async def test_nothing_holds_a_consumer_that_has_ended(layer: Any, place: Place) -> None:
    """Neither its promises nor its subscriptions keep it in memory."""
    import weakref

    talker: Talker | None = await open_talker(Letting)
    assert talker is not None
    talker.tell("pay", "1")
    assert await talker.next() == "waiting"
    watch = weakref.ref(talker.instance)
    await talker.leave()
    talker = None
    await eventually(lambda: gc.collect() >= 0 and watch() is None)


async def test_a_consumer_without_init(layer: Any, place: Place) -> None:
    """Channels asks nobody to call `super().__init__()`, nor do we."""

    class Plain(PromiseMixin, AsyncConsumer):
        def __init__(self) -> None:
            self.kept: list[Any] = []

        async def go(self, event: Any) -> None:
            self.kept.append(await self.promise("pay.", "1", 60))

    client = Client(Plain, {"type": "worker"})
    client.give("go")
    await eventually(lambda: outstanding(layer) == 1)
    place.publish("pay.1", "yes")
    await eventually(lambda: client.instance.kept == [b"yes"])
    await client.cancel()
    await eventually(lambda: is_left_clean(layer, place))


async def test_consumers_on_another_loop(layer: Any, place: Place) -> None:
    """Kept, failed and given up in a thread whose loop is not the connection's."""
    here = await open_talker(Payer)  # this loop is home from now on

    async def elsewhere() -> None:
        talker = await open_talker(Payer)
        talker.tell("pay", "1")
        assert await talker.next() == "waiting"
        assert place.publish("pay.1", "yes") == 1
        assert await talker.next() == ["done", "yes"]
        assert await talker.ask("promise", "pay.", "1", 0.01) == "PromiseTimeout"
        talker.tell("pay", "2")
        assert await talker.next() == "waiting"
        await talker.leave()

    await asyncio.to_thread(asyncio.run, elsewhere())
    await here.leave()
    await eventually(lambda: is_left_clean(layer, place))


async def test_who_asked_is_told_of_a_release(layer: Any, place: Place) -> None:
    """A request whose handler waits for a promise fails with it."""

    class Answering(Payer):
        async def question(self, event: dict[str, Any]) -> None:
            await self.promise("pay.", "1", 60)

    talker = await open_talker(Answering)
    asking = asyncio.ensure_future(
        layer.request(talker.instance.channel_name, {"type": "question"}, timeout=60)
    )
    await eventually(lambda: outstanding(layer) == 1)
    await talker.leave()
    with pytest.raises(MPXError, match="the client has gone away"):
        await asking


async def test_many_promises_of_many_consumers(
    layer: Any, place: Place, make_redis: Callable[..., RedisServer]
) -> None:
    """Two thousand at one time: each gets its own, and one pattern carries all."""
    talkers = [await open_talker(Payer) for _ in range(20)]
    tasks = [
        asyncio.ensure_future(talker.instance.promise("many.", f"{at}.{number}", 60))
        for at, talker in enumerate(talkers)
        for number in range(100)
    ]
    await eventually(lambda: outstanding(layer) == 2000)
    assert place.numpat() == 1
    for at in reversed(range(20)):
        for number in reversed(range(100)):
            place.publish(f"many.{at}.{number}", f"{at}.{number}")
    kept = await asyncio.gather(*tasks)
    assert kept == [f"{at}.{number}" for at in range(20) for number in range(100)]
    for talker in talkers:
        await talker.leave()
    await eventually(lambda: is_left_clean(layer, place))
