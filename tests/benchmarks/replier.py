"""The other process of the rows of requests: one consumer that answers.

``python -m tests.benchmarks.replier PEER LOOP URL`` runs a consumer as an ASGI server does; the
consumer writes the name of its channel. It ends when its input does.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from tests.benchmarks.apps import install_layer, replier
from tests.benchmarks.context import input_lines, prepare


async def _nowhere(event: dict[str, Any]) -> None:
    """Send to a client that is not there."""


async def main(peer: str, url: str) -> None:
    """Let the consumer answer.

    Raises:
        Exception: What it ended with.
    """
    install_layer(peer, url)
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    events.put_nowait({"type": "websocket.connect"})
    scope = {"type": "websocket", "path": "/", "headers": []}
    consumer = asyncio.ensure_future(replier(peer)(scope, events.get, _nowhere))
    ended = asyncio.ensure_future((await input_lines()).read())
    await asyncio.wait([consumer, ended], return_when=asyncio.FIRST_COMPLETED)
    events.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await consumer


if __name__ == "__main__":
    prepare(sys.argv[2])
    asyncio.run(main(sys.argv[1], sys.argv[3]))
