"""For tests of consumers: a broker without a server, virtual processes, and faults on demand.

The layers that a `Broker` makes run the very code that runs in production, down to the link; only
the socket and the server behind it are replaced. Each layer is one virtual process.

    broker = Broker()
    here, there = broker.layer(), broker.layer()
    name = await here.new_channel()
    await here.group_add("room", name)
    await there.group_send("room", {"type": "hello"})
    assert await here.receive(name) == {"type": "hello"}
    assert broker.outbox == [Sent("group", "room", {"type": "hello"})]
    broker.kill_connections()
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import envelope, exceptions, memory
from .envelope import Form
from .layer import MultiplexedChannelLayer
from .memory import MemoryBroker, MemoryLink
from .serializers import Message

__all__ = ["Broker", "Sent"]

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Sent:
    """One message or request that a layer sent.

    Attributes:
        kind: ``group``, ``direct`` or ``worker``.
        name: The group or the channel; of a direct channel the part behind the ``!``.
        message: What was sent.
    """

    kind: str
    name: str
    message: Message


class Broker(MemoryBroker):
    """A broker for layers under test, which can misbehave in the ways that networks do.

    Args:
        seed: For the random choices of `drop`, so that a test can be repeated.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._name = f"testing-{next(_numbers)}"
        self._random = random.Random(seed)
        self._rate = 0.0
        self._is_down = False
        self._is_losing = False
        self._held: list[tuple[MemoryLink, tuple[Any, ...]]] | None = None
        self._layers: list[MultiplexedChannelLayer] = []
        #: What the layers have sent, in order, dropped or not.
        self.outbox: list[Sent] = []
        memory.register(self._name, self)

    def layer(self, **config: Any) -> MultiplexedChannelLayer:
        """Return a new layer on this broker, a virtual process of its own.

        Args:
            config: Settings; all but ``hosts`` are allowed.
        """
        layer = MultiplexedChannelLayer(hosts=[f"memory://{self._name}"], **config)
        self._layers.append(layer)
        return layer

    # Faults

    def kill_connections(self, reason: str = "killed by the test") -> None:
        """Lose every connection. The layers connect again, unless the broker is down."""
        for link in tuple(self.links):
            link.call_soon(link.lose, reason)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Lose every connection and accept none while the context lasts."""
        self._is_down = True
        self.kill_connections("the broker is down")
        try:
            yield
        finally:
            self._is_down = False

    @contextlib.contextmanager
    def drop(self, rate: float) -> Iterator[None]:
        """Drop this share of the messages, 0 to 1, while the context lasts.

        Whoever sends does not notice: the broker has taken the message, and loses it.
        """
        previous, self._rate = self._rate, rate
        try:
            yield
        finally:
            self._rate = previous

    @contextlib.contextmanager
    def freeze(self) -> Iterator[None]:
        """Deliver nothing and answer nothing while the context lasts, and all of it afterwards."""
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            for link, what in held:
                link.push(*what)

    # What layers do

    def accept(self) -> None:
        """See `MemoryBroker.accept`."""
        if self._is_down:
            raise exceptions.LinkUnavailable(
                address=f"memory://{self._name}", seconds=0, reason="the broker is down"
            )

    def hold(self, link: MemoryLink, what: tuple[Any, ...]) -> bool:
        """See `MemoryBroker.hold`."""
        if self._is_losing:
            return True
        if self._held is None:
            return False
        self._held.append((link, what))
        return True

    def publish(self, channel: bytes, payload: bytes) -> int:
        """See `MemoryBroker.publish`; notes the message, and may drop it on its way."""
        self._note(channel, payload)
        with self.lock:
            self._is_losing = bool(self._rate) and self._random.random() < self._rate
            try:
                return super().publish(channel, payload)
            finally:
                self._is_losing = False

    def _push(
        self, key: bytes, bell: bytes, payload: bytes, capacity: int, wait: int, is_request: int
    ) -> int:
        self._note(key, payload)
        return super()._push(key, bell, payload, capacity, wait, is_request)

    def _note(self, name: bytes, payload: bytes) -> None:
        """Add a message of ours to the outbox."""
        try:
            form, is_encrypted, local, start, _ = envelope.unwrap(payload)
        except exceptions.DecodingError:
            return
        if form not in (Form.GROUP, Form.DIRECT, Form.WORKER):
            return
        codec = self._layers[0].codec
        message = codec.decode(payload[start:], is_encrypted)
        target = local if form is Form.DIRECT else name.rpartition(b":")[2]
        self.outbox.append(Sent(form.name.lower(), target.decode(), message))
