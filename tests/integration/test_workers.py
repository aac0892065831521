"""Worker channels: one reader for each message, in whatever process."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from channels.exceptions import ChannelFull

from channels_mpx import MultiplexedChannelLayer
from tests.helpers import eventually
from tests.layers import Peer, environment, open_layer, reading, receive, receive_all
from tests.servers import RedisServer


@pytest.fixture
async def layer(redis_server: RedisServer) -> AsyncIterator[MultiplexedChannelLayer]:
    """Our own layer."""
    async with open_layer(redis_server, timeout=20) as layer:
        yield layer


async def test_receive_gives_a_message_to_exactly_one_reader(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """Of many readers, in one process and in two, each message reaches one."""
    async with open_layer(redis_server) as other:
        got: list[int] = []

        async def read(reader: MultiplexedChannelLayer) -> None:
            while True:
                got.append((await reader.receive("work"))["number"])

        readers = [asyncio.ensure_future(read(r)) for r in (layer, other) for _ in range(5)]
        for number in range(300):
            await layer.send("work", {"number": number})
        await eventually(lambda: len(got) >= 300)
        await layer.send("work", {"number": 300})
        await eventually(lambda: len(got) >= 301)
        assert sorted(got) == list(range(301))
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def test_receive_is_first_in_first_out(layer: MultiplexedChannelLayer) -> None:
    """One reader gets one sender's messages in order, whether it waits or comes later."""
    for number in range(50):
        await layer.send("work", {"number": number})
    assert [(await receive(layer, "work"))["number"] for _ in range(50)] == list(range(50))
    got: list[int] = []

    async def read() -> None:
        while len(got) < 50:
            got.append((await layer.receive("work"))["number"])

    reader = asyncio.ensure_future(read())
    for number in range(50):
        await layer.send("work", {"number": number})
    await asyncio.wait_for(reader, 10)
    assert got == list(range(50))


async def test_send_raises_channel_full_and_keeps_what_is_there(
    redis_server: RedisServer,
) -> None:
    """At capacity the sender is told, in another process too, and nothing that waits is lost."""
    async with open_layer(redis_server, capacity=3) as one, Peer(redis_server, capacity=3) as peer:
        for number in range(3):
            await one.send("work", {"number": number})
        with pytest.raises(ChannelFull, match="work"):
            await one.send("work", {"number": 3})
        with pytest.raises(RuntimeError, match="ChannelFull"):
            await peer.call("send", "work", {"number": 4})
        with pytest.raises(ChannelFull):
            await asyncio.to_thread(one.sync.send, "work", {"number": 5})
        assert [m["number"] for m in await receive_all(one, "work")] == [0, 1, 2]
        assert (await redis_keys(redis_server)) == []


async def redis_keys(server: RedisServer) -> list[str]:
    """Return all keys."""
    return list(server.command("KEYS", "*"))


async def test_messages_wait_for_a_worker_that_starts_within_expiry(
    redis_server: RedisServer,
) -> None:
    """What is sent while no worker runs, the worker that starts afterwards takes."""
    async with open_layer(redis_server) as sender:
        await sender.send("work", {"number": 1})
    async with Peer(redis_server) as worker:
        assert await worker.call("receive", "work") == {"number": 1}


async def test_messages_expire_while_no_worker_runs(redis_server: RedisServer) -> None:
    """What waits longer than `expiry` is dropped, and its key is gone from Redis by itself."""
    async with open_layer(redis_server, expiry=0.1) as sender:
        await sender.send("work", {"number": 1})
        await eventually(lambda: not redis_server.command("KEYS", "*"))
        assert await receive_all(sender, "work", 0.2) == []


async def test_three_workers_handle_ten_thousand_messages_once(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """Three processes share 10,000 messages: every one is handled, and none twice."""
    config = {"capacity": 100_000, "timeout": 20}
    async with AsyncExitStack() as stack:
        sender = await stack.enter_async_context(open_layer(redis_server, **config))
        peers = [await stack.enter_async_context(Peer(redis_server, **config)) for _ in range(3)]
        works = asyncio.gather(*(peer.call("work", "work", 3.0) for peer in peers))
        stack.callback(works.cancel)
        await eventually(lambda: redis_server.command("PUBSUB", "NUMSUB", "mpx:bell:work")[1] == 3)
        for start in range(0, 10_000, 500):
            batch = range(start, start + 500)
            await asyncio.gather(*(sender.send("work", {"number": n}) for n in batch))
        shares = await works
    assert sorted(number for share in shares for number in share) == list(range(10_000))
    assert all(shares), "one of the workers got nothing"
    for share in shares:
        assert share == sorted(share)


async def test_cancelled_receive_gives_its_message_back(
    make_redis: Callable[..., RedisServer],
) -> None:
    """A message that was popped for a reader who gave up goes to the next one, in its old place."""
    server = make_redis()
    async with open_layer(server) as layer:
        assert await receive_all(layer, "work", 0.1) == []
        for number in range(3):
            await layer.send("work", {"number": number})
        server.freeze()
        with pytest.raises(asyncio.TimeoutError):
            await receive(layer, "work", 0.1)
        server.thaw()
        await eventually(lambda: layer.statistics().connection.in_flight == 0)
        assert server.command("LLEN", "mpx:queue:work") == 3
        assert [m["number"] for m in await receive_all(layer, "work")] == [0, 1, 2]


async def test_cancelled_receives_lose_nothing(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """Readers that time out all the time, beside one sender, together get every message once."""
    got: list[int] = []

    async def read() -> None:
        while len(got) < 500:
            with contextlib.suppress(asyncio.TimeoutError):
                got.append((await asyncio.wait_for(layer.receive("work"), 0.001))["number"])

    async with open_layer(redis_server, capacity=1000) as sender:
        readers = [asyncio.ensure_future(read()) for _ in range(4)]
        for number in range(500):
            await sender.send("work", {"number": number})
        await asyncio.wait_for(asyncio.gather(*readers, return_exceptions=True), 30)
    assert sorted(got) == list(range(500))


async def test_receive_goes_on_after_garbage(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """Garbage in a queue is counted and skipped; the reader gets the next message."""
    async with reading(layer, "work") as reader:
        await layer.send("other", {"type": "warm-up"})
        redis_server.command("RPUSH", "mpx:queue:work", "9999999999999garbage")
        await layer.send("work", {"type": "a"})
        assert await reader == {"type": "a"}
    assert layer.statistics().dropped["malformed"] == 1


async def test_receive_survives_garbage_without_a_deadline(
    layer: MultiplexedChannelLayer, redis_server: RedisServer
) -> None:
    """An entry that is not even an entry does not stop a queue for ever."""
    redis_server.command("RPUSH", "mpx:queue:work", "garbage")
    await layer.send("work", {"type": "a"})
    assert await receive(layer, "work") == {"type": "a"}


WORKER = """
    import asyncio
    import sys

    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY="x",
        INSTALLED_APPS=["channels"],
        ASGI_APPLICATION="worker_app.application",
        CHANNEL_LAYERS={
            "default": {
                "BACKEND": "channels_mpx.MultiplexedChannelLayer",
                "CONFIG": {"hosts": [sys.argv[1]]},
            }
        },
    )
    django.setup()
    from channels.consumer import AsyncConsumer, SyncConsumer
    from channels.layers import get_channel_layer
    from channels.routing import ChannelNameRouter, ProtocolTypeRouter

    class Adder(AsyncConsumer):
        async def add(self, message):
            await self.channel_layer.send(message["reply"], {"sum": message["a"] + message["b"]})

    class Doubler(SyncConsumer):
        def double(self, message):
            get_channel_layer().sync.send(message["reply"], {"double": 2 * message["a"]})

    application = ProtocolTypeRouter(
        {"channel": ChannelNameRouter({"adder": Adder.as_asgi(), "doubler": Doubler.as_asgi()})}
    )
    if __name__ == "__main__":
        from django.core.management import call_command

        sys.modules["worker_app"] = sys.modules["__main__"]
        call_command("runworker", "adder", "doubler")
"""


async def test_runworker_serves_consumers(
    layer: MultiplexedChannelLayer, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Channels' own `manage.py runworker` feeds an async and a sync consumer."""
    script = tmp_path / "worker_app.py"
    script.write_text(textwrap.dedent(WORKER))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        redis_server.url,
        env=environment(),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        channel = await layer.new_channel()
        for number in range(20):
            await layer.send("adder", {"type": "add", "a": number, "b": 1, "reply": channel})
        assert [(await receive(layer, channel, 20))["sum"] for _ in range(20)] == list(range(1, 21))
        await layer.send("doubler", {"type": "double", "a": 21, "reply": channel})
        assert await receive(layer, channel) == {"double": 42}
    finally:
        if process.returncode is None:
            process.terminate()
        _, errors = await process.communicate()
    assert b"Traceback" not in errors, errors.decode()


def fill(server: RedisServer, expired: range, size: int) -> None:
    """Put entries into the queue ``work``, of which some have expired."""
    for number in range(size):
        deadline = "0000000000001" if number in expired else "9999999999999"
        server.command("RPUSH", "mpx:queue:work", f"{deadline}entry {number}")


async def test_expired_entries_of_a_long_queue_make_room(redis_server: RedisServer) -> None:
    """A sender looks at a part of a long queue only, each time at another one."""
    fill(redis_server, range(700, 720), 1500)
    async with open_layer(redis_server, capacity=1500) as layer:

        async def has_room() -> bool:
            with contextlib.suppress(ChannelFull):
                await layer.send("work", {"type": "a"})
                return True
            return False

        await eventually(has_room, 30)
        assert 1 <= layer.statistics().dropped["expired"] <= 20
        entries = redis_server.command("LRANGE", "mpx:queue:work", 0, 1499)
        assert len(entries) == 1501 - layer.statistics().dropped["expired"]
        fresh = [entry for entry in entries if b"9entry" in entry.encode()]
        assert len(fresh) == 1480


async def test_sender_that_may_not_remove_is_told_that_the_queue_is_full(
    make_redis: Callable[..., RedisServer],
) -> None:
    """An ACL that was written for an earlier version costs the room, and nothing else."""
    server = make_redis(users=["old on >secret ~* &* +@all -lset -lrem"])
    fill(server, range(1, 2), 3)
    url = server.url_for("old", "secret")
    async with open_layer([url], capacity=3) as old, open_layer(server, capacity=3) as new:
        with pytest.raises(ChannelFull):
            await old.send("work", {"type": "a"})
        await new.send("work", {"type": "a"})
        assert old.statistics().dropped["expired"] == 0
        assert new.statistics().dropped["expired"] == 1


async def test_deadline_keeps_its_digits(layer: MultiplexedChannelLayer) -> None:
    """However long a message may wait, its entry can be read."""
    push, payload = layer._process.workers.push, b"payload"
    await layer._hub.call(push, "work", payload, 10, 1e11)
    entry = await layer._hub.call(layer._process.workers.pop, "work")
    assert entry == b"9999999999999payload"
