"""The life of the connection on one home: connects, reconnects, notices death, ends.

Theory of operation
===================

One task, the supervisor, lives on the home loop (see `loops`) and is the only one that makes
links. Its life is the connection's life: however it ends, its ``finally`` closes the link. If it is
cancelled, because its loop ends, it hands over: what waits for a link goes to the next home, and
the replies that are under way get a moment.

    dial ──▶ link ──▶ traffic flows ──▶ lost ──▶ wait a little ──▶ dial …

A link is never repaired. Whatever goes wrong with it, it is lost, with a reason and a counter, and
the next one takes over: `Traffic` says again what is wanted, because it is wanted.

What outlives a home, wishes and counters, is in the router and the counters, which the supervisor
is given; what does not is in the supervisor and its traffic, and goes with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

from . import exceptions
from .backoff import delays
from .escaping import escape
from .gap import Gap, GapWatch, Listener
from .home import HandedOver, Home
from .liveness import Liveness
from .names import Topic
from .options import Options
from .pulse import Pulse
from .router import Router
from .statistics import Counters
from .traffic import Traffic
from .wire import Dialer, Link, Loss

__all__ = ["Supervisor"]

logger = logging.getLogger("channels_mpx.multiplexer")

#: Why a link ends that nobody lost.
CLOSED = "closed"

#: Seconds that a closing supervisor waits for replies that are under way.
DRAIN = 1.0

#: Seconds that a supervisor whose loop ends waits for them: callers in other threads wait for it.
HANDOVER = 0.2

#: Turns of the loop for whoever has got a reply, to end or to give back what it was sent in vain.
TURNS = 3

#: Seconds between two attempts to cancel a dialler: before Python 3.12 `asyncio.wait_for`, which
#: redis-py uses, may swallow one.
INSIST = 0.05

#: The most seconds between attempts while the server refuses us: that takes a person to change.
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
        gap: The time between two links.
        listener: Told about gaps and time, asked who waits.
    """

    def __init__(
        self,
        home: Home,
        options: Options,
        dialer: Dialer,
        router: Router,
        counters: Counters,
        inbox: Topic,
        gap: GapWatch,
        listener: Listener,
    ) -> None:
        self.loop = home.loop
        self.is_leaving = False
        self.home = home
        self._options = options
        self._dialer = dialer
        self._router = router
        self._inbox = inbox
        self._counters = counters
        self._listener = listener
        self._gap = gap
        #: Everything said and heard on this home.
        self.traffic = Traffic(
            home.loop, router, counters, dialer.address, options.timeout, watcher=self
        )
        liveness = Liveness(options.ping_interval, options.ping_timeout, options.probe_interval)
        self._pulse = Pulse(
            home.loop,
            liveness,
            counters,
            self.traffic,
            inbox,
            options.ping_timeout,
            role_interval=options.probe_interval,
        )
        #: Whether the last attempt was refused, to a process that had been connected before.
        self._is_refused = False
        #: Whether the loop was found stopped, and the next home has begun.
        self._is_forsaken = False
        #: Whether it was cancelled, so that a link that is dialled all the same has no use.
        self._has_given_up = False
        #: Whether the last attempt failed, which was logged.
        self._has_failed = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Supervisor {self.traffic!r}>"

    @property
    def is_ending(self) -> bool:
        """Whether this home is about to end: what takes more than one command is for the next one."""
        return self.is_leaving or self.home.is_ending

    @property
    def is_needed(self) -> bool:
        """Whether anything is under way, or waits for a link or a confirmation."""
        return self.home.is_busy or self.traffic.is_awaited

    @property
    def is_busy(self) -> bool:
        """Whether that is so, or replies are awaited."""
        link = self.traffic.link
        return self.is_needed or (link is not None and link.in_flight > 0)

    @property
    def is_listening(self) -> bool:
        """Whether there is a link on which anything may come that somebody would miss."""
        if self.traffic.link is None:
            return False
        harmless = self._router.is_wanted(self._inbox) + self._listener.lasting()
        return self._router.known > harmless or self._listener.expects()

    def link_lost(self, link: Link, reason: str) -> None:
        """See `LinkWatcher.link_lost`."""
        self._pulse.stop()
        self._counters.unlinked(link.bytes_read, link.bytes_written)
        if reason is CLOSED:
            logger.info("channels_mpx: closed the Redis connection to %s", link.address)
        else:
            logger.warning(
                "channels_mpx: Redis connection to %s lost (%s); reconnecting",
                link.address,
                escape(reason),
            )
            self._counters.lost(reason, link.loss.value)
        self._listener.unlinked(reason)
        if reason is not CLOSED or self._listener.is_awaited():
            self._open_gap(reason, self._pulse.proven_since(link.loss))
        self._changed.set()

    def topic_settled(self, topic: Topic) -> None:
        """See `LinkWatcher.topic_settled`."""
        self._close_gap(self._gap.settled(topic))

    def topic_restored(self, reason: str, since: float) -> None:
        """See `LinkWatcher.topic_restored`: what was published meanwhile is missing."""
        if self._gap.open_for_topic(reason, since):
            self._listener.gap_opened(reason)

    def _open_gap(self, reason: str, since: float) -> None:
        if self._gap.open(reason, since):
            self._listener.gap_opened(reason)
        else:
            self._listener.gap_went_on(reason)

    def _close_gap(self, gap: Gap | None) -> None:
        if gap is not None:
            link = self.traffic.link
            logger.log(
                logging.INFO if gap.reason == CLOSED else logging.WARNING,
                "channels_mpx: Redis connection to %s is complete again after %.1f s; "
                "%d subscriptions are active",
                self._dialer.address if link is None else link.address,
                gap.seconds,
                self._router.active,
            )
            self._listener.gap_closed(gap)

    async def live(self) -> None:
        """Keep a link until told to leave or cancelled."""
        self._task = asyncio.current_task()
        self._counters.moved()
        self._tick()
        waits, patient_waits = self._delays(), self._delays(REFUSED_PAUSE)
        try:
            while not self.is_leaving or self.is_needed:
                began = self.loop.time()
                try:
                    if await self._dial() and not self.is_leaving:
                        await self._changed.wait()
                except Exception:  # whatever it is, the process must not stay without a link
                    logger.exception(
                        "channels_mpx: internal error of the Redis connection; reconnecting"
                    )
                    self.traffic.lose("an error of our own", Loss.INTERNAL)
                if self.traffic.link is not None:
                    break  # told to leave, with a link on which what is under way can end
                if self.loop.time() - began > STEADY:
                    waits, patient_waits = self._delays(), self._delays(REFUSED_PAUSE)
                await asyncio.sleep(next(patient_waits if self._is_refused else waits))
            await self.home.finish()
            await self._drain(DRAIN)
        except asyncio.CancelledError:
            if not self.is_leaving:
                await self._hand_over()
                raise
        finally:
            self.end()

    def leave(self) -> None:
        """End in an orderly way: what is under way or waits for a link gets a moment."""
        self.is_leaving = True
        if self.traffic.link is None and self._task is not None:
            self.loop.call_later(DRAIN if self.is_needed else 0, self._task.cancel)
        self._changed.set()

    async def _hand_over(self) -> None:
        """The loop ends: leave to the next home what was not sent, and end what was."""
        self.home.refuse()
        self.traffic.close(
            HandedOver(address=self._dialer.address, seconds=0, reason="its event loop ended")
        )
        await self._drain(HANDOVER)
        await asyncio.sleep(0)  # whoever has got a reply has a turn to end
        await self.home.cancel()

    def end(self) -> None:
        """Close the link and fail whatever waits for one."""
        if self._is_forsaken:
            return
        if self.loop.is_closed():  # without ending its tasks, of which this one is now collected
            self._retire("its event loop was closed")
            self.home.abandon()
        else:
            self.traffic.lose(CLOSED)
            reason = "the connection was closed"
            address = self._dialer.address
            self.traffic.close(
                exceptions.LinkUnavailable(address=address, seconds=0, reason=reason)
            )
        self._let_go()

    def _let_go(self) -> None:
        """Want nothing and do nothing any more."""
        self._pulse.stop()
        self.traffic.end()
        self._counters.moved()
        self._router.unsubscribe(self._inbox, self._pulse)
        if self._ticker is not None:
            self._ticker.cancel()

    def forsake(self, is_missed: bool) -> None:
        """The loop has stopped or does not answer: forget what is there. From another thread.

        Args:
            is_missed: Whether anybody is left who would miss the connection.
        """
        if is_missed:
            logger.warning(
                "channels_mpx: the event loop of the Redis connection stopped without ending its tasks; reconnecting on another"
            )
        else:
            logger.info(
                "channels_mpx: the event loop of the Redis connection stopped; nobody used it any more"
            )
        self.is_leaving = self._is_forsaken = True
        link = self._retire("its event loop stopped")
        self._let_go()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._changed.set)
            if link is not None:
                self.loop.call_soon_threadsafe(link.lose, CLOSED)

    def _retire(self, reason: str) -> Link | None:
        """Let go of the link without its loop, and return it."""
        link = self.traffic.retire(reason)
        if link is not None:
            self._counters.unlinked(link.bytes_read, link.bytes_written)
            self._listener.unlinked(reason)
            self._open_gap(reason, self._pulse.proven_since(link.loss))
            link.discard()
        return link

    async def _connect(self) -> None:
        """Dial in a task of its own, which is cancelled until it has ended."""
        dialling = self.loop.create_task(self._dial_and_begin())
        dialling._log_destroy_pending = False  # type: ignore[attr-defined]
        try:
            await asyncio.wait([dialling])
        except asyncio.CancelledError:
            self._has_given_up = True
            while not dialling.done():
                dialling.cancel()
                await asyncio.wait([dialling], timeout=INSIST)
            raise
        dialling.result()

    async def _dial_and_begin(self) -> None:
        """Make a link and use it, in the very turn in which it begins to tell what it reads."""
        began = time.monotonic()
        link = await self._dialer.dial(self.traffic)
        if self._has_given_up:  # a cancellation was swallowed on the way
            link.lose(CLOSED)
        else:
            self._begin(link, began)

    async def _dial(self) -> bool:
        """Try once to make a link; return whether there is one."""
        self._changed.clear()
        try:
            await self._connect()
        except (exceptions.LinkUnavailable, exceptions.LinkRefused) as error:
            if error.reason != self._counters.last_error:
                logger.warning(
                    "channels_mpx: no Redis connection to %s (%s); trying again",
                    error.address,
                    escape(error.reason),
                )
            self._counters.last_error = error.reason
            self._has_failed = True
            if error.code is not None:
                self._counters.refusal(error.code)
            is_refusal = isinstance(error, exceptions.LinkRefused)
            self._is_refused = is_refusal and self._counters.epoch > 0
            if is_refusal and not self._is_refused:
                # Waiting would not help whoever has just configured it wrongly.
                self.traffic.fail(error)
            return False
        return True

    def _begin(self, link: Link, began: float) -> None:
        """Use a new link.

        Args:
            link: The link.
            began: When dialling began, in seconds of `time.monotonic`.
        """
        is_warned, self._is_refused = self._has_failed and not self._gap.is_open, False
        self._has_failed = False
        self._counters.linked()
        logger.log(
            logging.WARNING if is_warned else logging.INFO,
            "channels_mpx: connected to Redis at %s, connection %d of this process",
            link.address,
            self._counters.epoch,
        )
        self._listener.linked(self._counters.epoch)
        wanted = self.traffic.begin(link)
        self._pulse.start(link, began)
        self._close_gap(self._gap.linked(self._counters.epoch, wanted))

    async def _drain(self, seconds: float) -> None:
        """Give the replies that are under way a moment."""
        traffic, until = self.traffic, self.loop.time() + seconds
        while traffic.link is not None and traffic.link.in_flight:
            last = traffic.command(b"PING")
            await asyncio.wait([last], timeout=max(0.0, until - self.loop.time()))
            if not last.done() or last.exception() is not None:
                last.cancel()
                return
            for _ in range(TURNS):
                await asyncio.sleep(0)

    def _delays(self, least: float = 0.0) -> Iterator[float]:
        """Return pauses between attempts, which grow to the option, and to ``least`` at least."""
        most = max(self._options.max_reconnect_delay, least)
        return delays(self._options.reconnect_delay, most)

    def _tick(self) -> None:
        self._listener.tick()
        self._ticker = self.loop.call_later(self._options.expiry / 4, self._tick)
