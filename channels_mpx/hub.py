"""One connection to Redis for a whole process: the door for every loop and thread of it.

State (wishes, counters) belongs to the process and survives links and homes. It changes on the
home loop only, where a `Supervisor` keeps the link; verbs called elsewhere are carried there by
`call` and `call_sync`. A child made by fork begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import weakref
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar

from . import couriers, exceptions, forks
from .frames import Subscriber
from .gap import GapWatch, Listener, Nobody
from .home import Home, continued
from .link import RedisDialer
from .loops import NoHome, Residence
from .memory import MemoryDialer, broker
from .names import Kind, Namespace, Topic, new_process_name
from .options import Options
from .router import Router, State
from .scripts import Script
from .statistics import Counters, HubStatistics
from .supervisor import Supervisor
from .traffic import Traffic
from .wire import Argument, Dialer

__all__ = ["Hold", "Hub"]

T = TypeVar("T")


class Hold:
    """What everybody has who may still use the connection; it ends when the last of them is gone."""

    __slots__ = ("__weakref__",)


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
        #: Told about the connection; whoever uses the hub puts itself here.
        self.listener: Listener = Nobody()
        self._hold: weakref.ref[Hold] | None = None
        self._begin()
        forks.register(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} {self.state} {self._router!r}>"

    def _begin(self) -> None:
        """Set the state of a process that has not connected yet."""
        self.process = new_process_name()
        self.inbox = Topic(Kind.CHANNEL, self.names.inbox(self.process))
        name = f"channels_mpx[{self.process}]"
        self._residence = Residence(
            self._move_in, self._leave, self._is_missed, self._is_busy, self._forsake, name
        )
        self._router = Router()
        self._counters = Counters()
        self._gap = GapWatch()
        self._dialer = self._make_dialer()
        #: The supervisor at home, while there is a home.
        self.life: Supervisor | None = None

    def _make_dialer(self) -> Dialer:
        host = self.options.hosts
        if host.memory is not None:
            return MemoryDialer(broker(host.memory), f"memory://{host.memory}")
        client_name = self.options.client_name or f"channels_mpx:{self._project}:{os.getpid()}"
        return RedisDialer(host, client_name, self.options.step_timeout)

    # For callers on any loop and in any thread

    def hold(self) -> Hold:
        """Return what keeps the connection: whatever a user may use it through holds it.

        The hub itself is held by its own background thread, so it cannot tell that by itself.
        """
        hold = self._hold() if self._hold is not None else None
        if hold is None:
            hold = Hold()
            self._hold = weakref.ref(hold)
            # Not a callback of that reference: one would be called by an interpreter that ends.
            # And nothing of ours may hang on Python's list of finalizers, or it would live for ever.
            weakref.finalize(hold, _let_go, weakref.ref(self)).atexit = False
        return hold

    def let_go(self) -> None:
        """Nobody is left who could use the connection. Destructors call: no locks, no waiting."""
        home = self._residence.current
        if home is not None:
            with contextlib.suppress(couriers.LoopIsGone):
                home.courier.post(lambda: self._leave(home))

    @property
    def state(self) -> str:
        """``idle``, ``connecting`` or ``connected``."""
        life = self.life
        if life is None:
            return "idle"
        return "connecting" if life.traffic.link is None else "connected"

    @property
    def address(self) -> str:
        """Where the server is; never a password."""
        link = self.life.traffic.link if self.life is not None else None
        return self._dialer.address if link is None else link.address

    @property
    def has_been_linked(self) -> bool:
        """Whether this process ever had a link."""
        return self._counters.epoch > 0

    async def call(
        self,
        verb: Callable[..., Awaitable[T]],
        *args: Any,
        receiving: bool = False,
        undo: Callable[[T], object] | None = None,
    ) -> T:
        """Call a verb on the home loop and return what it returns.

        If the home loop ends before anything was sent, the next one does it, until the verb's own
        time limit.

        Args:
            verb: Takes ``args`` and returns an awaitable.
            args: For the verb.
            receiving: Whether this loop is going to wait for messages.
            undo: Called at home with what the verb has returned, if this call was cancelled
                meanwhile.

        Raises:
            LinkLost: The home loop ended while the verb was under way.
        """
        home, here = self._find_home(receiving), asyncio.get_running_loop()
        if home.loop is here:
            return await verb(*args)
        started, began = time.monotonic(), None
        while True:
            try:
                if home.loop is here:
                    with continued(started):
                        return await verb(*args)
                return await home.call(verb, *args, began=began, undo=undo, tell=self.tell)
            except couriers.LoopIsGone:
                began = self._go_on(started)
                home = self._find_home(receiving)
            except couriers.JobAbandoned as error:
                raise self._lost("its event loop ended") from error

    def call_sync(self, verb: Callable[..., Awaitable[T]], *args: Any, allowance: float = 0) -> T:
        """Call a verb on the home loop from a thread without a loop, and block until it ends.

        The verb has a deadline of its own, beyond ``timeout`` by ``allowance`` seconds at most. See
        `call`.

        Raises:
            LinkLost: The home loop ended, or was blocked, while the verb was under way.
        """
        patience = allowance + self.options.timeout * 2
        started, began = time.monotonic(), None
        while True:
            home = self._find_home(False)
            try:
                return home.call_sync(patience, verb, *args, began=began)
            except couriers.LoopIsGone:
                began = self._go_on(started, allowance)
            except couriers.JobAbandoned as error:
                raise self._lost("its event loop ended or is blocked") from error

    def _go_on(self, started: float, allowance: float = 0) -> float:
        """Return when a call began that is handed over; raise if its time is over."""
        seconds = self.options.timeout + allowance
        if time.monotonic() - started > seconds:
            why = "its event loop ended again and again"
            raise exceptions.LinkUnavailable(address=self.address, seconds=seconds, reason=why)
        return started

    def post(self, act: Callable[..., object], *args: Any, receiving: bool = False) -> None:
        """Have ``act`` called at home: at once from the home loop, else soon. Nothing is awaited.

        Args:
            act: What to call.
            args: For ``act``.
            receiving: Whether this loop is going to wait for messages.
        """
        while True:
            home = self._find_home(receiving)
            if home.loop is asyncio._get_running_loop():
                act(*args)
                return
            with contextlib.suppress(couriers.LoopIsGone):
                # If home ends first, it is done while home ends.
                home.courier.post(job := lambda: self.tell(act, *args), job)
                return

    def tell(self, act: Callable[..., object], *args: Any) -> None:
        """Have ``act`` called at home as `post` does, but at once, and here, if there is none."""
        while True:
            home = self._residence.current
            if home is None or home.loop is asyncio._get_running_loop():
                act(*args)
                return
            with contextlib.suppress(couriers.LoopIsGone):
                home.courier.post(job := lambda: act(*args), job)
                return
            self._residence.await_end(home)  # nothing is done elsewhere while it lives

    def keep_alive(self) -> None:
        """Connect, if need be, because somebody on this loop waits for messages."""
        self._find_home(receiving=True)

    def wake(self, act: Callable[[], None]) -> None:
        """Have ``act`` called at home soon, if there is one. Takes no lock: destructors may call."""
        life = self.life
        if life is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                life.loop.call_soon_threadsafe(act)

    def statistics(self) -> HubStatistics:
        """Return what the connection is doing; cheap enough for once a second."""
        counters, router, life = self._counters, self._router, self.life
        link = life.traffic.link if life is not None else None
        return HubStatistics(
            process=self.process,
            address=self.address,
            state=self.state,
            since=counters.since,
            epoch=counters.epoch,
            last_error=counters.last_error,
            reconnections=dict(counters.reconnections),
            refused=dict(counters.refused),
            wanted=router.wanted,
            active=router.active,
            denied=router.count(State.REFUSED),
            patterns=router.patterns,
            commands=counters.commands,
            received=counters.received,
            undelivered=counters.undelivered,
            bytes_read=counters.bytes_read + (link.bytes_read if link else 0),
            bytes_written=counters.bytes_written + (link.bytes_written if link else 0),
            in_flight=link.in_flight if link else 0,
            parked=len(life.traffic.parking) if life else 0,
            ping_rtt=counters.ping_rtt,
            probe_rtt=counters.probe_rtt,
        )

    async def aclose(self) -> None:
        """Close the connection and end everything that runs for it. The hub stays usable.

        Commands under way get a second for their replies. Idempotent; callable from any loop.
        """
        await self._residence.empty()

    def close(self) -> None:
        """Do what `aclose` does, from a thread without an event loop; blocks until it is done."""
        self._residence.empty_sync()

    # Verbs, on the home loop only

    @property
    def _here(self) -> Traffic:
        life = self.life
        if life is None or life.loop is not asyncio._get_running_loop():
            # What was begun on the last home, and has not noticed yet that it is over.
            raise self._lost("its event loop ended")
        return life.traffic

    def command(self, *command: Argument) -> asyncio.Future[Any]:
        """Send a command, now or when there is a link; the future gets its reply.

        Raises (the future):
            CommandRefused: Redis's own error; one that passes, such as ``BUSY``, at the deadline.
            LinkLost: The link was lost after the command had been written.
            LinkUnavailable: No link until the deadline, or too much waits for one; nothing was sent.
        """
        return self._here.command(*command)

    def publish(self, channel: bytes, payload: bytes) -> asyncio.Future[int]:
        """Publish; the future gets how many subscriptions received it. See `command`."""
        return self._here.publish(channel, payload)

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[Argument]) -> Any:
        """Run a script and return its result. Raises what `command` does."""
        return await self._here.run(script, keys, args)

    async def join(self, topic: Topic, subscriber: Subscriber) -> None:
        """Subscribe, and return when Redis has confirmed it.

        The wish is noted at once. If this raises it is still there, unless Redis refused it:
        withdraw it with `leave`.

        Raises:
            CommandRefused: Redis does not allow it.
            LinkUnavailable, NotConfirmed: There was no link, or no answer, until the deadline.
        """
        await self._here.join(topic, subscriber)

    def want(self, topic: Topic, subscriber: Subscriber) -> bool:
        """Note the wish for a topic; return whether it is active already."""
        if self.life is None:  # home is just ending, and the next one will join it
            return self._router.subscribe(topic, subscriber)
        return self._here.want(topic, subscriber)

    def leave(self, topic: Topic, subscriber: Subscriber) -> None:
        """Withdraw the wish for a topic. Nothing is delivered from now on; nothing is awaited."""
        self._router.unsubscribe(topic, subscriber)
        if self.life is not None:
            self.life.traffic.withdrawn(topic)

    def wishes_of(self, subscriber: Subscriber) -> Collection[Topic]:
        """Return what a subscriber wants."""
        return self._router.topics_of(subscriber)

    def leave_all(self, subscriber: Subscriber) -> None:
        """Withdraw all of a subscriber's wishes."""
        for topic in self._router.topics_of(subscriber):
            self.leave(topic, subscriber)

    # For the residence

    def _find_home(self, receiving: bool) -> Home:
        try:
            return self._residence.home(receiving)
        except NoHome as error:
            why = f"no event loop for it: {error}"
            raise exceptions.LinkUnavailable(address=self.address, seconds=0, reason=why) from error

    def _move_in(self, home: Home) -> Coroutine[Any, Any, None]:
        if not self.listener.home_begins():
            self._gap.forget()
        life = self.life = Supervisor(
            home,
            self.options,
            self._dialer,
            self._router,
            self._counters,
            self.inbox,
            self._gap,
            self.listener,
        )
        return self._live(home, life)

    async def _live(self, home: Home, life: Supervisor) -> None:
        try:
            await life.live()
        finally:
            if self.life is life:
                self.life = None
            home.refuse()
            is_missed = not life.is_leaving and self.listener.loop_ended(home.loop)
            self._residence.vacate(home, is_missed)
            if life.is_leaving and home.thread is None:
                self._come_again(home)

    def _come_again(self, home: Home) -> None:
        """If somebody on this loop came while the connection was being closed: connect again."""
        is_held = self._hold is None or self._hold() is not None
        if is_held and self.listener.is_awaited():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                home.loop.call_soon(self.keep_alive)

    def _leave(self, home: Home) -> None:
        life = self.life
        if life is not None and life.home is home:
            life.leave()

    def _is_missed(self) -> bool:
        return self.life is not None and self.life.is_listening

    def _is_busy(self) -> bool:
        return self.life is not None and self.life.is_busy

    def _forsake(self) -> None:
        life, self.life = self.life, None
        if life is not None:
            self.listener.loop_ended(life.loop)
            life.forsake(self.listener.is_awaited())

    def _lost(self, reason: str) -> exceptions.LinkLost:
        return exceptions.LinkLost(address=self.address, reason=reason)

    def forget_parent(self) -> None:
        """In a child made by fork: begin anew, and leave the parent's connection to it."""
        life = self.life
        if life is not None:
            # Their destructors would close what is the parent's.
            forks.keep((life, self._residence))
        self._begin()
        self.after_fork()
        if life is not None and life.traffic.link is not None:
            life.traffic.link.disown()


def _let_go(found: weakref.ref[Hub]) -> None:
    """See `Hub.let_go`."""
    hub = found()
    if hub is not None:
        hub.let_go()
