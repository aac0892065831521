"""Many processes with a layer each, for tests of what happens when all of them reconnect at once.

python -m tests.integration.faults.crowd URL PROCESSES GROUPS '{"timeout": 30}'

Each is a fork of one parent, joins the group ``crowd`` and so many of its own, and goes on until
stdin ends. It writes its number whenever its attempts to connect are as far apart as they get.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
from collections.abc import Iterator

from channels_mpx import MultiplexedChannelLayer, supervisor
from channels_mpx.backoff import delays


def telling(number: int, first: float, most: float) -> Iterator[float]:
    """Yield the pauses between attempts, and write our number before each of the longest."""
    for pause in delays(first, most):
        if pause >= most / 2:
            os.write(sys.stdout.fileno(), b"%d\n" % number)  # whole, whoever else writes
        yield pause


async def stay(url: str, number: int, groups: int, config: dict[str, object]) -> None:
    """Be a member until stdin ends."""
    layer = MultiplexedChannelLayer(hosts=[url], **config)
    channel = await layer.new_channel()
    names = ["crowd", *(f"own-{number}-{at}" for at in range(groups))]
    await asyncio.gather(*(layer.group_add(name, channel) for name in names))
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), over.set)
    reading = asyncio.ensure_future(layer.receive(channel))
    await over.wait()
    reading.cancel()
    await layer.aclose()


def main() -> None:
    """Fork, and wait for all."""
    url, processes, groups, config = sys.argv[1:]
    children = []
    for number in range(int(processes)):
        child = os.fork()
        if not child:
            supervisor.delays = functools.partial(telling, number)
            asyncio.run(stay(url, number, int(groups), json.loads(config)))
            os._exit(0)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(statuses))


if __name__ == "__main__":
    main()
