"""A server's side of a connection, in raw ASGI, and what both kinds of consumers are made of."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from channels_mpx import MultiplexedChannelLayer
from channels_mpx.consumers import MultiplexedConsumerMixin

#: What a test for both is parametrized with: plain Channels says what must be.
KINDS = ("plain", "mixin")


def bases(kind: str, *consumers: type) -> tuple[type, ...]:
    """Return the base classes of a consumer: with the mixin, or without."""
    return (MultiplexedConsumerMixin, *consumers) if kind == "mixin" else consumers


class Client:
    """One connection: give it events, look at what the consumer sends.

    Args:
        consumer: A consumer's class.
        scope: The connection's scope.
        context: Where the consumer's task begins; by default an empty one.

    Attributes:
        calls: How often the consumer's ``receive`` was called.
        sent: What the consumer has sent.
    """

    def __init__(
        self,
        consumer: Any,
        scope: dict[str, Any] | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        self.instance = consumer()
        self.calls = 0
        self.sent: list[dict[str, Any]] = []
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._new = asyncio.Event()
        context = context if context is not None else contextvars.Context()
        self.task: asyncio.Task[None] = context.run(
            asyncio.create_task,
            self.instance(scope or {"type": "websocket"}, self._receive, self._send),
        )

    async def _receive(self) -> Any:
        self.calls += 1
        event = await self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        self._new.set()

    def give(self, kind: Any, **fields: Any) -> None:
        """Have ``receive`` return an event; or raise an exception, if it is one."""
        is_error = isinstance(kind, BaseException)
        self._events.put_nowait(kind if is_error else {"type": kind, **fields})

    def say(self, text: str) -> None:
        """Give a text frame."""
        self.give("websocket.receive", text=text)

    async def hear(self, count: int = 1, timeout: float = 10) -> list[Any]:
        """Return the next texts that the consumer sends, or the types of what is no text."""
        heard: list[Any] = []
        while len(heard) < count:
            while not self.sent:
                self._new.clear()
                await asyncio.wait_for(self._new.wait(), timeout)
            message = self.sent.pop(0)
            heard.append(message.get("text") or message["type"])
        return heard

    async def connect(self) -> Client:
        """Connect a WebSocket."""
        self.give("websocket.connect")
        assert await self.hear() == ["websocket.accept"]
        return self

    async def end(self, timeout: float = 10) -> None:
        """Wait until the consumer has ended; raises what it has raised."""
        await asyncio.wait_for(asyncio.shield(self.task), timeout)

    async def leave(self) -> None:
        """Disconnect a WebSocket."""
        self.give("websocket.disconnect", code=1000)
        await self.end()

    async def cancel(self) -> None:
        """Cancel the consumer, as a server does that is going down."""
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled()


def is_empty(layer: MultiplexedChannelLayer) -> bool:
    """Whether nothing of any consumer is left: the inbox is all that is wanted."""
    now = layer.statistics()
    return (now.channels, now.groups, now.waiting, now.connection.wanted) == (0, 0, 0, 1)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail if asyncio complains of what a test has left behind; import it into a module."""
    yield
    gc.collect()
    records = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    assert not [record for record in records if record.name == "asyncio"]


def others() -> set[asyncio.Task[Any]]:
    """Return the tasks that are no part of the connection, nor this test."""
    gc.collect()
    return {
        task
        for task in asyncio.all_tasks()
        if task is not asyncio.current_task() and not task.get_name().startswith("channels_mpx[")
    }
