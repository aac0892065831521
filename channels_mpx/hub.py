"""The owner of link and router: connects, reconnects, probes, delivers.

Theory of operation
===================

One task, the supervisor, lives on the home loop (see `loops`) and is the only one that makes
links. Its life is the connection's life: however it ends, its ``finally`` closes the link.

    dial ──▶ link ──▶ tell Redis what is wanted, then send what has waited ──▶ lost ──▶ dial …

The link tells us what it reads by plain calls on the home loop. `message` looks the receivers up
and hands the bytes over; nothing on that way waits, and nothing on it runs a user's code.

Commands that find no link are *parked*. They go out on the next one, after its SUBSCRIBEs, or
fail at their deadline with the reason why there is none. Commands that were written when a link
was lost fail at once: they may have been carried out, and nothing is ever sent twice.

State (wishes, counters, what is parked) belongs to the process and survives links and homes. It
changes on the home loop only; verbs called elsewhere are carried there by `call` and `call_sync`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from . import envelope, exceptions, loops
from .backoff import delays
from .frames import Activated, Interrupted, Refused, Subscribe, Subscriber
from .link import RedisDialer
from .liveness import Liveness, Verdict
from .loops import Home, Residence
from .memory import MemoryDialer, broker
from .names import Kind, Namespace, Topic, new_process_name
from .options import Options
from .router import IllegalTransition, Router
from .scripts import Script
from .statistics import Counters, HubStatistics
from .wire import Argument, Command, Dialer, Link, Pending

__all__ = ["Hub"]

logger = logging.getLogger("channels_mpx.multiplexer")

T = TypeVar("T")

#: Seconds that a closing hub waits for replies that are under way.
DRAIN = 1.0

#: Seconds before a subscription that was active once and is refused now is asked for again.
REFUSED_PAUSE = 5.0

#: Seconds that a link must live before the next loss starts with short delays again.
STEADY = 1.0


class Hub:
    """One connection to Redis for a whole process.

    Nothing is connected, and no event loop is needed, before the first verb.

    Args:
        options: The settings.
        project: Part of the client name in Redis.

    Raises:
        ConfigurationError: The server's arguments make no sense.
    """

    def __init__(self, options: Options, project: str = "python") -> None:
        self.options = options
        self.names = Namespace(options.prefix)
        self._project = project
        #: Called in a child made by fork, after the hub itself has begun anew.
        self.after_fork: Callable[[], None] = lambda: None
        #: Called when a home has ended; returns whether somebody elsewhere still wants messages.
        self.vacated: Callable[[asyncio.AbstractEventLoop], bool] = lambda loop: False
        #: Called when the link is lost, with the reason.
        self.gap_opened: Callable[[str], None] = lambda reason: None
        #: Called when everything wanted is active again, with the seconds that it was not.
        self.gap_closed: Callable[[float], None] = lambda seconds: None
        #: Called at home again and again, every ``tick_interval`` seconds.
        self.tick: Callable[[], None] = lambda: None
        self.tick_interval = 60.0
        self._begin()
        _hubs.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._dialer.address} {self.state} {self.router!r}>"

    def _begin(self) -> None:
        """Set the state of a process that has not connected yet."""
        options = self.options
        self.process = new_process_name()
        self.inbox = Topic(Kind.CHANNEL, self.names.inbox(self.process))
        self.router = Router()
        self.residence = Residence(
            self._move_in, self._leave, self._forsake, f"channels_mpx[{self.process}]"
        )
        self._dialer = self._make_dialer()
        self._home: Home | None = None
        self._link: Link | None = None
        self._parked: deque[tuple[float, Command, asyncio.Future[Any]]] = deque()
        self._waiters: dict[Topic, list[asyncio.Future[None]]] = {}
        self._counters = Counters()
        self._liveness = Liveness(
            options.ping_interval, options.ping_timeout, options.probe_interval
        )
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._is_pumping = False
        self._is_leaving = False
        self._gap_began: float | None = None
        self._rejoining = 0

    def _make_dialer(self) -> Dialer:
        host = self.options.hosts
        if host.memory is not None:
            return MemoryDialer(broker(host.memory), f"memory://{host.memory}")
        client_name = self.options.client_name or f"channels_mpx:{self._project}:{os.getpid()}"
        return RedisDialer(host, client_name, self.options.timeout)

    # For callers on any loop and in any thread

    @property
    def state(self) -> str:
        """``idle``, ``connecting`` or ``connected``."""
        if self._link is not None:
            return "connected"
        return "connecting" if self.residence.current is not None else "idle"

    @property
    def has_been_linked(self) -> bool:
        """Whether this process ever had a link."""
        return self._counters.epoch > 0

    @property
    def address(self) -> str:
        """Where the server is; never a password."""
        link = self._link
        return link.address if link is not None else self._dialer.address

    async def call(
        self, verb: Callable[..., Awaitable[T]], *args: Any, receiving: bool = False
    ) -> T:
        """Call a verb on the home loop and return what it returns.

        Args:
            verb: Takes ``args`` and returns an awaitable.
            args: For the verb.
            receiving: Whether this loop is going to wait for messages.

        Raises:
            LinkLost: The home loop ended while the verb was under way.
        """
        while True:
            home = self.residence.home(receiving)
            if home.loop is asyncio.get_running_loop():
                return await verb(*args)
            try:
                return await home.call(verb, *args)
            except loops.LoopIsGone:
                continue
            except loops.JobAbandoned as error:
                raise self._lost_error("its event loop ended") from error

    def call_sync(self, verb: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call a verb on the home loop from a thread without a loop, and block until it ends.

        Raises:
            LinkLost: The home loop ended, or was blocked, while the verb was under way.
        """
        while True:
            home = self.residence.home(False)
            try:
                # The verb has deadlines of its own; this one is for a loop that is blocked.
                return home.call_sync(self.options.timeout * 2, verb, *args)
            except loops.LoopIsGone:
                continue
            except (loops.JobAbandoned, TimeoutError) as error:
                if isinstance(error, exceptions.MPXError):
                    raise
                raise self._lost_error("its event loop is blocked or has ended") from error

    @property
    def is_here(self) -> bool:
        """Whether the running loop is home, so that the verbs below may be called directly."""
        home = self._home
        return home is not None and home.loop is asyncio._get_running_loop()

    def statistics(self) -> HubStatistics:
        """Return what the hub is doing; cheap enough for once a second."""
        counters, link = self._counters, self._link
        return HubStatistics(
            process=self.process,
            address=self.address,
            state=self.state,
            since=counters.since,
            epoch=counters.epoch,
            last_error=counters.last_error,
            reconnections=dict(counters.reconnections),
            wanted=self.router.wanted,
            active=self.router.active,
            patterns=self.router.patterns,
            commands=counters.commands,
            received=counters.received,
            undelivered=counters.undelivered,
            bytes_read=counters.bytes_read + (link.bytes_read if link else 0),
            bytes_written=counters.bytes_written + (link.bytes_written if link else 0),
            in_flight=link.in_flight if link else 0,
            parked=len(self._parked),
            ping_rtt=counters.ping_rtt,
            probe_rtt=counters.probe_rtt,
        )

    async def aclose(self) -> None:
        """Close the connection and end everything that runs for it. The hub stays usable.

        Commands under way get a second for their replies. Idempotent; callable from any loop.
        """
        await self.residence.empty()

    def close(self) -> None:
        """Do what `aclose` does, from a thread without an event loop; blocks until it is done."""
        self.residence.empty_sync()

    # Verbs, on the home loop only

    def command(self, *command: Argument) -> asyncio.Future[Any]:
        """Send a command, now or when there is a link; the future gets its reply.

        Raises (the future):
            CommandRefused: Redis's own error.
            LinkLost: The link was lost after the command had been written.
            LinkUnavailable: There was no link until the deadline; nothing was sent.
        """
        home = self._home
        assert home is not None
        future: asyncio.Future[Any] = home.loop.create_future()
        self._counters.commands += 1
        if self._link is not None:
            self._link.send(command, future)
        else:
            self._park(command, future)
        return future

    def publish(self, channel: bytes, payload: bytes) -> asyncio.Future[int]:
        """Publish; the future gets how many subscriptions received it. See `command`."""
        return self.command(b"PUBLISH", channel, payload)

    async def run(
        self, script: Script, keys: Sequence[bytes], args: Sequence[Argument]
    ) -> Any:
        """Run a script and return its result. Raises what `command` does."""
        while (link := self._link) is None:
            await self.command(b"PING")
        self._counters.commands += 1
        return await link.run(script, keys, args)

    async def join(self, topic: Topic, subscriber: Subscriber) -> None:
        """Subscribe, and return when Redis has confirmed it.

        The wish is noted at once. If this raises it is still there, unless Redis refused it:
        withdraw it with `leave`.

        Raises:
            CommandRefused: Redis does not allow it.
            LinkUnavailable, NotConfirmed: There was no link, or no answer, until the deadline.
        """
        if self.want(topic, subscriber):
            return
        home = self._home
        assert home is not None
        waiter: asyncio.Future[None] = home.loop.create_future()
        self._waiters.setdefault(topic, []).append(waiter)
        deadline = home.loop.call_later(self.options.timeout, self._expire, topic, waiter)
        try:
            await waiter
        finally:
            deadline.cancel()
            waiters = self._waiters.get(topic)
            if waiters and waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._waiters[topic]

    def want(self, topic: Topic, subscriber: Subscriber) -> bool:
        """Note the wish for a topic; return whether it is active already."""
        if self.router.subscribe(topic, subscriber):
            if self.router.has_events:
                self._pump()
            return True
        self.router.subscribe(self.inbox, _EAR)
        self._pump_soon()
        return False

    def leave(self, topic: Topic, subscriber: Subscriber) -> None:
        """Withdraw the wish for a topic. Nothing is delivered from now on; nothing is awaited."""
        self.router.unsubscribe(topic, subscriber)
        self._pump_soon()

    # What the link tells

    def message(self, channel: bytes, payload: bytes) -> None:
        """See `Receiver.message`."""
        self._counters.received += 1
        subscribers = self.router.route(channel)
        if not subscribers:
            self._counters.undelivered += 1
            return
        topic = Topic(Kind.CHANNEL, channel)
        for subscriber in subscribers:
            subscriber.deliver(topic, channel, payload)

    def pattern_message(self, pattern: bytes, channel: bytes, payload: bytes) -> None:
        """See `Receiver.pattern_message`."""
        self._counters.received += 1
        topic = Topic(Kind.PATTERN, pattern)
        for subscriber in self.router.route_pattern(pattern):
            subscriber.deliver(topic, channel, payload)

    def acknowledged(self, topic: Topic, subscribed: bool) -> None:
        """See `Receiver.acknowledged`."""
        try:
            self.router.acknowledged(topic, subscribed)
        except IllegalTransition as error:
            self._lose(str(error))
            return
        self._pump()
        self._rejoined()

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Receiver.refused`."""
        logger.warning("! %s", error)
        try:
            self.router.refused(topic, error)
        except IllegalTransition as illegal:
            self._lose(str(illegal))
            return
        self._schedule("retry", REFUSED_PAUSE, self._retry_refused)
        self._pump()
        self._rejoined()

    def lost(self, link: Link, reason: str, unsent: Sequence[Pending]) -> None:
        """See `Receiver.lost`."""
        if link is not self._link:
            return
        self._link = None
        counters = self._counters
        counters.bytes_read += link.bytes_read
        counters.bytes_written += link.bytes_written
        counters.last_error = reason
        counters.since = time.time()
        if not self._is_leaving:
            counters.reconnections[reason] = counters.reconnections.get(reason, 0) + 1
            logger.warning("x lost the link to %s: %s", link.address, reason)
        self.router.lost(reason)
        self._pump()
        if self._gap_began is None:
            self._gap_began = time.monotonic()
            self.gap_opened(reason)
        for command, future in unsent:
            self._park(command, future)
        self._cancel("check", "retry")
        self._changed.set()

    # The supervisor

    def _move_in(self, home: Home) -> Coroutine[Any, Any, None]:
        self._home = home
        self._is_leaving = False
        self._is_pumping = False
        self._changed = asyncio.Event()
        self._counters.since = time.time()
        self._task: asyncio.Task[None] | None = None
        return self._supervise(home)

    async def _supervise(self, home: Home) -> None:
        """Live at a home: keep a link until told to leave or cancelled."""
        self._task = asyncio.current_task()
        self._tick()
        link: Link | None = None
        try:
            waits = self._delays()
            while not self._is_leaving:
                link = await self._dial()
                if link is None:
                    await asyncio.sleep(next(waits))
                    continue
                began = home.loop.time()
                self._changed.clear()
                self._made(link)
                await self._changed.wait()
                if self._link is not link:
                    if home.loop.time() - began > STEADY:
                        waits = self._delays()
                    if not self._is_leaving:
                        await asyncio.sleep(next(waits))
            await self._drain()
        except asyncio.CancelledError:
            if not self._is_leaving:
                raise
        finally:
            if link is not None:
                link.lose("closed")
            if self._home is home:
                self._move_out(home)

    def _move_out(self, home: Home) -> None:
        self._home = None
        self._gap_began = None
        self._cancel(*self._timers)
        self._fail_waiting(self._lost_error("the connection was closed"))
        keep_alive = not self._is_leaving and self.vacated(home.loop)
        self.residence.vacate(home, keep_alive)

    async def _dial(self) -> Link | None:
        """Try once to make a link; None if there is none."""
        try:
            return await self._dialer.dial(self)
        except exceptions.LinkError as error:
            if str(error) != self._counters.last_error:
                logger.warning("x no link: %s", error)
            self._counters.last_error = str(error)
            if isinstance(error, exceptions.LinkRefused) and not self._counters.epoch:
                # Waiting would not help whoever has just configured it wrongly.
                self._fail_waiting(error)
            return None

    def _delays(self) -> Any:
        return delays(self.options.reconnect_delay, self.options.max_reconnect_delay)

    def _made(self, link: Link) -> None:
        """Begin to use a link: first what is wanted, then what has waited for it."""
        self._link = link
        counters = self._counters
        counters.epoch += 1
        counters.since = time.time()
        counters.last_error = None
        logger.info("= linked to %s, epoch %d", link.address, counters.epoch)
        self.router.made()
        self._rejoining = self.router.wanted
        self._pump()
        self._rejoined(0)
        self._cancel("deadline")
        parked, self._parked = self._parked, deque()
        for _, command, future in parked:
            if not future.done():
                link.send(command, future)
        assert self._home is not None
        self._liveness.started(self._home.loop.time())
        self._check_later()

    def _rejoined(self, topics: int = 1) -> None:
        """Count what a new link has confirmed or refused; when that is all, a gap is over."""
        self._rejoining -= topics
        if self._rejoining <= 0 and self._gap_began is not None:
            seconds = time.monotonic() - self._gap_began
            self._gap_began = None
            self.gap_closed(seconds)

    def _leave(self) -> None:
        """End the supervisor's life in an orderly way. On the home loop."""
        self._is_leaving = True
        if self._link is None and self._task is not None:
            self._task.cancel()
        self._changed.set()

    async def _drain(self) -> None:
        """Give the replies that are under way a moment."""
        assert self._home is not None
        link, until = self._link, self._home.loop.time() + DRAIN
        while link is self._link and link is not None and link.in_flight:
            last = self.command(b"PING")
            await asyncio.wait([last], timeout=max(0.0, until - self._home.loop.time()))
            if not last.done() or last.exception() is not None:
                return

    def _forsake(self) -> None:
        """The home loop has stopped under us: forget what is there."""
        link, self._home, self._link = self._link, None, None
        logger.warning("x the event loop of the connection stopped without ending its tasks")
        self._timers.clear()
        self._parked.clear()
        self._waiters.clear()
        self.router.lost("its event loop stopped")
        self.router.events()
        if link is not None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed
                link.lose("its event loop stopped")

    # Pumping, waiting, deadlines

    def _pump_soon(self) -> None:
        """Pump once for all the wishes of this turn of the loop."""
        if not self._is_pumping and self._home is not None:
            self._is_pumping = True
            self._home.loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Drain the router: tell Redis what is wanted, and subscribers what has happened."""
        self._is_pumping = False
        for command in self.router.commands():
            assert self._link is not None
            if isinstance(command, Subscribe):
                self._link.subscribe(command.kind, command.names)
            else:
                self._link.unsubscribe(command.kind, command.names)
        for event in self.router.events():
            if isinstance(event, Activated):
                for waiter in self._waiters.pop(event.topic, ()):
                    if not waiter.done():
                        waiter.set_result(None)
                for subscriber in event.subscribers:
                    subscriber.activated(event.topic)
            elif isinstance(event, Interrupted):
                for subscriber in event.subscribers:
                    subscriber.interrupted(event.reason)
            else:
                self._announce_refusal(event)

    def _announce_refusal(self, event: Refused) -> None:
        for waiter in self._waiters.pop(event.topic, ()):
            if not waiter.done():
                waiter.set_exception(event.error)
        for subscriber in event.subscribers:
            subscriber.refused(event.topic, event.error)

    def _park(self, command: Command, future: asyncio.Future[Any]) -> None:
        assert self._home is not None
        loop = self._home.loop
        self._parked.append((loop.time() + self.options.timeout, command, future))
        if "deadline" not in self._timers:
            self._schedule("deadline", self.options.timeout, self._expire_parked)

    def _expire_parked(self) -> None:
        assert self._home is not None
        now = self._home.loop.time()
        while self._parked and (self._parked[0][0] <= now or self._parked[0][2].done()):
            future = self._parked.popleft()[2]
            if not future.done():
                future.set_exception(self._unavailable_error())
        if self._parked:
            self._schedule("deadline", self._parked[0][0] - now, self._expire_parked)

    def _expire(self, topic: Topic, waiter: asyncio.Future[None]) -> None:
        if waiter.done():
            return
        if self._link is None:
            waiter.set_exception(self._unavailable_error())
        else:
            waiter.set_exception(
                exceptions.NotConfirmed(
                    address=self.address,
                    what=f"the subscription to {topic.name!r}",
                    seconds=self.options.timeout,
                )
            )

    def _fail_waiting(self, error: Exception) -> None:
        """Fail whatever waits for a link."""
        waiting = [future for _, _, future in self._parked]
        waiting += [waiter for waiters in self._waiters.values() for waiter in waiters]
        self._parked.clear()
        self._waiters.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    def _unavailable_error(self) -> exceptions.LinkUnavailable:
        return exceptions.LinkUnavailable(
            address=self.address,
            seconds=self.options.timeout,
            reason=self._counters.last_error or "still connecting",
        )

    def _lost_error(self, reason: str) -> exceptions.LinkLost:
        return exceptions.LinkLost(address=self.address, reason=reason)

    def _tick(self) -> None:
        self.tick()
        self._schedule("tick", self.tick_interval, self._tick)

    def _retry_refused(self) -> None:
        self.router.retry()
        self._pump()

    # Signs of life

    def _check_later(self) -> None:
        assert self._home is not None and self._link is not None
        pause = self._liveness.next_check(self._home.loop.time(), self._link.last_read)
        self._schedule("check", pause, self._check)

    def _check(self) -> None:
        assert self._home is not None and self._link is not None
        now, link = self._home.loop.time(), self._link
        verdict = self._liveness.judge(now, link.last_read, self._counters.received)
        if verdict is Verdict.DEAD:
            self._lose(f"no sign of life for {self.options.ping_timeout} s after a PING")
        elif verdict is Verdict.DEAF:
            self._lose("a message to ourselves did not come back")
        else:
            if verdict is Verdict.PING:
                self._ping()
            elif verdict is Verdict.PROBE and self.router.wanted:
                self._probe()
            elif verdict is Verdict.PROBE:
                self._liveness.probe_failed(now)
            self._check_later()

    def _ping(self) -> None:
        assert self._home is not None
        loop = self._home.loop
        sent = loop.time()

        def answered(reply: asyncio.Future[Any]) -> None:
            if not reply.cancelled() and reply.exception() is None:
                self._counters.ping_rtt = loop.time() - sent

        self.command(b"PING").add_done_callback(answered)

    def _probe(self) -> None:
        """Ask the server for its role, and send ourselves a message through it."""
        assert self._home is not None
        loop, link = self._home.loop, self._link
        sent = loop.time()

        def role_known(reply: asyncio.Future[Any]) -> None:
            if not reply.cancelled() and reply.exception() is None and reply.result()[0] != b"master":
                if self._link is link:
                    self._lose("the server is not a master any more")

        def published(reply: asyncio.Future[Any]) -> None:
            if not reply.cancelled() and reply.exception() is None:
                self._liveness.probe_taken(loop.time())
                self._counters.probe_rtt = loop.time() - sent
            else:
                self._liveness.probe_failed(loop.time())

        self.command(b"ROLE").add_done_callback(role_known)
        payload = envelope.wrap(envelope.Form.PROBE, b"")
        self.publish(self.inbox.name, payload).add_done_callback(published)

    def _lose(self, reason: str) -> None:
        if self._link is not None:
            self._link.lose(reason)

    def _schedule(self, name: str, seconds: float, act: Callable[[], None]) -> None:
        assert self._home is not None
        self._cancel(name)

        def due() -> None:
            self._timers.pop(name, None)
            act()

        self._timers[name] = self._home.loop.call_later(seconds, due)

    def _cancel(self, *names: str) -> None:
        for name in names:
            timer = self._timers.pop(name, None)
            if timer is not None:
                timer.cancel()

    def _forget_parent(self) -> None:
        """In a child made by fork: begin anew, and leave the parent's connection to it."""
        if self._link is not None:
            self._link.disown()
            # Its destructor would close what is the parent's.
            _inherited.append((self._link, self.residence, self._home))
        self._begin()
        self.after_fork()


class _Ear:
    """Wants the inbox so that probes come back; the count of messages is all that matters."""

    def deliver(self, topic: Topic, channel: bytes, payload: bytes) -> None:
        """Nothing to do."""

    def activated(self, topic: Topic) -> None:
        """Nothing to do."""

    def interrupted(self, reason: str) -> None:
        """Nothing to do."""

    def refused(self, topic: Topic, error: Exception) -> None:
        """Without its inbox a process hears no probe; the log has the refusal."""


_EAR = _Ear()
_hubs: weakref.WeakSet[Hub] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork() -> None:
    loops.after_fork()
    for hub in tuple(_hubs):
        hub._forget_parent()


def _at_exit() -> None:
    for hub in tuple(_hubs):
        with contextlib.suppress(Exception):  # the interpreter is going away
            hub.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
