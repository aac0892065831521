"""Where a multiplexer under test connects to: Redis, or a broker in memory that can misbehave."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from channels_mpx import exceptions, memory
from channels_mpx.memory import MemoryBroker, MemoryLink
from tests.layers import kill_clients
from tests.servers import RedisServer

_numbers = itertools.count(1)


class MemorySite(MemoryBroker):
    """A broker that nobody else uses."""

    #: Why a link is lost by `cut`.
    reason = "cut by the test"

    def __init__(self) -> None:
        super().__init__()
        name = f"site{next(_numbers)}"
        memory.register(name, self)
        self.url = f"memory://{name}"
        #: Links that were ever made.
        self.accepted = 0
        self._is_down = False
        self._withheld: list[tuple[MemoryLink, tuple[Any, ...]]] | None = None

    def cut(self) -> None:
        """Lose every link."""
        for link in tuple(self.links):
            link.call_soon(link.lose, self.reason)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Lose every link and accept none while the context lasts."""
        self._is_down = True
        self.cut()
        try:
            yield
        finally:
            self._is_down = False

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Accept links, and tell them nothing while the context lasts."""
        self._withheld = []
        try:
            yield
        finally:
            withheld, self._withheld = self._withheld, None
            for link, (what, *arguments) in withheld:
                link.push(what, *arguments)

    def accept(self) -> None:
        """See `MemoryBroker.accept`."""
        if self._is_down:
            raise exceptions.LinkUnavailable(address=self.url, seconds=0, reason="down")
        self.accepted += 1

    def hold(self, link: MemoryLink, what: tuple[Any, ...]) -> bool:
        """See `MemoryBroker.hold`."""
        if self._withheld is None:
            return False
        self._withheld.append((link, what))
        return True

    def ask(self, *command: bytes) -> Any:
        """Return the reply to a command."""
        return self.execute(command)


class RedisSite:
    """A Redis server."""

    #: Why a link is lost by `cut`.
    reason = "Redis closed the connection"

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.url = server.url

    def cut(self) -> None:
        """Lose every link."""
        kill_clients(self.server)

    def ask(self, *command: bytes) -> Any:
        """Return the reply to a command, as bytes."""
        return _encoded(self.server.command(*command))


Site = MemorySite | RedisSite


def patterns(site: Site) -> int:
    """Return how many distinct patterns are subscribed to."""
    return int(site.ask(b"PUBSUB", b"NUMPAT"))


def subscribers(site: Site, channel: bytes) -> int:
    """Return how many connections are subscribed to a channel."""
    reply = site.ask(b"PUBSUB", b"NUMSUB", channel)
    return int(reply[-1][1] if isinstance(reply[-1], tuple) else reply[-1])


def _encoded(reply: Any) -> Any:
    walk: dict[type, Callable[[Any], Any]] = {
        str: lambda text: text.encode(),
        list: lambda items: [_encoded(item) for item in items],
        tuple: lambda items: tuple(_encoded(item) for item in items),
    }
    return walk.get(type(reply), lambda value: value)(reply)
