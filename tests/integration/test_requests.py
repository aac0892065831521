"""Requests between processes, over a real Redis, with faults."""

from __future__ import annotations

import asyncio
import itertools
import os

import pytest

from channels_mpx import LinkLost, MultiplexedChannelLayer, NoListener, RequestTimeout
from tests.helpers import eventually
from tests.layers import (
    IN_FLIGHT,
    Peer,
    answering,
    ask_many,
    clients,
    connections_received,
    kill_clients,
    open_layer,
    receive,
    run_script,
    subscriptions,
)
from tests.servers import RedisServer


@pytest.mark.parametrize("kind", ["direct", "worker"])
async def test_ten_thousand_requests_to_another_process(
    redis_server: RedisServer, layer: MultiplexedChannelLayer, peer: Peer, kind: str
) -> None:
    """64 in flight: none is lost, none gets the reply to another, nothing is subscribed for it."""
    total = 10_000 if kind == "direct" else 2_000
    channel = await peer.call("new_channel") if kind == "direct" else "work"
    serving = asyncio.ensure_future(peer.call("echo", channel, total))
    if kind == "worker":
        await eventually(lambda: "mpx:bell:work" in subscriptions(redis_server))
    replies = await ask_many(layer, channel, total)
    assert replies == {number: {"echo": number} for number in range(total)}
    assert await serving == total
    statistics = layer.statistics()
    assert statistics.requests == 0
    assert statistics.connection.active == 1
    assert not any(statistics.dropped.values())


async def test_two_processes_ask_each_other(layer: MultiplexedChannelLayer, peer: Peer) -> None:
    """Whoever is asked can ask."""
    mine, theirs = await layer.new_channel(), await peer.call("new_channel")
    async with answering(layer, mine, lambda event: {"echo": -event["number"]}):
        for number in range(5):
            assert await peer.call("request", mine, {"number": number}) == {"echo": -number}
    serving = asyncio.ensure_future(peer.call("echo", theirs, 1))
    assert await layer.request(theirs, {"number": 7}) == {"echo": 7}
    await serving


async def test_error_of_another_process(layer: MultiplexedChannelLayer, peer: Peer) -> None:
    """Its class and its text come here, and are told there as any error of a verb."""
    mine = await layer.new_channel()
    async with answering(layer, mine, lambda event: {"number": 1 / event["number"]}):
        with pytest.raises(RuntimeError, match=r"RemoteError.*ZeroDivisionError: division by zero"):
            await peer.call("request", mine, {"number": 0})


async def test_process_that_is_killed_is_gone_at_once(
    layer: MultiplexedChannelLayer, peer: Peer
) -> None:
    """What it had taken ends at its deadline; what comes later is refused at once."""
    channel = await peer.call("new_channel")
    asking = asyncio.ensure_future(layer.request(channel, {"number": 1}, timeout=1))
    assert (await peer.call("receive", channel))["number"] == 1
    await peer.kill()
    with pytest.raises(RequestTimeout):
        await asking

    async def is_gone() -> bool:
        with pytest.raises((NoListener, RequestTimeout)) as caught:
            await layer.request(channel, {"number": 2}, timeout=0.5)
        return caught.type is NoListener

    await eventually(is_gone)


async def test_consumer_of_another_process_that_dies_sends_requests_back(
    layer: MultiplexedChannelLayer, peer: Peer
) -> None:
    """Its process is there, and says so."""
    channel = await peer.call("new_channel")
    asking = asyncio.ensure_future(layer.request(channel, {"number": 1}, timeout=30))
    await eventually(lambda: layer.statistics().requests == 1)
    await layer.group_discard("room", channel)  # when this is answered, it is there
    await peer.call("drop", channel)
    with pytest.raises(NoListener):  # at its deadline it would be another error
        await asking


async def test_killed_connection_fails_requests_at_once(
    redis_server: RedisServer, layer: MultiplexedChannelLayer, peer: Peer
) -> None:
    """However many wait; afterwards everything works again, and late replies hurt nobody."""
    channel = await peer.call("new_channel")
    with pytest.raises(NoListener):
        await layer.request(f"{channel}9", {"number": -1})
    asking = [
        asyncio.ensure_future(layer.request(channel, {"number": n}, timeout=30)) for n in range(64)
    ]
    await eventually(lambda: layer.statistics().requests == 64)
    await layer.group_discard("room", channel)  # when this is answered, the requests are there
    (ours,) = (row for row in clients(redis_server) if row["name"].endswith(f":{os.getpid()}"))
    redis_server.command("CLIENT", "KILL", "ID", ours["id"])
    results = await asyncio.gather(*asking, return_exceptions=True)
    # At their deadline it would be another error.
    assert {type(result) for result in results} == {LinkLost}
    await eventually(lambda: layer.statistics().connection.active == 1)
    serving = asyncio.ensure_future(peer.call("echo", channel, 65))
    assert await layer.request(channel, {"number": 64}) == {"echo": 64}
    assert await serving == 65
    await eventually(lambda: layer.statistics().dropped["late"] == 64)


async def test_requests_while_connections_are_killed_are_never_crossed(
    redis_server: RedisServer, layer: MultiplexedChannelLayer
) -> None:
    """Each one ends, with its own reply or with an error, however often the links go."""
    numbers, ends = itertools.count(), dict.fromkeys(("reply", "LinkLost"), 0)
    is_over = False

    async def ask() -> None:
        while not is_over:
            number = next(numbers)
            try:
                reply = await layer.request(channel, {"number": number}, timeout=5)
            except LinkLost:
                ends["LinkLost"] += 1
            except (NoListener, RequestTimeout):
                await asyncio.sleep(0.01)  # the other process is away
            else:
                assert reply == {"echo": number}
                ends["reply"] += 1

    async def kill() -> None:
        nonlocal is_over
        for kills in range(5):
            await eventually(lambda kills=kills: ends["reply"] >= 200 * (kills + 1), 20)
            await asyncio.to_thread(kill_clients, redis_server)
        is_over = True

    async with open_layer(redis_server, capacity=10_000) as owner:
        channel = await owner.new_channel()
        async with answering(owner, channel, lambda event: {"echo": event["number"]}):
            await asyncio.gather(kill(), *(ask() for _ in range(IN_FLIGHT)))
    assert ends["LinkLost"]
    assert layer.statistics().requests == 0


SYNC = """
    import logging, sys
    from concurrent.futures import ThreadPoolExecutor
    from channels_mpx import MultiplexedChannelLayer, NoListener

    logging.getLogger("asyncio").setLevel("ERROR")  # how busy the machine is does not matter
    layer = MultiplexedChannelLayer(hosts=[sys.argv[1]])
    with ThreadPoolExecutor(4) as pool:
        asking = [
            pool.submit(layer.sync.request, sys.argv[2], {"number": number})
            for number in range(400)
        ]
        assert [task.result() for task in asking] == [{"echo": n} for n in range(400)]
    try:
        layer.sync.request("work", {"number": 0})
    except NoListener:
        print("nobody")
    assert layer.statistics().connection.epoch == 1
"""


async def test_sync_requests_of_a_script(
    redis_server: RedisServer, layer: MultiplexedChannelLayer
) -> None:
    """Threads of a process without any loop ask over its one connection."""
    channel = await layer.new_channel()
    before = connections_received(redis_server)
    async with answering(layer, channel, lambda event: {"echo": event["number"]}):
        printed = await asyncio.to_thread(run_script, SYNC, redis_server.url, channel)
    assert printed == "nobody\n"
    assert connections_received(redis_server) - before == 1


FORK = """
    import asyncio, logging, os, sys, warnings
    from channels_mpx import MultiplexedChannelLayer

    # From Python 3.12 on, forking beside any thread warns; that it works is what is tested.
    warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
    logging.getLogger("asyncio").setLevel("ERROR")  # how busy the machine is does not matter
    layer = MultiplexedChannelLayer(hosts=[sys.argv[1]])
    assert layer.sync.request(sys.argv[2], {"number": 0}) == {"echo": 0}
    child = os.fork()
    for number in range(20):
        number += 100 * bool(child)
        assert layer.sync.request(sys.argv[2], {"number": number}) == {"echo": number}
    if child:
        assert os.waitpid(child, 0)[1] == 0
"""


async def test_request_after_a_fork(
    redis_server: RedisServer, layer: MultiplexedChannelLayer
) -> None:
    """Parent and child have inboxes of their own."""
    channel = await layer.new_channel()
    async with answering(layer, channel, lambda event: {"echo": event["number"]}):
        await asyncio.to_thread(run_script, FORK, redis_server.url, channel)


async def test_worker_that_restarts_gets_the_next_request(
    redis_server: RedisServer, layer: MultiplexedChannelLayer
) -> None:
    """Without a worker nothing is asked; with one again it works."""
    for number in range(2):
        async with open_layer(redis_server) as worker:
            reader = asyncio.ensure_future(receive(worker, "work"))
            await eventually(lambda: "mpx:bell:work" in subscriptions(redis_server))
            asking = asyncio.ensure_future(layer.request("work", {"number": number}))
            event = await reader
            await worker.reply(event, {"echo": number})
            assert await asking == {"echo": number}
        with pytest.raises(NoListener):
            await layer.request("work", {"number": number}, timeout=30)
        assert not redis_server.command("EXISTS", "mpx:queue:work")
