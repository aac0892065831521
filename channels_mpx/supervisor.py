"""The owner of link and router on one home: connects, reconnects, delivers.

Theory of operation
===================

One task, the supervisor, lives on the home loop (see `loops`) and is the only one that makes
links. Its life is the connection's life: however it ends, its ``finally`` closes the link.

    dial ──▶ link ──▶ tell Redis what is wanted, then send what has waited ──▶ lost ──▶ dial …

The link tells it what it reads by plain calls on the home loop. `message` looks the receivers up
and hands the bytes over; nothing on that way waits, and nothing on it runs a user's code.

Commands that find no link are *parked*. They go out on the next one, after its SUBSCRIBEs, or
fail at their deadline with the reason why there is none. Commands that were written when a link
was lost fail at once: they may have been carried out, and nothing is ever sent twice.

What outlives a home, wishes and counters, is in the router and the counters, which the supervisor
is given; what does not is in the supervisor itself and goes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from . import exceptions
from .backoff import delays
from .frames import Subscribe, Subscriber
from .gap import Gap, Listener
from .liveness import Liveness
from .loops import Home
from .names import Topic
from .options import Options
from .parking import Confirmations, Parking
from .pulse import Pulse
from .router import IllegalTransition, Router
from .statistics import Counters
from .wire import Argument, Dialer, Link, Pending

__all__ = ["Supervisor"]

logger = logging.getLogger("channels_mpx.multiplexer")

#: Why a link ends that nobody lost.
CLOSED = "closed"

#: Seconds that a closing supervisor waits for replies that are under way.
DRAIN = 1.0

#: Seconds before a subscription that was active once and is refused now is asked for again.
REFUSED_PAUSE = 5.0

#: Seconds that a link must live before the next loss starts with short delays again.
STEADY = 1.0


class Supervisor:
    """Keeps a link on one home loop for as long as that home lasts.

    Args:
        home: Where it lives. All methods are for that loop.
        options: Times and limits.
        dialer: Makes links.
        router: What is wanted.
        counters: What has happened.
        inbox: The process's own channel, for probes.
        listener: Told about gaps and time.
    """

    def __init__(
        self,
        home: Home,
        options: Options,
        dialer: Dialer,
        router: Router,
        counters: Counters,
        inbox: Topic,
        listener: Listener,
    ) -> None:
        self.loop = home.loop
        self._home = home
        self.link: Link | None = None
        self.is_leaving = False
        self._options = options
        self._dialer = dialer
        self._router = router
        self._counters = counters
        self._inbox = inbox
        self._tell_tick = listener.tick
        self._gap = Gap(listener)
        self.parking = Parking(home.loop, options.timeout, self._unavailable)
        self._confirmations = Confirmations(home.loop, options.timeout, self._not_confirmed)
        liveness = Liveness(options.ping_interval, options.ping_timeout, options.probe_interval)
        self._pulse = Pulse(home.loop, liveness, counters, inbox.name, options.ping_timeout)
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pump_handle: asyncio.Handle | None = None
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    def __repr__(self) -> str:
        return f"<Supervisor {self.link!r} {self._router!r} parked={len(self.parking)}>"

    @property
    def is_awaited(self) -> bool:
        """Whether anything is under way, or waits for a link or a confirmation."""
        return self._home.is_busy or len(self.parking) > 0 or len(self._confirmations) > 0

    # Verbs

    def command(self, *command: Argument) -> asyncio.Future[Any]:
        """Send a command, now or when there is a link; the future gets its reply.

        Raises (the future):
            CommandRefused: Redis's own error.
            LinkLost: The link was lost after the command had been written.
            LinkUnavailable: There was no link until the deadline; nothing was sent.
        """
        future: asyncio.Future[Any] = self.loop.create_future()
        self._counters.commands += 1
        if self.link is not None:
            self.link.send(command, future)
        else:
            self.parking.park(command, future)
        return future

    def publish(self, channel: bytes, payload: bytes) -> asyncio.Future[int]:
        """Publish; the future gets how many subscriptions received it. See `command`."""
        return self.command(b"PUBLISH", channel, payload)

    async def linked(self) -> Link:
        """Return the link, waiting for one if there is none. Raises what `command` does."""
        while self.link is None:
            await self.command(b"PING")
        return self.link

    def want(self, topic: Topic, subscriber: Subscriber) -> bool:
        """Note the wish for a topic; return whether it is active already."""
        if self._router.subscribe(topic, subscriber):
            if self._router.has_events:
                self._pump()
            return True
        if not self._pulse.is_listening:
            self._pulse.is_listening = True
            self._router.subscribe(self._inbox, self._pulse)
        self.pump_soon()
        return False

    async def join(self, topic: Topic, subscriber: Subscriber) -> None:
        """Subscribe, and return when Redis has confirmed it. See `Hub.join`."""
        if not self.want(topic, subscriber):
            await self._confirmations.wait(topic)

    def pump_soon(self) -> None:
        """Tell Redis about all the wishes of this turn of the loop, once."""
        if self._pump_handle is None:
            self._pump_handle = self.loop.call_soon(self._pump)

    # What the link tells

    def message(self, channel: bytes, payload: bytes) -> None:
        """See `Receiver.message`."""
        self._counters.received += 1
        entry = self._router.route(channel)
        if entry is None or not entry.members:
            self._counters.undelivered += 1
            return
        for subscriber in entry.members:
            subscriber.deliver(entry.topic, channel, payload)

    def pattern_message(self, pattern: bytes, channel: bytes, payload: bytes) -> None:
        """See `Receiver.pattern_message`."""
        self._counters.received += 1
        entry = self._router.route_pattern(pattern)
        if entry is None or not entry.members:
            self._counters.undelivered += 1
            return
        for subscriber in entry.members:
            subscriber.deliver(entry.topic, channel, payload)

    def acknowledged(self, topic: Topic, subscribed: bool) -> None:
        """See `Receiver.acknowledged`."""
        try:
            self._router.acknowledged(topic, subscribed)
        except IllegalTransition as error:
            self._lose(str(error))
            return
        self._pump()
        self._gap.joined()

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Receiver.refused`."""
        logger.warning("! %s", error)
        try:
            self._router.refused(topic, error)
        except IllegalTransition as illegal:
            self._lose(str(illegal))
            return
        self._schedule(REFUSED_PAUSE, self._retry_refused)
        self._pump()
        self._gap.joined()

    def lost(self, link: Link, reason: str, unsent: Sequence[Pending]) -> None:
        """See `Receiver.lost`."""
        if link is not self.link:
            return
        self.link = None
        self._pulse.stop()
        self._note_loss(link, reason)
        self._router.lost(reason)
        self._pump()
        if reason is not CLOSED:
            self._gap.open(reason)
        for command, future in unsent:
            self.parking.park(command, future)
        self._changed.set()

    def _note_loss(self, link: Link, reason: str) -> None:
        self._counters.unlinked(link.bytes_read, link.bytes_written)
        if reason is CLOSED:
            logger.info("x closed the link to %s", link.address)
        else:
            logger.warning("x lost the link to %s: %s", link.address, reason)
            self._counters.lost(reason)

    # Life

    async def live(self) -> None:
        """Keep a link until told to leave or cancelled."""
        self._task = asyncio.current_task()
        self._tick()
        try:
            waits = self._delays()
            while not self.is_leaving or self.is_awaited:
                began = self.loop.time()
                if await self._dial():
                    if self.is_leaving:
                        break
                    await self._changed.wait()
                    if self.loop.time() - began > STEADY:
                        waits = self._delays()
                if not self.is_leaving or self.link is None:
                    await asyncio.sleep(next(waits))
            await self._drain()
        except asyncio.CancelledError:
            if not self.is_leaving:
                raise
        finally:
            self.end()

    def leave(self) -> None:
        """End in an orderly way: what is under way or waits for a link gets a moment."""
        self.is_leaving = True
        if self.link is None and self._task is not None:
            self.loop.call_later(DRAIN if self.is_awaited else 0, self._task.cancel)
        self._changed.set()

    def end(self) -> None:
        """Close the link and fail whatever waits for one."""
        self._lose(CLOSED)
        for timer in self._timers.values():
            timer.cancel()
        error = exceptions.LinkLost(address=self._dialer.address, reason="it was closed")
        self.parking.fail(error)
        self._confirmations.fail(error)

    def forsake(self) -> None:
        """The loop has stopped: forget what is there. Called from another thread."""
        logger.warning("x the event loop of the connection stopped without ending its tasks")
        link, self.link = self.link, None
        self.is_leaving = True
        self._router.lost("its event loop stopped")
        self._router.events()
        if link is not None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed
                link.lose(CLOSED)

    async def _dial(self) -> bool:
        """Try once to make a link; return whether there is one."""
        self._changed.clear()
        try:
            link = await self._dialer.dial(self)
        except (exceptions.LinkUnavailable, exceptions.LinkRefused) as error:
            if error.reason != self._counters.last_error:
                logger.warning("x no link to %s: %s", error.address, error.reason)
            self._counters.last_error = error.reason
            if isinstance(error, exceptions.LinkRefused) and not self._counters.epoch:
                # Waiting would not help whoever has just configured it wrongly.
                self.parking.fail(error)
                self._confirmations.fail(error)
            return False
        self._made(link)
        return True

    def _made(self, link: Link) -> None:
        """Begin to use a link: first what is wanted, then what has waited for it."""
        self.link = link
        self._counters.linked()
        logger.info("= linked to %s, epoch %d", link.address, self._counters.epoch)
        self._router.made()
        wanted = self._router.wanted
        self._pulse.is_listening = wanted > 0
        self._pump()
        for command, future in self.parking.release():
            link.send(command, future)
        self._pulse.start(link)
        self._gap.linked(wanted)

    async def _drain(self) -> None:
        """Give what is under way a moment."""
        await self._home.finish()
        link, until = self.link, self.loop.time() + DRAIN
        while link is not None and link is self.link and link.in_flight:
            last = self.command(b"PING")
            await asyncio.wait([last], timeout=max(0.0, until - self.loop.time()))
            if not last.done() or last.exception() is not None:
                return

    def _delays(self) -> Any:
        return delays(self._options.reconnect_delay, self._options.max_reconnect_delay)

    # Pumping and time

    def _pump(self) -> None:
        """Drain the router: tell Redis what is wanted, and subscribers what has happened."""
        if self._pump_handle is not None:
            self._pump_handle.cancel()
            self._pump_handle = None
        for command in self._router.commands():
            assert self.link is not None
            if isinstance(command, Subscribe):
                self.link.subscribe(command.kind, command.names)
            else:
                self.link.unsubscribe(command.kind, command.names)
        self._confirmations.announce(self._router.events())

    def _lose(self, reason: str) -> None:
        if self.link is not None:
            self.link.lose(reason)

    def _retry_refused(self) -> None:
        self._router.retry()
        self._pump()

    def _tick(self) -> None:
        self._tell_tick()
        self._schedule(self._options.expiry / 4, self._tick)

    def _schedule(self, seconds: float, act: Callable[[], None]) -> None:
        """Call ``act`` later, once, however often it is scheduled."""
        timer = self._timers.get(act)
        if timer is not None:
            timer.cancel()
        self._timers[act] = self.loop.call_later(seconds, act)

    def _unavailable(self) -> Exception:
        return exceptions.LinkUnavailable(
            address=self._dialer.address,
            seconds=self._options.timeout,
            reason=self._counters.last_error or "still connecting",
        )

    def _not_confirmed(self, topic: Topic) -> Exception:
        if self.link is None:
            return self._unavailable()
        return exceptions.NotConfirmed(
            address=self.link.address,
            what=f"the subscription to {topic.name!r}",
            seconds=self._options.timeout,
        )
