"""The other process of the tests: it reads verbs as JSON lines, and writes what became of them.

python -m tests.integration.peer '{"hosts": ["redis://…"]}'
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

from channels_mpx import MultiplexedChannelLayer
from tests.children import serve


class Servant:
    """Carries out verbs: those of the layer, and a few of its own."""

    def __init__(self, layer: MultiplexedChannelLayer) -> None:
        self._layer = layer
        self._names: dict[str, str] = {}

    async def new_channel(self) -> str:
        """Make a channel and keep its name alive."""
        name = await self._layer.new_channel()
        self._names[name] = name
        return name

    async def receive(self, channel: str, timeout: float = 10) -> Any:
        """Return the next message."""
        channel = self._names.get(channel, channel)
        return await asyncio.wait_for(self._layer.receive(channel), timeout)

    async def drop(self, channel: str) -> None:
        """Let go of a channel's name."""
        del self._names[channel]

    async def work(self, channel: str, pause: float) -> list[int]:
        """Take messages until none has come for ``pause`` seconds; return their numbers."""
        numbers: list[int] = []
        while True:
            try:
                message = await asyncio.wait_for(self._layer.receive(channel), pause)
            except asyncio.TimeoutError:
                return numbers
            numbers.append(message["number"])

    async def echo(self, channel: str, count: int) -> int:
        """Answer so many requests, each with its own number; return how many they were."""
        channel = self._names.get(channel, channel)
        answered = 0
        while answered < count:
            event = await self._layer.receive(channel)
            if "mpx.reply_to" in event:
                await self._layer.reply(event, {"echo": event["number"]})
                answered += 1
        return answered

    async def do(self, verb: str, *arguments: Any) -> dict[str, Any]:
        """Carry out one verb; return its value, or the error that it raised."""
        own = getattr(self, verb, None) or getattr(self._layer, verb)
        try:
            return {"value": await own(*arguments)}
        except Exception as error:  # any: it is the caller's, on the other side
            return {"error": f"{type(error).__name__}: {error}"}


async def main() -> None:
    """Serve until stdin ends."""
    logging.getLogger("asyncio").setLevel("ERROR")  # how busy the machine is does not matter
    layer = MultiplexedChannelLayer(**json.loads(sys.argv[1]))
    await serve(Servant(layer).do)


if __name__ == "__main__":
    asyncio.run(main())
