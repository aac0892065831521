"""Signal handlers and destructors send too, in the middle of whatever they interrupt."""

from __future__ import annotations

import asyncio

from tests.layers import run_script
from tests.servers import RedisServer

STORM = """
    import os, signal, sys, threading
    from channels_mpx import MultiplexedChannelLayer

    layer = MultiplexedChannelLayer(hosts=[sys.argv[1]], timeout=5)
    handled, is_inside, is_over = 0, False, False

    def handler(number, frame):
        global handled, is_inside
        is_inside = True
        layer.sync.group_send("room", {"type": "from the handler"})
        handled += 1
        is_inside = False

    def storm():
        while not is_over:
            if not is_inside:
                os.kill(os.getpid(), signal.SIGUSR1)
            pause.wait(0.0005)

    pause = threading.Event()
    signal.signal(signal.SIGUSR1, handler)
    stormy = threading.Thread(target=storm)
    stormy.start()
    for number in range(20_000):
        layer.sync.group_send("room", {"type": "a", "number": number})
    is_over = True
    stormy.join()
    layer.sync.close()
    assert handled > 100, handled
"""


async def test_signal_handler_sends_in_the_middle_of_a_send(redis_server: RedisServer) -> None:
    """20,000 sends on the main thread finish, interrupted by handlers that send themselves."""
    await asyncio.to_thread(run_script, STORM, redis_server.url, strict=False)


START = """
    import signal, sys, threading, time
    from channels_mpx import MultiplexedChannelLayer

    url, handled = sys.argv[1], 0

    def handler(number, frame):
        global handled
        layer.sync.group_send("room", {"type": "from the handler"})
        handled += 1

    def homes():
        return [each.name for each in threading.enumerate() if each.name.endswith(".home")]

    signal.signal(signal.SIGPROF, handler)
    for attempt in range(100):
        layer = MultiplexedChannelLayer(hosts=[url], timeout=5)
        signal.setitimer(signal.ITIMER_PROF, 0.0001 * (attempt % 20 + 1))
        layer.sync.group_send("room", {"type": "a"})
        assert len(homes()) == len(set(homes())), "a layer has one background loop"
        layer.sync.close()
    signal.setitimer(signal.ITIMER_PROF, 0)
    layer.sync.close()
    while homes():  # a handler may have opened a layer again that was then dropped
        time.sleep(0.001)
    assert handled > 10, handled
"""


async def test_signal_handler_sends_while_the_connection_begins_or_ends(
    redis_server: RedisServer,
) -> None:
    """There is one background loop, and nobody waits for ever for it."""
    await asyncio.to_thread(run_script, START, redis_server.url, strict=False)


DESTRUCTOR = """
    import gc, sys
    from channels_mpx import LinkUnavailable, MultiplexedChannelLayer, SyncCallFromAsync

    layer = MultiplexedChannelLayer(hosts=[sys.argv[1]], timeout=5)
    sent = refused = 0

    class Resource:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            global sent, refused
            try:
                layer.sync.group_send("room", {"type": "ended"})
            except (SyncCallFromAsync, LinkUnavailable):
                refused += 1  # the collector came by on the connection's own thread
            else:
                sent += 1

    gc.set_threshold(50)
    for number in range(3_000):
        Resource()
        rubbish = [[] for _ in range(200)]
        layer.sync.group_send("room", {"type": "a", "number": number})
    gc.collect()
    assert sent + refused == 3_000 and sent > 0, (sent, refused)
    layer.sync.close()
"""


async def test_destructor_sends_wherever_it_is_called(redis_server: RedisServer) -> None:
    """The collector calls it in the middle of a send too; on the connection's thread it is refused."""
    await asyncio.to_thread(run_script, DESTRUCTOR, redis_server.url, strict=False)
