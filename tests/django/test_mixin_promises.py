"""Promises in consumers: a handler waits, and whatever becomes of it, nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest
from channels.consumer import AsyncConsumer

from channels_mpx import (
    MPXError,
    MultiplexedChannelLayer,
    Promise,
    PromiseCancelled,
    PromiseSubscription,
    PromiseTimeout,
)
from channels_mpx.consumers import PromiseMixin
from tests.django.client import Client, is_empty, quiet
from tests.django.payers import Letting, Payer, is_left_clean, outstanding
from tests.django.talk import Place, Talker, default, open_talker, place
from tests.helpers import eventually
from tests.layers import run_script
from tests.servers import RedisServer

__all__ = ["default", "place", "quiet"]


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
    made = time.monotonic()
    assert isinstance(promise, Promise)
    assert (promise.name, promise.seconds) == (b"pay.1", 0.05)
    assert began <= promise.deadline - 0.05 + 1e-6
    assert promise.deadline - 0.05 - 1e-6 <= made
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
