"""What the pages' consumers share: reading what a page asks for, answering what cannot be done."""

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer

from channels_mpx.exceptions import LinkError, LinkLost

from .rules import Refused, read_message


class PageConsumer(AsyncJsonWebsocketConsumer):
    """Takes what its page asks for: JSON objects with a `type` and an `id`.

    What cannot be done is answered with `{"type": "error", "id", "text", "retry"}`; `retry` tells
    whether the same may work later. The socket stays open through that, also while Redis is away.
    """

    async def do(self, request: dict[str, Any]) -> None:
        """Do what the page asks for, or raise `Refused`."""
        raise NotImplementedError

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any
    ) -> None:
        """Read a request, do it, and answer where that is not possible."""
        request: dict[str, Any] = {}
        try:
            request = read_message(text_data)
            await self.do(request)
        except Refused as refusal:
            await self.complain(request, str(refusal), retry=False)
        except LinkLost:
            await self.complain(request, "Perhaps not done: the link to Redis broke.", retry=True)
        except LinkError:
            await self.complain(request, "Not done: Redis cannot be reached.", retry=True)

    async def complain(self, request: dict[str, Any], text: str, *, retry: bool) -> None:
        """Tell this page alone that something did not work."""
        error = {"type": "error", "id": request.get("id"), "text": text, "retry": retry}
        await self.send_json(error)


class NoSuchPlace(AsyncWebsocketConsumer):
    """Refuses sockets on any other path."""

    async def connect(self) -> None:
        """Refuse."""
        await self.close()
