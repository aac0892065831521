"""One consumer for each open page, in as many rooms as its person likes."""

import re
from typing import Any

from home.consumers import PageConsumer
from home.rules import Refused, clean_name, clean_text

from channels_mpx import InvalidName, NotAuthorized
from channels_mpx.consumers import ChannelSubscriptionMixin
from channels_mpx.gap import Gap

ROOM = re.compile(rb"room\.[a-z0-9-]{1,40}")
MOST_ROOMS = 10


class RoomsConsumer(ChannelSubscriptionMixin, PageConsumer):
    """A person in several rooms. A room is a Redis channel, such as `room.tea`; a line in it is text.

    So any program can take part: `redis-cli PUBLISH room.tea "Ada: hello"`.

    The page sends `join`, `leave` and `write`. It gets `active` for each room that it is in,
    `left`, `line`, `written`, `error`, and when the link to Redis breaks `interrupted` and `gap`.
    """

    payload = "text"

    async def authorize_subscription(self, kind: str, name: bytes) -> bool:
        """Clients choose the names here: they get rooms, and nothing else that is in Redis."""
        return kind == "channel" and ROOM.fullmatch(name) is not None

    async def do(self, request: dict[str, Any]) -> None:
        """Join, leave or write."""
        channel = request.get("channel")
        try:
            if request.get("type") == "join":
                await self.join(channel)
            elif request.get("type") == "leave":
                await self.unsubscribe(channel)
                await self.send_json({"type": "left", "channel": channel})
            elif request.get("type") == "write":
                line = f"{clean_name(request.get('name'))}: {clean_text(request.get('text'))}"
                await self.write(channel, line, request["id"])
            else:
                raise Refused("The type is `join`, `leave` or `write`.")
        except (NotAuthorized, InvalidName) as error:
            raise Refused("A room's name has 1 to 40 letters, digits and hyphens.") from error

    async def join(self, channel: str) -> None:
        """Subscribe. When Redis has confirmed it, `on_activation` tells the page."""
        if len(self.subscribed_channels) >= MOST_ROOMS:
            raise Refused(f"{MOST_ROOMS} rooms are the most; leave one first.")
        await self.subscribe(channel)

    async def write(self, channel: str, line: str, request_id: str) -> None:
        """Publish to a room. Who is subscribed hears it, the writer's own page too."""
        if channel not in [name.decode() for name in self.subscribed_channels]:
            raise Refused("Join the room first.")
        await self.channel_layer.multiplexer.publish(channel, line)
        await self.send_json({"type": "written", "id": request_id})

    async def on_channel_message(self, channel: bytes, message: str) -> None:
        """Pass on what anybody published in a room."""
        await self.send_json({"type": "line", "channel": channel.decode(), "text": message})

    async def on_bad_payload(self, channel: bytes, payload: bytes, error: Exception) -> None:
        """Say that something came which is no text."""
        await self.on_channel_message(channel, f"{len(payload):,} bytes that are no text")

    async def on_activation(self, name: bytes) -> None:
        """Redis has confirmed a room: for the first time, or again after a loss."""
        await self.send_json({"type": "active", "channel": name.decode()})

    async def on_disconnect(self, error: Exception) -> None:
        """The link to Redis is lost, and nothing can be heard until it is back."""
        await self.send_json({"type": "interrupted"})

    async def on_gap(self, gap: Gap) -> None:
        """Everything is back. What was said meanwhile may be missing."""
        await self.send_json({"type": "gap", "seconds": gap.seconds, "reason": gap.reason})
