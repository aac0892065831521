"""A broker for layers under test, which can misbehave in the ways that networks do."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

from channels.layers import channel_layers
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from channels_mpx import envelope, exceptions, memory
from channels_mpx.arguments import require_deadline
from channels_mpx.couriers import LoopIsGone
from channels_mpx.envelope import Form
from channels_mpx.hub import Hub
from channels_mpx.layer import MultiplexedChannelLayer
from channels_mpx.memory import MemoryBroker, MemoryLink

from .faults import lasting
from .lanes import Lanes
from .outbox import Outbox, Sent

__all__ = ["Broker"]

_numbers = itertools.count(1)

#: Seconds between two looks at layers that are connecting again.
_LOOK = 0.002


class Broker(MemoryBroker):
    """A broker for layers under test, which can misbehave in the ways that networks do.

    Used with ``with``, it ends its layers when the block ends. It may be used in tests with an
    event loop and in those without.

    Args:
        seed: For the random choices of `drop`, so that a test can be repeated.
        backend: The class of its layers.
        config: Settings of its layers; all but ``hosts`` are allowed.
    """

    def __init__(
        self,
        seed: int = 0,
        backend: type[MultiplexedChannelLayer] = MultiplexedChannelLayer,
        **config: Any,
    ) -> None:
        super().__init__()
        _refuse_hosts(config)
        self._name = f"testing-{next(_numbers)}"
        self._backend = backend
        self._config = config
        self._random = random.Random(seed)
        self._rate = 0.0
        self._outages = 0
        self._is_losing = False
        self._is_closed = False
        self._lanes = Lanes(self.lock)
        self._layers: list[MultiplexedChannelLayer] = []
        self._killed: list[MemoryLink] = []
        #: What the layers have sent, in order, dropped or not.
        self.outbox = Outbox()
        memory.register(self._name, self)

    @classmethod
    def of_settings(cls, alias: str = "default", seed: int = 0, **config: Any) -> Broker:
        """Return a broker whose layers are configured as ``CHANNEL_LAYERS`` says.

        If that alias has another kind of layer, or there are no settings, the defaults are taken.

        Args:
            alias: The alias of the layer.
            seed: As for `Broker`.
            config: Settings that win over those.
        """
        try:
            settings = channel_layers.configs.get(alias, {})
        except ImproperlyConfigured:  # no Django settings at all
            settings = {}
        backend = import_string(settings["BACKEND"]) if "BACKEND" in settings else None
        if not isinstance(backend, type) or not issubclass(backend, MultiplexedChannelLayer):
            return cls(seed, **config)
        configured = {**settings.get("CONFIG", {})}
        configured.pop("hosts", None)
        return cls(seed, backend, **{**configured, **config})

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def layer(self, **config: Any) -> MultiplexedChannelLayer:
        """Return a new layer on this broker, a virtual process of its own.

        Args:
            config: Settings that win over those of the broker; all but ``hosts`` are allowed.

        Raises:
            ClosedError: The broker is closed.
            ConfigurationError: The settings are wrong.
        """
        if self._is_closed:
            raise exceptions.ClosedError(what="The broker")
        _refuse_hosts(config)
        layer = self._backend(hosts=[f"memory://{self._name}"], **{**self._config, **config})
        self._layers.append(layer)
        return layer

    @contextlib.contextmanager
    def installed(self, alias: str = "default", **config: Any) -> Iterator[MultiplexedChannelLayer]:
        """Have `get_channel_layer` return a new layer while the context lasts, and yield it.

        Consumers that begin meanwhile use it. A test that changes ``CHANNEL_LAYERS`` within the
        context gets the layers of its settings again.

        Args:
            alias: The alias in ``CHANNEL_LAYERS``, which need not be there.
            config: As for `layer`.
        """
        layer = self.layer(**config)
        previous = channel_layers.set(alias, layer)
        try:
            yield layer
        finally:
            # Whoever has changed CHANNEL_LAYERS meanwhile has thrown all layers away.
            if channel_layers.backends.get(alias) is layer:
                channel_layers.set(alias, previous)
                if previous is None:
                    del channel_layers.backends[alias]

    def close(self) -> None:
        """End the connections of all layers. Idempotent; callable with and without an event loop.

        A connection that lives on the caller's own event loop, or on one that does not run, ends
        as soon as that loop runs; any other has ended when this returns.
        """
        self._is_closed = True
        memory.forget(self._name)
        for layer in self._layers:
            _end(layer._hub)

    # Faults

    def kill_connection(
        self, layer: MultiplexedChannelLayer, reason: str = "killed by the test"
    ) -> None:
        """Lose the connection of one layer, if it has one. It connects again, as `down` allows."""
        life = layer._hub.life
        self._kill([link for link in self.links if life and link is life.traffic.link], reason)

    def kill_connections(self, reason: str = "killed by the test") -> None:
        """Lose every connection. The layers connect again, unless the broker is down."""
        self._kill(list(self.links), reason)

    def _kill(self, links: list[MemoryLink], reason: str) -> None:
        self._killed += links
        for link in links:
            link.call_soon(link.lose, reason)

    @lasting
    def down(self) -> Iterator[None]:
        """Lose every connection and accept none while the context lasts."""
        self._outages += 1
        self.kill_connections("the broker is down")
        try:
            yield
        finally:
            self._outages -= 1

    async def recovered(self, timeout: float = 5.0) -> None:
        """Wait until every layer is connected again and has all its subscriptions.

        What is sent afterwards arrives. Layers that never had a connection are not waited for.

        Args:
            timeout: Seconds.

        Raises:
            LinkUnavailable: They are not, in time.
        """
        deadline = time.monotonic() + timeout
        while not self._is_whole():
            if time.monotonic() > deadline:
                raise self._unavailable(timeout, "a layer has not recovered")
            await asyncio.sleep(_LOOK)

    def _is_whole(self) -> bool:
        with self.lock:
            self._killed = [link for link in self._killed if link in self.links]
        numbers = [layer.statistics().connection for layer in self._layers]
        return not self._killed and all(
            each.state == "idle" or (each.state == "connected" and each.active == each.wanted)
            for each in numbers
        )

    def drop(self, rate: float) -> contextlib.AbstractContextManager[None]:
        """Drop this share of the messages, 0 to 1, while the context lasts.

        Whoever sends does not notice: the broker has taken the message, and loses it.

        Raises:
            InvalidArgument: It is no number from 0 to 1.
        """
        return self._dropping(_require_share("rate", rate))

    @lasting
    def _dropping(self, rate: float) -> Iterator[None]:
        previous, self._rate = self._rate, rate
        try:
            yield
        finally:
            self._rate = previous

    def delay(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        """Have each delivery and each reply arrive that much later while the context lasts.

        Their order stays. What is under way when the context ends still arrives when it is due,
        and nothing overtakes it.

        Args:
            seconds: Of one way, from the broker to the layer; what layers send is there at once.

        Raises:
            InvalidTimeout: It is no finite number, or negative.
        """
        return self._delaying(require_deadline(seconds, "seconds"))

    @lasting
    def _delaying(self, seconds: float) -> Iterator[None]:
        previous, self._lanes.seconds = self._lanes.seconds, seconds
        try:
            yield
        finally:
            self._lanes.seconds = previous

    @lasting
    def freeze(self) -> Iterator[None]:
        """Deliver nothing and answer nothing while the context lasts, and all of it afterwards."""
        self._lanes.freeze()
        try:
            yield
        finally:
            self._lanes.thaw()

    # What layers do

    def accept(self) -> None:
        """See `MemoryBroker.accept`."""
        if self._outages:
            raise self._unavailable(0, "the broker is down")

    def hold(self, link: MemoryLink, what: tuple[Any, ...]) -> bool:
        """See `MemoryBroker.hold`."""
        return self._is_losing or self._lanes.hold(link, what)

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
    ) -> list[int]:
        self._note(key, payload)
        return super()._push(key, bell, payload, capacity, wait, is_request)

    def _note(self, name: bytes, payload: bytes) -> None:
        """Add a message to the outbox, unless it is for the layers themselves."""
        prefix = name.partition(b":")[0].decode(errors="replace")
        if all(layer.options.prefix != prefix for layer in self._layers):
            self.outbox.append(Sent("plain", name.decode(errors="replace"), payload))
            return
        try:
            form, is_encrypted, local, start, _ = envelope.unwrap(payload)
        except exceptions.DecodingError:
            return
        if form not in (Form.GROUP, Form.DIRECT, Form.WORKER):
            return
        target, process = name.rpartition(b":")[2].decode(), ""
        if form is Form.DIRECT:
            target, process = local.decode(), target
        for layer in self._layers:  # they may have keys of their own
            with contextlib.suppress(exceptions.DecodingError):
                message = layer.codec.decode(payload[start:], is_encrypted, name + payload[:start])
                self.outbox.append(Sent(form.name.lower(), target, message, process))
                return

    def _unavailable(self, seconds: float, reason: str) -> exceptions.LinkUnavailable:
        address = f"memory://{self._name}"
        return exceptions.LinkUnavailable(address=address, seconds=seconds, reason=reason)


def _end(hub: Hub) -> None:
    """End a layer's connection, at once if the thread that it lives in can be waited for."""
    home = hub._residence.current
    if home is None:
        return
    is_here = home.loop is asyncio._get_running_loop()
    if home.thread is None and (is_here or not home.loop.is_running()):
        with contextlib.suppress(LoopIsGone):
            home.courier.post(lambda: hub._leave(home))
    else:
        hub.close()


def _refuse_hosts(config: dict[str, Any]) -> None:
    """Let nobody believe that a layer under test is on another server."""
    if "hosts" in config:
        raise exceptions.ConfigurationError(
            problem="hosts is not for layers under test: they are on the broker of the test, in "
            "this process; leave it out"
        )


def _require_share(name: str, value: object) -> float:
    # True and False are ints to Python, and a mistake here.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:  # type: ignore[operator]
        required = "a number from 0 to 1"
        raise exceptions.InvalidArgument(name=name, required=required, value=value)
    return float(value)  # type: ignore[arg-type]
