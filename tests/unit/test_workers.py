"""Worker channels when Redis cannot, will not, or holds something strange."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from channels_mpx import CommandRefused, envelope, queues
from channels_mpx.envelope import Form
from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK, open_layer, reading, receive, subscriptions
from tests.servers import RedisServer


async def test_reader_waits_while_the_server_is_a_replica(
    make_redis: Callable[..., RedisServer],
) -> None:
    """A pop that is refused costs the link, not the reader; the message comes afterwards."""
    server, other = make_redis(), make_redis()
    async with open_layer(server, **QUICK) as layer:
        await layer.new_channel()
        server.command("REPLICAOF", other.host, other.port)
        async with reading(layer, "work") as reader:
            await eventually(lambda: "replica" in (layer.statistics().connection.last_error or ""))
            server.command("REPLICAOF", "NO", "ONE")
            await eventually(lambda: layer.statistics().connection.state == "connected")
            await layer.send("work", {"type": "a"})
            assert await reader == {"type": "a"}


async def test_reader_waits_while_the_server_is_busy(
    make_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that passes is waited out; the message comes afterwards."""
    monkeypatch.setattr(queues, "PAUSE", 0.02)
    server = make_redis()
    async with open_layer(server, **QUICK) as layer:
        await layer.new_channel()
        async with reading(layer, "work") as reader:
            await eventually(lambda: "work demand=1" in repr(layer._process.workers))
            queue = layer._process.workers._queues["work"]
            await eventually(lambda: queue._popper is None)
            refused: list[str] = []
            pop = layer._process.workers.pop

            async def busy(channel: str) -> bytes | None:
                if len(refused) < 3:
                    refused.append(channel)
                    raise CommandRefused(address="here", command="EVALSHA", text="BUSY a script")
                return await pop(channel)

            monkeypatch.setattr(layer._process.workers, "pop", busy)
            await layer.send("work", {"type": "a"})
            assert await reader == {"type": "a"}
            assert refused == ["work"] * 3


async def test_reader_goes_on_when_a_link_is_lost_in_a_pop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next link looks again."""
    caplog.set_level("INFO", "channels_mpx.layer")
    world = Broker()
    layer = world.layer(**QUICK)
    await layer.new_channel()
    await layer.send("work", {"number": 0})
    assert await receive(layer, "work") == {"number": 0}
    with world.freeze():
        reader = asyncio.create_task(receive(layer, "work"))
        await eventually(lambda: layer.statistics().connection.in_flight)
        world.kill_connections()
        await eventually(lambda: "stopped taking messages from worker channel work" in caplog.text)
    await layer.send("work", {"number": 1})
    assert await reader == {"number": 1}
    await layer.aclose()


async def test_reader_that_may_not_listen_is_told(make_redis: Callable[..., RedisServer]) -> None:
    """A refused bell ends the waiting with Redis's own error, for every reader."""
    server = make_redis(users=["alice on >secret ~* resetchannels &mpx:inbox:* +@all"])
    async with open_layer([server.url_for("alice", "secret")], **QUICK) as layer:
        await layer.new_channel()
        readers = [receive(layer, "work") for _ in range(2)]
        results = await asyncio.gather(*readers, return_exceptions=True)
        assert [type(result) for result in results] == [CommandRefused, CommandRefused]
        assert layer.statistics().delivered == 0


async def test_reader_that_leaves_with_an_error_gives_nothing_back() -> None:
    """There is no message behind an error."""
    layer = Broker().layer(**QUICK)
    await layer.new_channel()
    await layer._process.workers.open("work")
    queue, reader = layer._process.workers._queues["work"], queues.Reader()
    queue.ask(reader)
    queue.refused(queue.topic, CommandRefused(address="", command="", text="NOPERM"))
    queue.withdraw(reader)
    queue.withdraw(reader)
    assert queue.demand == 0
    assert not layer._process.workers._returns
    await layer.aclose()


async def test_queue_that_nobody_reads_is_left(redis_server: RedisServer) -> None:
    """After ``expiry`` seconds without a reader its bell is not listened to any more."""
    async with open_layer(redis_server, **QUICK, expiry=0.3) as layer:
        await layer.send("work", {"type": "a"})
        assert await receive(layer, "work") == {"type": "a"}
        assert subscriptions(redis_server, "mpx:bell")
        await eventually(lambda: not subscriptions(redis_server, "mpx:bell"))
        assert layer.statistics().delivered == 1


async def test_envelope_of_another_form_in_a_queue_is_dropped(redis_server: RedisServer) -> None:
    """A group's message in a worker's list is garbage; the reader goes on."""
    async with open_layer(redis_server, **QUICK) as layer:
        payload = envelope.wrap(Form.GROUP, layer.codec.encode({"type": "strange"}))
        deadline = b"%013d" % int(time.time() * 1000 + 60_000)
        redis_server.command("RPUSH", "mpx:queue:work", deadline + payload)
        await layer.send("work", {"type": "a"})
        assert await receive(layer, "work") == {"type": "a"}
        assert layer.statistics().dropped["malformed"] == 1
