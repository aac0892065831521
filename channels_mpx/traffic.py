"""All that is said to Redis, and heard from it, on one home loop: link × router.

Commands go out on the link. Those that find none are *parked*: they go out on the next one, after
its SUBSCRIBEs, or fail at their deadline with the reason why there is none. Commands that were
written when a link was lost fail at once: they may have been carried out, and nothing is ever sent
twice.

The link tells us what it reads by plain calls. `message` looks the receivers up and hands the bytes
over; nothing on that way waits, and nothing on it runs a user's code.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from typing import Any

from . import exceptions
from .backoff import delays
from .frames import Subscribe, Subscriber
from .home import left_of
from .names import Topic
from .parking import PAUSES, Confirmations, Parking, Retries
from .refusals import Refusals
from .router import IllegalTransition, Router, State
from .scripts import Script
from .statistics import Counters
from .wire import NOT_MASTER, PASSING, Argument, Command, Link, LinkWatcher, Loss, Pending

__all__ = ["Traffic"]

#: Seconds before a subscription that was active once and is refused now is asked for again.
REFUSED_PAUSE = 5.0

#: `Traffic.run` sends these again itself: the next link may not know a script's digest.
_SCRIPTS = frozenset({b"EVAL", b"EVALSHA"})


class Traffic:
    """Sends commands and wishes, and hands out what comes.

    Args:
        loop: The home loop; everything here is for it.
        router: What is wanted.
        counters: What has happened.
        address: Where the server is, for errors when there is no link.
        timeout: Seconds that a command waits for a link, and a caller for a confirmation.
        watcher: Told about the link.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        router: Router,
        counters: Counters,
        address: str,
        timeout: float,
        watcher: LinkWatcher,
    ) -> None:
        self.loop = loop
        self.link: Link | None = None
        self._router = router
        self._counters = counters
        self._address = address
        self._timeout = timeout
        self._watcher = watcher
        self.parking = Parking(loop, timeout, self._unavailable)
        self._confirmations = Confirmations(loop, timeout, self._not_confirmed)
        self._is_retired = False
        self._refusals = Refusals(counters)
        self._pump_handle: asyncio.Handle | None = None
        self._retry_handle: asyncio.TimerHandle | None = None
        self._retries = Retries(loop, self._try_again)

    def __repr__(self) -> str:
        return f"<Traffic {self.link!r} {self._router!r} parked={len(self.parking)}>"

    @property
    def is_awaited(self) -> bool:
        """Whether anything waits for a link or a confirmation."""
        return len(self.parking) > 0 or len(self._confirmations) > 0

    # Verbs

    def command(self, *command: Argument) -> asyncio.Future[Any]:
        """Send a command, now or when there is a link; see `Hub.command`."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self._counters.commands += 1
        if self.link is not None:
            self.link.send(command, future)
        else:
            self.parking.park(command, future)
        return future

    def publish(self, channel: bytes, payload: bytes) -> asyncio.Future[int]:
        """Publish; the future gets how many subscriptions received it. See `command`."""
        link = self.link
        if link is None:
            return self.command(b"PUBLISH", channel, payload)
        self._counters.commands += 1
        future: asyncio.Future[int] = asyncio.Future()
        link.send((b"PUBLISH", channel, payload), future)
        return future

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[Argument]) -> Any:
        """Run a script and return its result. Raises what `command` does."""
        self._counters.commands += 1
        deadline, pauses = self.loop.time() + left_of(self._timeout), delays(*PAUSES)
        while True:
            link = await self.linked()
            try:
                return await link.run(script, keys, args)
            except exceptions.CommandRefused as error:
                pause = next(pauses)
                if error.code not in PASSING or self.loop.time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)

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
        self.pump_soon()
        return False

    async def join(self, topic: Topic, subscriber: Subscriber) -> None:
        """Subscribe, and return when Redis has confirmed it. See `Hub.join`."""
        if not self.want(topic, subscriber):
            await self._confirmations.wait(topic)

    def hears(self, topic: Topic, subscriber: Subscriber) -> bool:
        """Tell whether a topic is active.

        If it is not, but another one is wanted, it is wanted from now on: who listens to nothing
        can miss nothing, and everybody else needs a way to hear himself.
        """
        if self._router.state(topic) is State.ACTIVE:
            return True
        if self._router.wanted:
            self.want(topic, subscriber)
        return False

    def withdrawn(self, topic: Topic) -> None:
        """A wish has been withdrawn: who waits for what nobody will ask for waits in vain."""
        if not self._router.is_wanted(topic):
            if self._router.state(topic) is State.ABSENT:
                self._confirmations.confirm(topic)
            self._watcher.topic_settled(topic)
        self.pump_soon()

    def pump_soon(self) -> None:
        """Tell Redis about all the wishes of this turn of the loop, once."""
        if self._pump_handle is None:
            with contextlib.suppress(
                RuntimeError
            ):  # the loop is closed; the next home's will do it
                self._pump_handle = self.loop.call_soon(self._pump)

    # The link's life

    def begin(self, link: Link) -> Collection[Topic]:
        """Use a new link: first say what is wanted, then send what has waited for it.

        Returns:
            What is wanted.
        """
        self.link = link
        self._router.made()
        wanted = self._router.topics()
        self._refusals.begin(wanted)
        self._pump()
        self._send_parked(link)
        return wanted

    def _send_parked(self, link: Link) -> None:
        for pending in self.parking.release():
            link.send(*pending)

    def lost(self, link: Link, reason: str, unsent: Sequence[Pending]) -> None:
        """See `Receiver.lost`."""
        if link is not self.link:
            return
        self.link = None
        self._router.lost(reason)
        self._pump()
        for pending in unsent:
            self.parking.park(*pending)
        self._watcher.link_lost(link, reason)

    def retire(self, reason: str) -> Link | None:
        """Let go of the link and of the router, which somebody else takes over; return the link."""
        link, self.link, self._is_retired = self.link, None, True
        self._router.lost(reason)
        self._confirmations.announce(self._router.events())
        return link

    def lose(self, reason: str, loss: Loss = Loss.CLOSED) -> None:
        """End the link, if there is one."""
        if self.link is not None:
            self.link.lose(reason, loss)

    def fail(self, error: Exception) -> None:
        """Fail whatever waits for a link or a confirmation."""
        self.parking.fail(error)
        self._confirmations.fail(error)

    def close(self, error: Exception) -> None:
        """Fail whatever waits for a link or a confirmation, now or later."""
        self.parking.close(error)
        self._confirmations.fail(error)

    def end(self) -> None:
        """Let go of the loop."""
        self._retries.stop()
        for handle in (self._pump_handle, self._retry_handle):
            if handle is not None:
                handle.cancel()

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
        denial = self._refusals.allow(topic)
        missed = self._router.had(topic) if denial is not None else ()
        try:
            self._router.acknowledged(topic, subscribed)
        except IllegalTransition as error:
            self.lose(str(error), Loss.DESYNC)
            return
        if denial is not None and missed:
            self._watcher.topic_restored(*denial)
            for subscriber in missed:
                subscriber.interrupted(denial[0])
        self._pump()
        if subscribed:
            self._confirmations.confirm(topic)  # also if nobody wants it any more
            self._watcher.topic_settled(topic)

    def refused(self, topic: Topic, error: Exception) -> None:
        """See `Receiver.refused`."""
        code = self._refusals.note(error)
        try:
            self._router.refused(topic, error, code in PASSING)
        except IllegalTransition as illegal:
            self.lose(str(illegal), Loss.DESYNC)
            return
        if code in PASSING:
            self._retries.ask()
            return
        if self._router.is_wanted(topic):
            self._refusals.deny(topic, error)
        self._retry_later()
        self._pump()
        self._watcher.topic_settled(topic)

    def failed(
        self, command: Command, future: asyncio.Future[Any], error: exceptions.CommandRefused
    ) -> None:
        """See `Receiver.failed`. What was refused for a reason that passes is sent again."""
        code = error.code
        if code != "NOSCRIPT":  # which is no news, see `Link.run`
            self._counters.refusal(code)
        if code in PASSING and command[0] not in _SCRIPTS:
            self.parking.park(command, future, error)
            self._retries.ask()
        else:
            future.set_exception(error)
        if code in NOT_MASTER:
            self.lose(error.text, Loss.NO_MASTER)

    def _try_again(self) -> None:
        """Ask the server once more for what it was not ready for."""
        self._router.retry()
        self._pump()
        if self.link is not None:
            self._send_parked(self.link)

    def _retry_later(self) -> None:
        if self._retry_handle is None:
            self._retry_handle = self.loop.call_later(REFUSED_PAUSE, self._retry_refused)

    def _retry_refused(self) -> None:
        self._retry_handle = None
        self._try_again()

    def _pump(self) -> None:
        """Drain the router: tell Redis what is wanted, and subscribers what has happened."""
        if self._pump_handle is not None:
            self._pump_handle.cancel()
            self._pump_handle = None
        if self._is_retired:
            return
        for command in self._router.commands():
            assert self.link is not None
            if isinstance(command, Subscribe):
                self.link.subscribe(command.kind, command.names)
            else:
                self.link.unsubscribe(command.kind, command.names)
        self._confirmations.announce(self._router.events())

    def _unavailable(self, obstacle: str | None = None) -> Exception:
        reason = self._counters.last_error or "still connecting"
        return exceptions.LinkUnavailable(
            address=self._address,
            seconds=0 if obstacle else self._timeout,
            reason=f"{reason}; {obstacle}" if obstacle else reason,
        )

    def _not_confirmed(self, topic: Topic) -> Exception:
        if self.link is None:
            return self._unavailable()
        return exceptions.NotConfirmed(
            address=self.link.address,
            what=f"the subscription to {topic.name!r}",
            seconds=self._timeout,
        )
