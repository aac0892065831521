"""Forks, loops that just end, and the end of the process: scripts in processes of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.helpers import eventually
from tests.layers import clients, run_script
from tests.servers import RedisServer

FORK = """
    import asyncio, os, sys, threading, warnings
    from channels_mpx import MultiplexedChannelLayer

    # From Python 3.12 on, forking beside any thread warns; that it works is what is tested.
    warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
    layer = MultiplexedChannelLayer(hosts=[sys.argv[1]])

    async def talk(layer):
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"pid": os.getpid()})
        while (await asyncio.wait_for(layer.receive(channel), 10))["pid"] != os.getpid():
            pass
        await layer.group_discard("room", channel)

    BEFORE
    process = layer.statistics().connection.process
    child = os.fork()
    for _ in range(3):
        layer.sync.group_send("room", {"pid": os.getpid()})
        asyncio.run(talk(layer))
        layer.sync.send("work", {"pid": os.getpid()})
    if not child:
        assert layer.statistics().connection.process != process
        sys.exit(0)
    assert layer.statistics().connection.process == process
    _, status = os.waitpid(child, 0)
    assert status == 0, status
"""


@pytest.mark.parametrize(
    "before",
    [
        "layer.sync.group_send('room', {'pid': 0})",
        "asyncio.run(layer.group_send('room', {'pid': 0}))",
        "asyncio.run(talk(layer))",
    ],
    ids=["sync", "loop", "talk"],
)
async def test_fork_after_use_works_in_parent_and_child(
    redis_server: RedisServer, before: str
) -> None:
    """After a fork both sides go on, each with a connection and a process name of its own."""
    await asyncio.to_thread(run_script, FORK.replace("BEFORE", before), redis_server.url)
    assert not clients(redis_server)


FORK_INSIDE = """
    import asyncio, os, sys, warnings
    from channels_mpx import MultiplexedChannelLayer

    # From Python 3.12 on, forking beside any thread warns; that it works is what is tested.
    warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
    layer = MultiplexedChannelLayer(hosts=[sys.argv[1]])

    async def main():
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        child = os.fork()
        if not child:
            try:
                layer.sync.group_send("room", {"from": "child"})
                layer.sync.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert (await asyncio.wait_for(layer.receive(channel), 20)) == {"from": "child"}
        assert os.waitpid(child, 0)[1] == 0
        await layer.group_send("room", {"from": "parent"})
        assert (await asyncio.wait_for(layer.receive(channel), 20)) == {"from": "parent"}
        assert layer.statistics().connection.epoch == 1

    asyncio.run(main())
"""


async def test_fork_inside_a_running_loop_leaves_the_parent_alone(
    redis_server: RedisServer,
) -> None:
    """A child made while the parent's loop runs can send, and the parent's link stays whole."""
    await asyncio.to_thread(run_script, FORK_INSIDE, redis_server.url)


NO_CLOSE = """
    import asyncio, gc, sys, threading
    from asgiref.sync import async_to_sync
    from channels_mpx import MultiplexedChannelLayer

    IMPORT
    layer = MultiplexedChannelLayer(hosts=[sys.argv[1]])

    async def talk():
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "a"})
        assert await asyncio.wait_for(layer.receive(channel), 10) == {"type": "a"}
        waiting = asyncio.ensure_future(layer.receive(channel))
        working = asyncio.ensure_future(layer.receive("work"))
        await asyncio.sleep(0)

    for _ in range(3):
        asyncio.run(talk())
        async_to_sync(layer.group_send)("room", {"type": "a"})
        async_to_sync(talk)()
        layer.sync.group_send("room", {"type": "a"})
        thread = threading.Thread(target=asyncio.run, args=(talk(),))
        thread.start()
        thread.join()
    gc.collect()  # tracebacks of what was cancelled hold the names
    layer.sync.group_send("room", {"type": "a"})  # what was collected is let go of with the next call
    assert layer.statistics().channels == 0, layer.statistics()
    assert layer.statistics().groups == 0, layer.statistics()
"""


@pytest.mark.parametrize("policy", ["asyncio", "uvloop"])
@pytest.mark.parametrize("server", ["redis", "memory"])
async def test_without_aclose_nothing_warns(
    redis_server: RedisServer, policy: str, server: str
) -> None:
    """Loops that just end, with readers that wait, leave no channel, warning or connection."""
    use = "pass"
    if policy == "uvloop":
        pytest.importorskip("uvloop")
        use = (
            "import warnings, uvloop; warnings.simplefilter('ignore', DeprecationWarning); "
            "asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())"
        )
    url = redis_server.url if server == "redis" else "memory://"
    await asyncio.to_thread(run_script, NO_CLOSE.replace("IMPORT", use), url)
    await eventually(lambda: not clients(redis_server))


FROZEN_EXIT = """
    import logging, os, sys, time
    from channels_mpx import MultiplexedChannelLayer

    # The loss is logged, rightly; everything else on stderr is a mistake.
    logging.getLogger("channels_mpx").setLevel(logging.ERROR)
    layer = MultiplexedChannelLayer(hosts=[sys.argv[1]], timeout=1)
    layer.sync.group_send("room", {"type": "a"})
    os.kill(int(sys.argv[2]), 19)
    start = time.monotonic()
    try:
        layer.sync.group_send("room", {"type": "a"})
    except ConnectionError as error:
        print(type(error).__name__, round(time.monotonic() - start, 1))
"""


async def test_exit_with_a_frozen_server_is_prompt(make_redis: Callable[..., RedisServer]) -> None:
    """A script ends by itself although the server does not answer any more."""
    server: RedisServer = make_redis()
    out = await asyncio.to_thread(run_script, FROZEN_EXIT, server.url, str(server.pid))
    server.thaw()  # only now: the script has ended without it
    assert "Link" in out or "NotConfirmed" in out, out
