"""What went wrong once between threads and loops, and must not again."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import pytest
from redis.credentials import CredentialProvider

from channels_mpx import ClosedError, Multiplexer, couriers
from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK, open_layer, receive
from tests.servers import RedisServer

MakeRedis = Callable[..., RedisServer]


class Moody(CredentialProvider):
    """Credentials that fail with something odd when they are asked for again."""

    def __init__(self) -> None:
        self.asked = 0

    def get_credentials(self) -> tuple[str, str]:
        self.asked += 1
        if self.asked == 2:
            raise KeyError("an unforeseen error")
        return "site", "pw"


async def test_any_error_of_a_dial_is_survived(make_redis: MakeRedis) -> None:
    """Whatever a credential provider raises while reconnecting, consumers go on receiving."""
    server = make_redis(users=["site on >pw ~* &* +@all"])
    moody = Moody()
    host = {"host": "127.0.0.1", "port": server.port, "credential_provider": moody}
    async with open_layer([host], **QUICK) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        server.command("CLIENT", "KILL", "USER", "site")
        await eventually(lambda: layer.statistics().connection.epoch == 2)
        assert moody.asked == 3
        await eventually(lambda: layer.statistics().connection.active == 2)
        await layer.group_send("room", {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}


def test_loops_that_are_over_are_collected() -> None:
    """What brings results back to a short loop does not keep it."""
    layer = Broker().layer()
    before = len(couriers._couriers)
    for _ in range(50):
        asyncio.run(layer.group_send("room", {"type": "a"}))
    gc.collect()
    assert len(couriers._couriers) - before <= 2
    layer.sync.close()


async def test_a_busy_consumer_that_flushed_receives_again() -> None:
    """The layer connects again for a consumer that is there, and reads only later."""
    broker = Broker()
    here, there = broker.layer(), broker.layer()
    channel = await here.new_channel()
    await here.flush()
    await eventually(lambda: here.statistics().connection.active == 1)
    reader = asyncio.ensure_future(receive(here, channel))
    await there.send(channel, {"type": "a"})
    assert await reader == {"type": "a"}
    await here.aclose()
    await there.aclose()


async def test_aclose_gives_back_what_is_being_popped(redis_server: RedisServer) -> None:
    """A message that was popped for a reader that the layer closes on is not lost."""
    async with open_layer(redis_server) as sender:
        for number in range(20):
            async with open_layer(redis_server) as layer:
                reader = asyncio.ensure_future(receive(layer, "work"))
                await asyncio.sleep(0)
                await sender.send("work", {"number": number})
                await layer.aclose()
                outcome = (await asyncio.gather(reader, return_exceptions=True))[0]
            if isinstance(outcome, ClosedError):
                outcome = await receive(sender, "work")
            assert outcome == {"number": number}


async def test_statistics_may_be_read_by_any_thread() -> None:
    """Reading the numbers while groups come and go raises nothing."""
    layer = Broker().layer()
    channel = await layer.new_channel()
    errors: list[BaseException] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                layer.statistics()
            except BaseException as error:
                errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(300):
        await layer.group_add(f"g{number}", channel)
    for number in range(300):
        await layer.group_discard(f"g{number}", channel)
    over.set()
    thread.join()
    assert errors == []
    await layer.aclose()


async def test_patterns_do_not_bring_what_the_layer_sends(redis_server: RedisServer) -> None:
    """A pattern that fits the prefix gets other programs' messages, and none of the layer's."""
    got: list[bytes] = []
    async with open_layer(redis_server) as layer, Multiplexer(redis_server.url) as mpx:
        pattern = mpx.new_pattern_subscription("m*", lambda channel, _: got.append(channel))
        await eventually(lambda: mpx.statistics().active >= 1)
        await layer.group_send("secret", {"type": "a"})
        await mpx.publish("metrics", "1")
        await eventually(lambda: got)
        assert got == [b"metrics"]
        pattern.close()


@pytest.mark.skipif(not hasattr(asyncio.Task, "cancelling"), reason="Python 3.11 tells them apart")
async def test_a_callback_that_awaits_what_is_cancelled_does_not_end_its_subscription(
    redis_server: RedisServer,
) -> None:
    """The next message is told as usual."""
    got: list[bytes] = []

    async def on_message(channel: bytes, payload: bytes) -> None:
        got.append(payload)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with Multiplexer(redis_server.url) as mpx:
        subscription = mpx.new_channel_subscription(on_message)
        subscription.add("news")
        await eventually(lambda: mpx.statistics().active >= 1)
        await mpx.publish("news", "1")
        await mpx.publish("news", "2")
        await eventually(lambda: got == [b"1", b"2"])
        subscription.close()


async def test_cancelled_readers_of_a_worker_channel_swallow_nothing() -> None:
    """However early a reader on another loop is cancelled, the next one gets the message."""
    layer = Broker().layer()
    await layer.new_channel()

    def elsewhere() -> None:
        async def give_up() -> None:
            for turns in range(12):
                reader = asyncio.ensure_future(layer.receive("work"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)

        asyncio.run(give_up())

    await asyncio.to_thread(elsewhere)
    await layer.send("work", {"type": "a"})
    assert await receive(layer, "work", 5) == {"type": "a"}
    await layer.aclose()
