"""Event loops end at any time: what waits is handed over, and nobody hangs, loses or complains."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from channels_mpx import LinkUnavailable, MultiplexedChannelLayer
from tests.helpers import eventually
from tests.layers import clients, open_layer, receive, run_script
from tests.proxy import Proxy
from tests.servers import RedisServer, free_port


async def begin_owner_loop(layer: MultiplexedChannelLayer) -> Callable[[], Awaitable[None]]:
    """Let a loop in another thread own the connection; return what ends it in order."""
    begun, leave = threading.Event(), threading.Event()

    async def live() -> None:
        await layer.new_channel()
        begun.set()
        await asyncio.to_thread(leave.wait)

    owner = asyncio.ensure_future(asyncio.to_thread(asyncio.run, live()))
    await asyncio.to_thread(begun.wait)

    async def end() -> None:
        leave.set()
        await owner

    return end


async def test_threads_send_without_an_error_while_loops_come_and_go(
    redis_server: RedisServer,
) -> None:
    """Each loop takes the connection and ends; no send of another thread fails, is lost or doubled."""
    async with (
        open_layer(redis_server) as layer,
        open_layer(redis_server, capacity=1_000_000) as reader,
    ):
        channel = await reader.new_channel()
        await reader.group_add("room", channel)
        is_over = threading.Event()

        def send(thread: int) -> int:
            number = 0
            while not is_over.is_set():
                layer.sync.group_send("room", {"thread": thread, "number": number})
                number += 1
            return number

        async def live(number: int) -> None:
            name = await layer.new_channel()
            await layer.group_add(f"own{number}", name)

        def loops() -> None:
            for number in range(100):
                asyncio.run(live(number))

        sending = [asyncio.ensure_future(asyncio.to_thread(send, thread)) for thread in range(4)]
        await asyncio.to_thread(loops)
        is_over.set()
        totals = await asyncio.gather(*sending)
        got: dict[int, list[int]] = {thread: [] for thread in range(4)}
        for _ in range(sum(totals)):
            message = await receive(reader, channel)
            got[message["thread"]].append(message["number"])
        assert [got[thread] for thread in range(4)] == [list(range(total)) for total in totals]
        assert layer.statistics().connection.epoch > 10, "the connection has hardly moved"


async def test_call_that_is_queued_goes_to_the_next_loop(
    make_redis: Callable[..., RedisServer],
) -> None:
    """What waits for a connection when the owner loop ends is sent by the next one, once."""
    port = free_port()
    layer = MultiplexedChannelLayer(
        hosts=[f"redis://127.0.0.1:{port}"], timeout=20, max_reconnect_delay=0.05
    )
    ended = threading.Event()

    async def first() -> None:
        waiting = asyncio.ensure_future(layer.new_channel())
        await eventually(lambda: layer.statistics().connection.parked > 1)
        waiting.cancel()

    def own() -> None:
        asyncio.run(first())
        ended.set()

    owner = asyncio.create_task(asyncio.to_thread(own))
    await eventually(lambda: layer.statistics().connection.state == "connecting")
    sends = [asyncio.to_thread(layer.sync.send, "work", {"number": 0})]
    sends.append(asyncio.to_thread(asyncio.run, layer.send("work", {"number": 1})))
    sending = asyncio.gather(*sends)
    await owner
    assert ended.is_set()
    assert not sending.done()
    server = make_redis(port=port)
    await sending
    assert server.command("LLEN", "mpx:queue:work") == 2
    await asyncio.to_thread(layer.sync.close)


def test_call_keeps_its_own_deadline_through_any_number_of_loops() -> None:
    """Owner loops end all the time and Redis is away: the call fails as if it had waited in one."""
    layer = MultiplexedChannelLayer(hosts=[f"redis://127.0.0.1:{free_port()}"], timeout=0.3)
    errors: list[Exception] = []

    def send() -> None:
        try:
            layer.sync.send("work", {"type": "a"})
        except Exception as error:
            errors.append(error)

    async def live() -> None:
        waiting = asyncio.ensure_future(layer.new_channel())
        # The call waits in this loop, or has come to its end.
        await eventually(
            lambda: layer.statistics().connection.parked or not sender.is_alive() or not loops
        )
        waiting.cancel()

    sender, loops = threading.Thread(target=send), 0
    asyncio.run(live())
    sender.start()
    while sender.is_alive():
        asyncio.run(live())
        loops += 1
    sender.join()
    assert [type(error) for error in errors] == [LinkUnavailable]
    assert "nothing was sent" in str(errors[0])
    assert loops > 1
    layer.sync.close()


async def test_reply_that_is_under_way_is_awaited_when_the_loop_ends(proxy: Proxy) -> None:
    """What was sent when the owner loop ends is not called lost: its reply is there in a moment."""
    async with open_layer(f"redis://127.0.0.1:{proxy.port}") as layer:
        end = await begin_owner_loop(layer)
        proxy.delay(0.05)
        before = layer.statistics().connection.commands
        sending = asyncio.ensure_future(asyncio.to_thread(layer.sync.group_send, "room", {"a": 1}))
        await eventually(lambda: layer.statistics().connection.commands > before)
        await asyncio.gather(end(), sending)


ENDS = """
    import asyncio, faulthandler, sys
    from channels_mpx import MultiplexedChannelLayer

    layer = MultiplexedChannelLayer(hosts=[sys.argv[1]])
    if sys.argv[2] == "uvloop":
        from uvloop import run
    else:
        from asyncio import run

    async def main(turns):
        await layer.new_channel()
        for _ in range(turns):
            await asyncio.sleep(0)

    run(main(5))
    faulthandler.dump_traceback_later(50, exit=True)
    for number in range(1000):
        run(main(number % 41))
"""


@pytest.mark.parametrize("policy", ["asyncio", "uvloop"])
async def test_loop_that_ends_while_connecting_returns(
    redis_server: RedisServer, policy: str
) -> None:
    """A cancellation is never swallowed: 1,000 loops end in whatever step of the handshake."""
    pytest.importorskip(policy)
    await asyncio.to_thread(run_script, ENDS, redis_server.url, policy, strict=False)


CLOSED = """
    import asyncio, gc, sys
    from channels_mpx import MultiplexedChannelLayer

    sys.stderr = sys.stdout
    layer = MultiplexedChannelLayer(hosts=[sys.argv[1]])

    async def use():
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "a"})
        assert await layer.receive(channel) == {"type": "a"}

    if sys.argv[2] == "uvloop":
        from uvloop import new_event_loop
    else:
        from asyncio import new_event_loop
    for _ in range(5):
        loop = new_event_loop()
        loop.run_until_complete(use())
        loop.close()
        del loop
        gc.collect()
    layer.sync.close()
"""


@pytest.mark.parametrize("policy", ["asyncio", "uvloop"])
@pytest.mark.parametrize("server", ["redis", "memory"])
async def test_loop_that_is_closed_without_ending_its_tasks_makes_no_noise(
    redis_server: RedisServer, server: str, policy: str
) -> None:
    """Nothing is printed, not even under ``-X dev -W error``, and nothing stays open.

    uvloop itself warns of what is open when it is closed, and cannot bear an error there.
    """
    pytest.importorskip(policy)
    url = redis_server.url if server == "redis" else "memory://"
    out = await asyncio.to_thread(
        run_script, CLOSED, url, policy, strict=policy == "asyncio", PYTHONWARNINGS="ignore"
    )
    assert not out
    await eventually(lambda: not clients(redis_server))


NOTICES = {"on_disconnect": "lost", "on_reconnect": "back"}


async def test_flush_is_a_gap_for_a_consumer_that_is_at_work(redis_server: RedisServer) -> None:
    """One that handles a message waits for nothing, and yet the connection is made again for it."""
    async with open_layer(redis_server, **NOTICES) as layer, open_layer(redis_server) as sender:
        channel = await layer.new_channel()
        await sender.send(channel, {"type": "work"})
        assert (await receive(layer, channel))["type"] == "work"
        await layer.flush()
        await eventually(lambda: layer.statistics().connection.active == 1)
        await sender.send(channel, {"type": "after"})
        types = [(await receive(layer, channel))["type"] for _ in range(3)]
        assert types == ["lost", "back", "after"]


async def test_end_of_the_owner_loop_is_a_gap_for_a_consumer_that_is_at_work(
    redis_server: RedisServer,
) -> None:
    """A consumer on another loop loses nothing outside of a gap of which it is told."""
    async with open_layer(redis_server, **NOTICES) as layer, open_layer(redis_server) as sender:
        end = await begin_owner_loop(layer)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await sender.group_send("room", {"type": "work"})
        assert (await receive(layer, channel))["type"] == "work"
        epoch = layer.statistics().connection.epoch
        await end()
        await eventually(lambda: layer.statistics().connection.epoch > epoch)
        await eventually(lambda: layer.statistics().connection.active == 2)
        await sender.group_send("room", {"type": "after"})
        types = [(await receive(layer, channel))["type"] for _ in range(3)]
        assert types == ["lost", "back", "after"]


async def test_worker_that_is_at_work_keeps_the_connection(redis_server: RedisServer) -> None:
    """Its queue is listened to while it handles a job, though the owner loop ends."""
    async with open_layer(redis_server) as layer, open_layer(redis_server) as sender:
        end = await begin_owner_loop(layer)
        await sender.send("work", {"type": "job"})
        assert (await receive(layer, "work"))["type"] == "job"
        epoch = layer.statistics().connection.epoch
        await end()
        await eventually(lambda: layer.statistics().connection.epoch > epoch)
        await eventually(lambda: layer.statistics().connection.active >= 1)


async def test_nobody_is_there_nobody_is_connected(redis_server: RedisServer) -> None:
    """The control: a loop that ends and leaves nobody behind closes the connection for good."""
    layer = MultiplexedChannelLayer(hosts=[redis_server.url])

    async def first() -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)

    await asyncio.to_thread(asyncio.run, first())
    await eventually(lambda: not clients(redis_server))
    assert layer.statistics().connection.state == "idle"
