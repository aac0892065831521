"""A broker inside this process, and the link to it: the layer without a server.

It speaks the few commands that the floors above use, with Redis's meaning: PUBLISH reaches who is
subscribed at that moment, in one order for all, and replies come in the order of the commands.
Everything above the link is the same code as with a real Redis. Links of several loops and threads
may share a broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

from . import exceptions
from .globs import translate_glob
from .names import Kind, Topic
from .scripts import DEADLINE_DIGITS, LAST_DEADLINE, POP, PUSH, UNPOP, Script
from .wire import Argument, Command, Link, Loss, Receiver

__all__ = ["MemoryBroker", "MemoryDialer", "MemoryLink", "broker", "forget", "register"]


class MemoryBroker:
    """What Redis is to real links: who is subscribed to what, and the worker queues."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.links: list[MemoryLink] = []
        self.queues: defaultdict[bytes, deque[bytes]] = defaultdict(deque)
        self._globs: dict[bytes, re.Pattern[bytes]] = {}
        self._commands: dict[bytes, Callable[..., Any]] = {
            b"PUBLISH": self.publish,
            b"PING": lambda: b"PONG",
            b"ROLE": lambda: [b"master", 0, []],
            b"SCAN": self._scan,
            b"UNLINK": self._unlink,
            b"PUBSUB": self._pubsub,
            b"LLEN": lambda key: len(self.queues.get(key, ())),
        }
        self._scripts: dict[str, Callable[..., Any]] = {
            PUSH.name: self._push,
            POP.name: self._pop,
            UNPOP.name: self._unpop,
        }

    def accept(self) -> None:
        """Called for each new link; raises `LinkUnavailable` to refuse it."""

    def hold(self, link: MemoryLink, what: tuple[Any, ...]) -> bool:
        """Called with all that a link is going to be told; returns whether to keep it back."""
        return False

    def execute(self, command: Command) -> Any:
        """Carry a command out and return its reply; an error is returned, not raised."""
        name, *arguments = command
        verb = self._commands.get(name) if isinstance(name, bytes) else None
        with self.lock:
            if verb is None:
                return _refusal(command[0], "ERR unknown command")
            return verb(*arguments)

    def run(self, script: Script, keys: Sequence[bytes], args: Sequence[Argument]) -> Any:
        """Do what a script does."""
        with self.lock:
            return self._scripts[script.name](*keys, *args)

    def publish(self, channel: bytes, payload: bytes) -> int:
        """Give a message to every subscription that fits; return how many there were."""
        receivers = 0
        with self.lock:
            for link in tuple(self.links):
                if channel in link.topics[Kind.CHANNEL]:
                    link.push(link.receiver.message, channel, payload)
                    receivers += 1
                for pattern in link.topics[Kind.PATTERN]:
                    if self._glob(pattern).fullmatch(channel):
                        link.push(link.receiver.pattern_message, pattern, channel, payload)
                        receivers += 1
        return receivers

    def _glob(self, pattern: bytes) -> re.Pattern[bytes]:
        if pattern not in self._globs:
            self._globs[pattern] = translate_glob(pattern)
        return self._globs[pattern]

    def _push(
        self, key: bytes, bell: bytes, payload: bytes, capacity: int, wait: int, is_request: int
    ) -> list[int]:
        queue, now, expired = self.queues[key], _now(), 0
        while queue and _deadline(queue[0]) < now:
            queue.popleft()
            expired += 1
        if len(queue) >= capacity:
            fresh = [entry for entry in queue if _deadline(entry) >= now]
            expired += len(queue) - len(fresh)
            queue = self.queues[key] = deque(fresh)
            if len(queue) >= capacity:
                return [-1, expired]
        heard = self.publish(bell, b"")
        if heard or not is_request:
            deadline = min(now + wait, LAST_DEADLINE)
            queue.append(b"%0*d%b" % (DEADLINE_DIGITS, deadline, payload))
        elif not queue:
            del self.queues[key]
        return [heard, expired]

    def _pop(self, key: bytes) -> list[Any]:
        queue, now, expired = self.queues.get(key), _now(), 0
        while queue:
            entry = queue.popleft()
            if not queue:
                del self.queues[key]
            if _deadline(entry) >= now:
                return [entry, expired]
            expired += 1
        return [None, expired]

    def _unpop(self, key: bytes, bell: bytes, entry: bytes) -> int:
        if _deadline(entry) <= _now():
            return -1
        self.queues[key].appendleft(entry)
        return self.publish(bell, b"")

    def _pubsub(self, what: bytes, *names: bytes) -> Any:
        """Redis documentation, PUBSUB CHANNELS, NUMSUB and NUMPAT."""
        if what == b"NUMPAT":
            return len(set().union(*(link.topics[Kind.PATTERN] for link in self.links)))
        counts = Counter(name for link in self.links for name in link.topics[Kind.CHANNEL])
        if what == b"CHANNELS":
            return [name for name in counts if self._glob(names[0]).fullmatch(name)]
        return [part for name in names for part in (name, counts[name])]

    def _scan(self, cursor: bytes, match: bytes, pattern: bytes, *rest: object) -> list[Any]:
        glob = self._glob(pattern)
        return [b"0", [key for key in self.queues if glob.fullmatch(key)]]

    def _unlink(self, *keys: bytes) -> int:
        return sum(self.queues.pop(key, None) is not None for key in keys)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _deadline(entry: bytes) -> int:
    digits = entry[:DEADLINE_DIGITS]
    return int(digits) if digits.isdigit() else 2**62  # not ours: whoever pops it counts it


def _refusal(name: Argument, text: str) -> exceptions.CommandRefused:
    command = name.decode() if isinstance(name, bytes) else str(name)
    return exceptions.CommandRefused(address="memory://", command=command, text=text)


class MemoryLink:
    """A link to a broker in this process. See `Link` for its methods."""

    def __init__(self, broker: MemoryBroker, receiver: Receiver, address: str) -> None:
        self.address = address
        self.bytes_read = self.bytes_written = 0
        self.loss = Loss.CLOSED
        self.topics: dict[Kind, set[bytes]] = {kind: set() for kind in Kind}
        self._broker = broker
        self.receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._inbound: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._is_called = self._is_lost = False
        self._awaited: set[asyncio.Future[Any]] = set()
        broker.links.append(self)

    def __repr__(self) -> str:
        return f"<MemoryLink {self.address} {'lost' if self._is_lost else 'alive'}>"

    @property
    def last_read(self) -> float:
        """A process is never silent towards itself."""
        return self._loop.time()

    last_parsed = last_read

    @property
    def in_flight(self) -> int:
        """See `Link.in_flight`."""
        return len(self._awaited)

    @property
    def is_written(self) -> bool:
        """See `Link.is_written`."""
        return True

    def discard(self) -> None:
        """See `Link.discard`."""
        self._is_lost = True
        self._leave_broker()

    def _leave_broker(self) -> None:
        with self._broker.lock, contextlib.suppress(ValueError):
            self._broker.links.remove(self)

    def disown(self) -> None:
        """See `Link.disown`; there is nothing that two processes could share."""

    def send(self, command: Command, future: asyncio.Future[Any]) -> None:
        """See `Link.send`."""
        if self._is_lost:
            future.set_exception(self._lost("it was lost before"))
        else:
            self._answer(future, self._broker.execute(command))

    def run(
        self, script: Script, keys: Sequence[bytes], args: Sequence[Argument]
    ) -> asyncio.Future[Any]:
        """See `Link.run`."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._is_lost:
            future.set_exception(self._lost("it was lost before"))
        else:
            self._answer(future, self._broker.run(script, keys, args))
        return future

    def subscribe(self, kind: Kind, names: Sequence[bytes]) -> None:
        """See `Link.subscribe`."""
        with self._broker.lock:
            for name in names:
                self.topics[kind].add(name)
                self.push(self.receiver.acknowledged, Topic(kind, name), True)

    def unsubscribe(self, kind: Kind, names: Sequence[bytes]) -> None:
        """See `Link.unsubscribe`."""
        with self._broker.lock:
            for name in names:
                self.topics[kind].discard(name)
                self.push(self.receiver.acknowledged, Topic(kind, name), False)

    def lose(self, reason: str, loss: Loss = Loss.CLOSED) -> None:
        """See `Link.lose`."""
        if self._is_lost:
            return
        self._is_lost, self.loss = True, loss
        self._leave_broker()
        error = self._lost(reason)
        for future in self._awaited:
            if not future.done():
                future.set_exception(error)
        self._awaited.clear()
        self.receiver.lost(self, reason, [])

    def _lost(self, reason: str) -> exceptions.LinkLost:
        return exceptions.LinkLost(address=self.address, reason=reason)

    def push(self, what: Callable[..., None], *arguments: Any) -> None:
        """Queue something for the receiver; callable from any thread, in one order for all."""
        with self._broker.lock:
            if self._broker.hold(self, (what, *arguments)):
                return
            self._inbound.append((what, arguments))
            if self._is_called:
                return
            self._is_called = True
        self.call_soon(self._deliver)

    def call_soon(self, what: Callable[..., None], *arguments: Any) -> None:
        """Have something called on the link's loop; callable from any thread."""
        if asyncio._get_running_loop() is self._loop:
            self._loop.call_soon(what, *arguments)
            return
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:  # the loop is closed, and nobody said so
            self._leave_broker()

    def _answer(self, future: asyncio.Future[Any], reply: Any) -> None:
        self._awaited.add(future)

        def settle() -> None:
            self._awaited.discard(future)
            if future.done():
                return
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self.push(settle)

    def _deliver(self) -> None:
        with self._broker.lock:
            self._is_called = False
            inbound, self._inbound = self._inbound, deque()
        for what, arguments in inbound:
            if self._is_lost:
                return
            what(*arguments)


_brokers: dict[str, MemoryBroker] = {}


def broker(name: str) -> MemoryBroker:
    """Return the broker of ``memory://<name>``; one name is one broker in this process."""
    return _brokers.setdefault(name, MemoryBroker())


def register(name: str, broker: MemoryBroker) -> None:
    """Make a broker the one that ``memory://<name>`` leads to."""
    _brokers[name] = broker


def forget(name: str) -> None:
    """Have ``memory://<name>`` lead to a new broker; who has the old one keeps it."""
    _brokers.pop(name, None)


class MemoryDialer:
    """Makes links to a broker."""

    def __init__(self, broker: MemoryBroker, address: str) -> None:
        self.address = address
        self.broker = broker

    async def dial(self, receiver: Receiver) -> Link:
        """See `Dialer.dial`."""
        self.broker.accept()
        return MemoryLink(self.broker, receiver, self.address)


# A child made by fork has no part in its parent's brokers, whose locks somebody may have held.
os.register_at_fork(after_in_child=_brokers.clear)
