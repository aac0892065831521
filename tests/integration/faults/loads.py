"""Floods of messages from another process, and a meter of what they do to the memory of this one."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import tracemalloc

from tests.layers import resident_memory, run_script
from tests.servers import RedisServer

MEGABYTE = 2**20

#: Publishes COUNT messages of SIZE bytes on a group, RATE a second, from a process of its own. Waits
#: while more than UNREAD bytes lie on the server for a subscriber that does not keep up.
FLOOD = """
    import asyncio, sys, time
    import redis
    from channels_mpx import MultiplexedChannelLayer

    async def main():
        url, count, size, rate, unread = sys.argv[1], *map(int, sys.argv[2:])
        server = redis.Redis.from_url(url)
        layer = MultiplexedChannelLayer(hosts=[url])
        data, start = b"x" * size, time.monotonic()
        for number in range(count):
            while unread and max(int(each["omem"]) for each in server.client_list()) > unread:
                await asyncio.sleep(0.001)
            await layer.group_send("room", {"number": number, "data": data})
            if rate:
                await asyncio.sleep(max(0, start + (number + 1) / rate - time.monotonic()))
        server.close()
        await layer.aclose()

    asyncio.run(main())
"""


def flood_now(server: RedisServer, count: int, size: int, rate: int = 0, unread: int = 0) -> None:
    """Have another process publish so many messages of a size on the group ``room``.

    Args:
        server: The server.
        count: How many.
        size: Bytes of each.
        rate: How many a second at the most; 0 for as many as it can.
        unread: Bytes that a subscriber may leave unread on the server, roughly; 0 for any number.
    """
    arguments = map(str, (count, size, rate, unread))
    run_script(FLOOD, server.url, *arguments, strict=False)


async def flood(server: RedisServer, count: int, size: int, rate: int = 0, unread: int = 0) -> None:
    """See `flood_now`; the loop goes on meanwhile."""
    await asyncio.to_thread(flood_now, server, count, size, rate, unread)


def _give_pages_back() -> None:
    """Have the allocator return what is free: else what is held next costs no page."""
    with contextlib.suppress(AttributeError, OSError):  # another libc than glibc
        ctypes.CDLL(None).malloc_trim(0)


class Meter:
    """The growth of this process's memory: what Python holds, and the pages of all of it.

    Attributes:
        pages: The most bytes of pages more than at the start, of those times when one looked.
    """

    def __init__(self) -> None:
        gc.collect()
        _give_pages_back()
        tracemalloc.reset_peak()
        self.pages = 0
        self._pages = resident_memory()
        self._held = tracemalloc.get_traced_memory()[0]

    @property
    def held(self) -> int:
        """Bytes that Python objects hold more than at the start."""
        return tracemalloc.get_traced_memory()[0] - self._held

    @property
    def peak(self) -> int:
        """The most of it since the start."""
        return tracemalloc.get_traced_memory()[1] - self._held

    async def watch_pages(self) -> None:
        """Look at the pages until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(0.005)

    def look(self) -> None:
        """Look at the pages now."""
        self.pages = max(self.pages, resident_memory() - self._pages)
