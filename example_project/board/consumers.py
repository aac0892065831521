"""One consumer for each viewer of the board; all of them share one pattern in Redis."""

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from channels_mpx.consumers import PatternSubscriptionMixin
from channels_mpx.gap import Gap

LARGEST = 1e15  # what JavaScript still counts exactly


class BoardConsumer(PatternSubscriptionMixin, AsyncJsonWebsocketConsumer):
    """Shows whatever is published under `metrics.`: each message one number, as JSON.

    Whoever publishes knows nothing of Django: `redis-cli PUBLISH metrics.cpu 42.5` is enough.

    The page gets `value`, and `interrupted`, `gap` and `unreadable` where values are missing.
    """

    patterns = ["metrics.*"]
    payload = "json"

    async def on_pattern_message(self, pattern: bytes, channel: bytes, message: Any) -> None:
        """Pass on a number."""
        if type(message) in (int, float) and abs(message) < LARGEST:
            await self.send_json({"type": "value", "metric": metric_of(channel), "value": message})
        else:
            await self.send_json({"type": "unreadable", "metric": metric_of(channel)})

    async def on_bad_payload(self, channel: bytes, payload: bytes, error: Exception) -> None:
        """Say that something came which is not even JSON."""
        await self.send_json({"type": "unreadable", "metric": metric_of(channel)})

    async def on_disconnect(self, error: Exception) -> None:
        """The link to Redis is lost: no values until it is back."""
        await self.send_json({"type": "interrupted"})

    async def on_gap(self, gap: Gap) -> None:
        """Everything is back. The values of so many seconds may be missing."""
        await self.send_json({"type": "gap", "seconds": gap.seconds, "reason": gap.reason})

    async def receive(self, text_data: str | None = None, **kwargs: Any) -> None:
        """A viewer has nothing to say."""


def metric_of(channel: bytes) -> str:
    """Return what is measured, from the channel that it was published on."""
    return channel.decode(errors="replace").removeprefix("metrics.")
