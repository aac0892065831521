"""One consumer for each open page."""

from contextlib import suppress
from typing import Any

from home.consumers import PageConsumer
from home.rules import Refused, clean_name, clean_room, clean_text

from channels_mpx.consumers import MultiplexedConsumerMixin
from channels_mpx.exceptions import MPXError
from channels_mpx.gap import Gap


class ChatConsumer(MultiplexedConsumerMixin, PageConsumer):
    """A person in a room.

    The page sends `{"type": "join", "id", "name"}` and then `{"type": "say", "id", "text"}`.
    It gets `joined`, `message`, `notice`, `announcement` and `error`, and when the connection to
    Redis breaks `interrupted` and `gap`. An error carries the `id`
    of what it answers, and `retry` tells whether the same may work later. The socket stays open
    through all of them, also while Redis is away.
    """

    name: str | None = None

    async def connect(self) -> None:
        """Accept the socket if its room may exist."""
        try:
            self.group = room_group(self.scope["url_route"]["kwargs"]["room"])
        except Refused:
            await self.close()
        else:
            await self.accept()

    async def disconnect(self, code: int) -> None:
        """Leave the room. Without Redis nobody can be told, and nothing is left to tidy up."""
        if self.name is not None:
            with suppress(MPXError):
                await self.channel_layer.group_discard(self.group, self.channel_name)
                await self.notify_room(f"{self.name} left")

    async def do(self, request: dict[str, Any]) -> None:
        """Join or say."""
        if request.get("type") == "join":
            await self.join(clean_name(request.get("name")))
        elif request.get("type") == "say":
            await self.say(request["id"], clean_text(request.get("text")))
        else:
            raise Refused("The type is `join` or `say`.")

    async def join(self, name: str) -> None:
        """Enter the room: from here on, what is said in it reaches this page."""
        if self.name is not None:
            raise Refused("You are in the room already.")
        await self.channel_layer.group_add(self.group, self.channel_name)
        self.name = name
        await self.send_json({"type": "joined", "name": name})
        with suppress(MPXError):
            await self.notify_room(f"{name} joined")

    async def say(self, message_id: str, text: str) -> None:
        """Tell the room, which includes the sender's own page."""
        if self.name is None:
            raise Refused("Join the room first.")
        await self.channel_layer.group_send(
            self.group,
            {
                "type": "chat.message",
                "sender": self.channel_name,
                "id": message_id,
                "name": self.name,
                "text": text,
            },
        )

    async def notify_room(self, text: str) -> None:
        """Tell the room that somebody came or went."""
        await self.channel_layer.group_send(self.group, {"type": "chat.notice", "text": text})

    # Messages of the group arrive in the method that their type names.

    async def chat_message(self, event: dict[str, Any]) -> None:
        """Pass on what somebody said; the sender's page also gets its own id back."""
        own_id = event["id"] if event["sender"] == self.channel_name else None
        line = {"type": "message", "id": own_id, "name": event["name"], "text": event["text"]}
        await self.send_json(line)

    async def chat_notice(self, event: dict[str, Any]) -> None:
        """Pass on who came or went."""
        await self.send_json({"type": "notice", "text": event["text"]})

    async def chat_announcement(self, event: dict[str, Any]) -> None:
        """Pass on what `manage.py announce` says."""
        await self.send_json({"type": "announcement", "text": event["text"]})

    async def on_disconnect(self, error: Exception) -> None:
        """The connection to Redis is lost; the page says so."""
        await self.send_json({"type": "interrupted"})

    async def on_gap(self, gap: Gap) -> None:
        """Everything is back. What was said meanwhile may be missing."""
        await self.send_json({"type": "gap", "seconds": gap.seconds})


def room_group(room: str) -> str:
    """Name the channel layer's group for a room."""
    return f"chat.{clean_room(room)}"
