"""The multiplexer as a library: made anywhere, connects on first use, publishes, ends."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from channels_mpx import (
    ConfigurationError,
    InvalidArgument,
    InvalidName,
    LinkUnavailable,
    Multiplexer,
    PromiseCancelled,
    ReservedName,
    SubscriptionIsClosed,
    SyncCallFromAsync,
)
from channels_mpx.hub import Hub
from channels_mpx.ledgers import PromiseBoard
from channels_mpx.multiplexer import OPTIONS, multiplexer_over, serve
from channels_mpx.options import Options
from channels_mpx.registry import Registry
from tests.helpers import eventually
from tests.layers import QUICK, clients
from tests.servers import RedisServer, free_port
from tests.sites import MemorySite, Site, subscribers

# Making one


def test_made_without_a_loop_and_without_a_connection() -> None:
    """Nothing happens before the first use; nothing has to be closed then."""
    mux = Multiplexer("redis://127.0.0.1:1")
    assert mux.statistics().state == "idle"
    assert repr(mux) == "<Multiplexer 127.0.0.1:1 idle>"
    mux.new_channel_subscription()
    assert mux.statistics().state == "idle"
    mux.close()
    assert Multiplexer().statistics().address == "localhost:6379"


@pytest.mark.parametrize(
    "host",
    [
        "redis://localhost:6390",
        ("localhost", 6390),
        {"host": "localhost", "port": 6390},
        {"address": "redis://localhost:6390"},
        ["redis://localhost:6390"],
    ],
    ids=["url", "pair", "dict", "address", "list"],
)
def test_host_in_all_forms(host: Any) -> None:
    """Those of the setting."""
    assert Multiplexer(host).statistics().address == "localhost:6390"


def test_options_without_a_layer() -> None:
    """Those that make sense here are taken, and checked like settings."""
    values = {**QUICK, "prefix": "site", "client_name": "worker", "ping_interval": 1}
    mux = Multiplexer("memory://", **values)
    assert mux._hub.options.prefix == "site"
    assert set(values) <= set(OPTIONS)
    for wrong, text in [
        ({"capacity": 5}, "capacity"),
        ({"tiemout": 5}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"prefix": "a b"}, "prefix"),
    ]:
        with pytest.raises(ConfigurationError, match=text):
            Multiplexer("memory://", **wrong)
    for host in (7, b"redis://localhost", ("localhost",), "http://localhost", {"hort": 1}):
        with pytest.raises(ConfigurationError, match="hosts"):
            Multiplexer(host)


async def test_prefix_is_the_one_that_is_reserved(broker: MemorySite) -> None:
    """Names under another prefix are names like any other."""
    async with Multiplexer(broker.url, prefix="site") as mux:
        subscription = mux.new_channel_subscription()
        subscription.add("mpx:group:room")
        with pytest.raises(InvalidName, match="'site'"):
            subscription.add("site:group:room")


async def test_client_name_in_redis(redis_server: RedisServer) -> None:
    """Whoever looks at the server's clients sees whose connection it is."""
    async with Multiplexer(redis_server.url, client_name="reporter") as mux:
        await mux.publish("one", "1")
        assert [row["name"] for row in clients(redis_server)] == ["reporter"]


# Commands


async def test_publish_counts_connections(mux: Multiplexer) -> None:
    """Text and bytes; one process is one, however many subscriptions it has."""
    assert await mux.publish("one", b"1") == 0
    subscriptions = [mux.new_channel_subscription() for _ in range(3)]
    for subscription in subscriptions:
        subscription.add("one")
        await subscription.activated(5)
    payloads = ["text", b"\xff\x00", "", b""]
    for payload in payloads:
        assert await mux.publish(b"one", payload) == 1
    for subscription in subscriptions:
        got = [await subscription.get_message(5) for _ in payloads]
        assert [message.payload for message in got if message] == [b"text", b"\xff\x00", b"", b""]
    assert mux.statistics().commands == 5


async def test_publish_nonsense(mux: Multiplexer) -> None:
    """The error names what was wrong, and the connection does not notice."""
    for name in (None, "", b"", 7, bytearray(b"one")):
        with pytest.raises(InvalidName, match="is not a name that can be used here"):
            await mux.publish(name, b"1")  # type: ignore[arg-type]
        with pytest.raises(InvalidName):
            await mux.pubsub_numsub("one", name)  # type: ignore[arg-type]
        with pytest.raises(InvalidName):
            await mux.pubsub_channels(name)  # type: ignore[arg-type]
    for payload in (None, 7, 1.5, bytearray(b"1"), True):
        with pytest.raises(InvalidArgument, match=r"^payload must be str or bytes, not"):
            await mux.publish("one", payload)  # type: ignore[arg-type]
    for structure in ({"a": 1}, ["a"], ("a",)):
        with pytest.raises(InvalidArgument, match=r"for example json\.dumps\(payload\), not"):
            await mux.publish("one", structure)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="UTF-8"):
        await mux.publish("one", "\ud800")
    assert mux.statistics().state == "idle"
    assert await mux.publish("one", b"1") == 0


@pytest.mark.parametrize("name", ["mpx:group:room", b"mpx:inbox:x", "mpx:", "mpx:anything"])
async def test_publish_nothing_under_the_prefix(mux: Multiplexer, name: str | bytes) -> None:
    """There the layer speaks with itself; the error comes before any connection."""
    with pytest.raises(ReservedName, match="'mpx'"):
        await mux.publish(name, b"1")
    with pytest.raises(ReservedName, match="'mpx'"):
        await asyncio.to_thread(mux.sync.publish, name, b"1")
    assert mux.statistics().state == "idle"
    assert await mux.publish("mpx", b"1") == 0


async def test_publish_to_nobody_who_answers() -> None:
    """Without a server it fails at its deadline, and nothing was sent."""
    async with Multiplexer(f"redis://127.0.0.1:{free_port()}", timeout=0.05) as mux:
        with pytest.raises(LinkUnavailable, match="nothing was sent"):
            await mux.publish("one", b"1")


def test_commands_without_a_loop(site: Site) -> None:
    """`sync` blocks until Redis answers, raises what awaiting raises, and opens one connection."""
    mux = Multiplexer(site.url, **QUICK)
    subscription = mux.new_channel_subscription()
    subscription.add("one")
    subscription.sync.activated(5)
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(mux.sync.publish("one", "1")))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1] * 5
    assert mux.sync.pubsub_channels("on?") == [b"one"]
    assert mux.sync.pubsub_numsub("one", "two") == {b"one": 1, b"two": 0}
    assert mux.sync.pubsub_numpat() == 0
    with pytest.raises(InvalidName):
        mux.sync.publish("", b"1")
    with pytest.raises(InvalidArgument):
        mux.sync.publish("one", None)  # type: ignore[arg-type]
    assert mux.statistics().epoch == 1
    mux.close()


async def test_sync_on_a_loop(mux: Multiplexer) -> None:
    """It would block the loop; the error names the verb."""
    for verb, args in [
        (mux.sync.publish, ("one", b"1")),
        (mux.sync.pubsub_channels, ()),
        (mux.sync.pubsub_numsub, ("one",)),
        (mux.sync.pubsub_numpat, ()),
        (mux.close, ()),
    ]:
        with pytest.raises(SyncCallFromAsync, match=rf"blocking {verb.__name__}\(\)"):
            verb(*args)


# Ends


async def test_aclose_ends_everything(site: Site, mux: Multiplexer) -> None:
    """Whoever reads or waits is released, Redis knows of nobody, and everything can begin again."""
    read = mux.new_channel_subscription()
    read.add("one")
    pattern = mux.new_pattern_subscription("one*")
    for subscription in (read, pattern):
        await subscription.activated(5)
    jobs = mux.new_promise_subscription("job-")
    await jobs.wait_for_activation(5)
    promise = jobs.new_promise("7", 60)
    reading = asyncio.create_task(read.get_message())
    await eventually(lambda: read._mailbox.is_awaited)
    await mux.aclose()
    await mux.aclose()
    with pytest.raises(SubscriptionIsClosed):
        await reading
    with pytest.raises(PromiseCancelled, match="was closed"):
        await promise
    assert read.closed
    assert pattern.closed
    assert jobs.closed
    for subscription in (read, pattern):
        subscription.close()
    jobs.close()
    assert mux.statistics().state == "idle"
    assert mux.statistics().wanted == 0
    await eventually(lambda: subscribers(site, b"one") == 0)
    async with mux.new_pattern_subscription("one*") as again:
        assert await mux.publish("one", b"1") == 1
        assert await again.get_message(5) is not None


def test_close_from_a_thread(site: Site) -> None:
    """The same without a loop, as often as one likes."""
    mux = Multiplexer(site.url, **QUICK)
    for _ in range(2):
        subscription = mux.new_channel_subscription(print)
        subscription.add("one")
        subscription.sync.activated(5)
        mux.close()
        mux.close()
        assert subscription.closed
        assert mux.statistics().state == "idle"
    asyncio.run(eventually(lambda: subscribers(site, b"one") == 0))


def test_child_of_a_fork_begins_anew(broker: MemorySite) -> None:
    """What was subscribed is the parent's; see `test_subscription_ends` for a child that is one."""
    mux = Multiplexer(broker.url)
    subscription, jobs = mux.new_channel_subscription(), mux.new_promise_subscription("job-")
    mux._hub.forget_parent()
    assert subscription.closed
    assert jobs.closed
    assert repr(mux._registry) == "<Registry 0>"
    assert mux._hub.listener is mux._registry is mux._board.registry
    mux.close()


async def test_over_somebody_else_s_connection(broker: MemorySite) -> None:
    """The same verbs; closing ends the subscriptions, and leaves the connection to its owner."""
    hub = Hub(Options.parse({"hosts": broker.url}, only=OPTIONS))
    registry = Registry()
    hub.listener = registry
    mux = multiplexer_over(hub)
    serve(mux, registry, PromiseBoard(hub, registry))
    subscription = mux.new_channel_subscription()
    subscription.add("one")
    await subscription.activated(5)
    assert await mux.publish("one", b"1") == 1
    await mux.aclose()
    assert subscription.closed
    assert mux.statistics().state == "connected"
    await asyncio.to_thread(mux.close)
    assert mux.statistics().state == "connected"
    await hub.aclose()
    assert broker.accepted == 1
