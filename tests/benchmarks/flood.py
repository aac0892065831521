"""The other process of the flood row: sends to a group as fast as its layer can.

``python -m tests.benchmarks.flood PEER LOOP URL GROUP WARM_UP COUNT`` sends the warm-up messages,
writes ``ready``, waits for a line, sends ``COUNT`` messages, writes ``done``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

from tests.benchmarks.context import MESSAGE, ChannelLayer, make_layer, prepare

WORKERS = 64
"""Concurrent senders: below the 100 connections that redis-py's pool allows by default."""


async def _send(layer: ChannelLayer, group: str, turns: Iterator[int]) -> None:
    for _ in turns:
        await layer.group_send(group, MESSAGE)


async def _flood(layer: ChannelLayer, group: str, count: int) -> None:
    turns = iter(range(count))
    await asyncio.gather(*(_send(layer, group, turns) for _ in range(WORKERS)))


async def main(peer: str, url: str, group: str, warm_up: int, count: int) -> None:
    """Warm up, wait for the word, flood."""
    layer = make_layer(peer, url)
    await _flood(layer, group, warm_up)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await _flood(layer, group, count)
    print("done", flush=True)


if __name__ == "__main__":
    prepare(sys.argv[2])
    asyncio.run(main(sys.argv[1], sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6])))
