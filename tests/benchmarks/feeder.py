"""The other process of the rows with consumers: sends to a group as many messages as it is told.

``python -m tests.benchmarks.feeder PEER LOOP URL GROUP [--stamped]`` connects, writes ``ready``,
and then sends, for every line with a number, that many messages at once; it ends when its input
does. Stamped messages carry the time at which they are sent, in nanoseconds of
``time.monotonic``, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import sys
import time

from tests.benchmarks.context import MESSAGE, ChannelLayer, input_lines, make_layer, prepare

DIGITS = 20
"""How long a stamp is, at the beginning of the text."""


def stamped() -> dict[str, object]:
    """Return the message with the time in it, as long as without."""
    return {**MESSAGE, "text": f"{time.monotonic_ns():0{DIGITS}}{MESSAGE['text'][DIGITS:]}"}


async def _send_stamped(layer: ChannelLayer, group: str) -> None:
    await layer.group_send(group, stamped())


async def main(peer: str, url: str, group: str, is_stamped: bool) -> None:
    """Connect, and send as told."""
    layer = make_layer(peer, url)
    await layer.group_send("nobody", MESSAGE)
    lines = await input_lines()
    print("ready", flush=True)
    while line := await lines.readline():
        if is_stamped:
            await asyncio.gather(*(_send_stamped(layer, group) for _ in range(int(line))))
        else:
            await asyncio.gather(*(layer.group_send(group, MESSAGE) for _ in range(int(line))))


if __name__ == "__main__":
    prepare(sys.argv[2])
    asyncio.run(main(sys.argv[1], sys.argv[3], sys.argv[4], "--stamped" in sys.argv))
