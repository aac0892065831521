"""What is said to Redis and heard from it, when either is not what was expected."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from channels_mpx import CommandRefused, Multiplexer, refusals, traffic
from channels_mpx.memory import broker
from channels_mpx.names import Kind, Topic
from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK, open_layer, receive
from tests.proxy import Proxy
from tests.servers import RedisServer

_brokers = itertools.count()

STRANGE = Topic(Kind.CHANNEL, b"strange")


@pytest.mark.parametrize("verb", ["acknowledged", "refused"])
async def test_answer_about_a_topic_that_nobody_wants_loses_the_link(verb: str) -> None:
    """When Redis and we disagree the link is given up, and the next one sets it right."""
    world = Broker()
    layer = world.layer(**QUICK)
    channel = await layer.new_channel()
    receiver = world.links[0].receiver
    if verb == "acknowledged":
        receiver.acknowledged(STRANGE, True)
    else:
        receiver.refused(STRANGE, CommandRefused(address="", command="", text="NOPERM"))
    assert layer.statistics().connection.state == "connecting"
    assert "strange" in (layer.statistics().connection.last_error or "")
    await layer.send(channel, {"type": "a"})
    assert await receive(layer, channel) == {"type": "a"}
    assert layer.statistics().connection.reconnections == {"desync": 1}
    assert "Traffic" in repr(layer._hub.life)
    await layer.aclose()


async def test_messages_for_nobody_are_counted() -> None:
    """What comes for a topic that was left a moment ago is dropped."""
    name = f"traffic{next(_brokers)}"
    async with Multiplexer(f"memory://{name}", **QUICK) as mux:
        mux.new_channel_subscription(print).add("one")
        await eventually(lambda: mux.statistics().active == 1)
        receiver = broker(name).links[0].receiver
        receiver.message(b"strange", b"1")
        receiver.pattern_message(b"str*", b"strange", b"1")
        assert mux.statistics().undelivered == 2


async def test_refused_topic_of_an_active_subscriber_is_asked_for_again(
    make_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ACL that was wrong for a moment costs the messages of that moment and no subscription."""
    monkeypatch.setattr(traffic, "REFUSED_PAUSE", 0.05)
    server = make_redis(users=["alice on >secret ~* &* +@all"])
    active: list[bytes] = []
    errors: list[Exception] = []
    async with Multiplexer(server.url_for("alice", "secret"), **QUICK) as mux:
        subscription = mux.new_channel_subscription(print, errors.append, active.append)
        subscription.add("one")
        subscription.add("two")
        await eventually(lambda: len(active) == 2)
        server.command("ACL", "SETUSER", "alice", "resetchannels")
        await eventually(lambda: mux.statistics().epoch > 1)

        def refusals() -> int:
            stats = server.command("INFO", "commandstats")
            return int(stats["cmdstat_subscribe"].get("rejected_calls", 0))

        await eventually(lambda: refusals() >= 6)
        assert mux.statistics().wanted == 2
        server.command("ACL", "SETUSER", "alice", "allchannels")
        await eventually(lambda: active[2:] == [b"one", b"two"])
        assert mux.statistics().active == 2


async def test_server_that_was_busy_when_its_link_was_lost(redis_server: RedisServer) -> None:
    """What was to be tried again goes out on the next link, though the retry finds none."""
    async with open_layer(redis_server, **QUICK) as layer:
        channel = await layer.new_channel()
        life = layer._hub.life
        assert life is not None
        command = (b"ECHO", b"hello")
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        refusal = CommandRefused(address="here", command="ECHO", text="BUSY a script")
        life.traffic.failed(command, future, refusal)
        assert layer.statistics().connection.parked == 1
        assert layer.statistics().connection.refused == {"BUSY": 1}
        life.traffic.lose("the test says so")
        life.traffic._try_again()
        assert not future.done()
        assert await future == b"hello"
        await layer.send(channel, {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}


async def test_what_was_held_back_goes_out_on_the_next_link(
    redis_server: RedisServer, proxy: Proxy
) -> None:
    """Commands that were not written when a link died are sent on the next one, once."""
    url = redis_server.url_for(port=proxy.port)
    config = {**QUICK, "ping_interval": 0.3, "ping_timeout": 0.3}
    async with open_layer([url], **config) as layer:
        channel = await layer.new_channel()
        proxy.stall()
        big = [
            asyncio.create_task(layer.group_send("room", {"data": bytes(2**20)})) for _ in range(32)
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        small = asyncio.create_task(layer.send(channel, {"type": "a"}))
        await eventually(lambda: layer.statistics().connection.state == "connecting")
        proxy.resume()
        await small
        assert await receive(layer, channel) == {"type": "a"}
        await asyncio.gather(*big, return_exceptions=True)


async def test_refusals_of_many_names_are_logged_for_some(
    make_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """One wrong rule is not 20,000 records; each refusal is counted."""
    server = make_redis(users=["alice on >secret ~* &allowed* +@all"])
    async with Multiplexer(server.url_for("alice", "secret"), **QUICK) as mux:
        subscription = mux.new_channel_subscription(print)
        for number in range(refusals.MOST_LOGGED * 3):
            subscription.add(f"forbidden{number}")
        await eventually(lambda: mux.statistics().refused == {"NOPERM": refusals.MOST_LOGGED * 3})
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == refusals.MOST_LOGGED + 1
    assert (
        warnings[-1] == "channels_mpx: what else Redis refuses on this connection is only counted"
    )
