"""The row of whole consumers without a network: the ASGI server is a few lines here."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from tests.benchmarks.apps import install_layer, listener
from tests.benchmarks.context import MESSAGE, STALL, Context, Result, level, settle
from tests.benchmarks.feed import Feed, Watch

WARM_UP = 1.0
"""Seconds of flood before the clock starts."""


class Crowd:
    """Counts what all clients get.

    Attributes:
        accepted: Clients whose connection was accepted.
        delivered: Frames.
        mark: The number of frames at which the sender is told to go on.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.delivered = 0
        self.mark = sys.maxsize
        self._feed: Feed | None = None

    def open(self, feed: Feed) -> None:
        """Begin the flood."""
        self._feed = feed
        feed.open()
        self.mark = feed.mark

    def close(self) -> None:
        """Have no more sent."""
        self.mark = sys.maxsize

    def reached(self) -> None:
        """Tell the sender to go on."""
        assert self._feed is not None
        self._feed.follow(self.delivered)
        self.mark = self._feed.mark

    async def settled(self, expected: int) -> None:
        """Wait until everything has come, or nothing comes any more."""
        while self.delivered < expected:
            before = self.delivered
            for _ in range(int(STALL / 0.05)):
                await asyncio.sleep(0.05)
                if self.delivered >= expected:
                    break
            if self.delivered == before:
                break


class Client:
    """One connection: what an ASGI server does for it, without sockets and frames.

    Args:
        application: What the server serves.
        crowd: Where frames are counted as well.

    Attributes:
        frames: What this client got.
        task: The running application.
    """

    def __init__(self, application: Any, crowd: Crowd) -> None:
        self.frames = 0
        self._crowd = crowd
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._events.put_nowait({"type": "websocket.connect"})
        scope = {"type": "websocket", "path": "/", "headers": []}
        self.task = asyncio.ensure_future(application(scope, self._events.get, self._send))

    def leave(self) -> None:
        """Let the client disconnect."""
        self._events.put_nowait({"type": "websocket.disconnect", "code": 1000})

    async def _send(self, event: dict[str, Any]) -> None:
        crowd = self._crowd
        if event["type"] != "websocket.send":
            crowd.accepted += event["type"] == "websocket.accept"
            return
        if event["text"] != MESSAGE["text"]:
            raise RuntimeError("a client got another text than was sent")
        self.frames += 1
        crowd.delivered += 1
        if crowd.delivered >= crowd.mark:
            crowd.reached()


async def _gather(clients: list[Client], crowd: Crowd) -> None:
    """Wait until all are connected.

    Raises:
        RuntimeError: They are not, within 20 s.
    """
    for _ in range(1000):
        if crowd.accepted == len(clients):
            return
        for client in clients:
            if client.task.done():
                client.task.result()
        await asyncio.sleep(0.02)
    raise RuntimeError(f"{crowd.accepted} of {len(clients)} consumers accepted within 20 s")


async def _part(clients: list[Client]) -> None:
    """Disconnect all, and see that their consumers end.

    Raises:
        Exception: What a consumer ended with.
        RuntimeError: Consumers were left, or got different numbers of messages.
    """
    if len({client.frames for client in clients}) > 1:
        counts = sorted(client.frames for client in clients)
        raise RuntimeError(f"consumers got between {counts[0]} and {counts[-1]} messages")
    for client in clients:
        client.leave()
    _, left = await asyncio.wait([client.task for client in clients], timeout=20)
    if left:
        raise RuntimeError(f"{len(left)} consumers were left 20 s after their clients")
    for client in clients:
        client.task.result()


async def consumers(context: Context) -> Result:
    """500 whole consumers in one group of this process, which another process floods.

    Each consumer sends the text of each message to its client, where it is compared and counted.
    """
    count = context.count(500, 50)
    with Feed(context, count) as feed:
        install_layer(context.peer, context.url)
        crowd, watch, application = Crowd(), Watch(), listener(context.peer)
        clients = [Client(application, crowd) for _ in range(count)]
        await _gather(clients, crowd)
        await settle()
        crowd.open(feed)
        await asyncio.sleep(WARM_UP)
        level()
        watch.read(crowd.delivered)
        await asyncio.sleep(context.span)
        watch.read(crowd.delivered)
        crowd.close()
        await crowd.settled(feed.expected)
        result = watch.result(crowd.delivered, feed.expected)
        if not result["dropped"]:
            await _part(clients)
        feed.finish()
    return result
