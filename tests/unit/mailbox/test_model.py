"""A mailbox agrees with a deque, whatever is done to it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from channels_mpx.mailbox import Item, Mailbox
from channels_mpx.statistics import Tally
from tests.unit.mailbox.letters import EXPIRY, STALE, Diary, Letter, in_thread


@given(st.lists(st.sampled_from(["put", "put in thread", "read", "cancel", "turn"]), max_size=25))
@settings(deadline=None)
def test_lose_nothing_in_any_schedule(schedule: list[str]) -> None:
    """However readers come, go and are woken: each message is got once or is still there."""

    async def run() -> None:
        box = Mailbox("chat!1", 100, 10**6, EXPIRY, Tally(), Diary())
        sent: list[Item] = []
        readers: list[asyncio.Task[Item]] = []
        for step in [*schedule, "turn", "turn", "turn"]:
            if step.startswith("put"):
                letter = Letter()
                sent.append(letter)
                in_thread(box.put, letter) if "thread" in step else box.put(letter)
            elif step == "read":
                readers.append(asyncio.create_task(box.get()))
            elif step == "cancel" and readers:
                readers[len(sent) % len(readers)].cancel()
            else:
                await asyncio.sleep(0)
        waiting = [reader for reader in readers if not reader.done()]
        got = [reader.result() for reader in readers if reader.done() and not reader.cancelled()]
        assert not waiting or not len(box)
        assert box.taken == len(got)
        for reader in waiting:
            reader.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        left = list(iter(box.take, None))
        assert left == [letter for letter in sent if letter in left]
        assert len(got) + len(left) == len(sent)
        assert {*map(id, got), *map(id, left)} == {*map(id, sent)}
        assert box.bytes_in == box.bytes_out

    asyncio.run(run())


class MailboxModel(RuleBasedStateMachine):
    """A mailbox does what a deque with the two bounds does."""

    def __init__(self) -> None:
        super().__init__()
        self.diary, self.tally = Diary(), Tally()
        self.box = Mailbox("chat!1", 4, 20, EXPIRY, self.tally, self.diary)
        self.deque: deque[Letter] = deque()
        self.dropped = self.expired = self.taken = self.episode = 0
        self.expected: list[Any] = []

    @rule(size=st.integers(0, 25), is_stale=st.booleans())
    def put(self, size: int, is_stale: bool) -> None:
        letter = Letter(size=size, age=STALE if is_stale else 0)
        if not self.fits(size):
            self.drop_stale()
            self.end_episode()
        fits = self.fits(size)
        if fits:
            self.deque.append(letter)
        else:
            self.dropped += 1
            self.episode += 1
            if self.episode == 1:
                self.expected.append("overflowed")
        assert self.box.put(letter) is fits

    def fits(self, size: int) -> bool:
        held = sum(letter.size for letter in self.deque)
        return not self.deque or (len(self.deque) < 4 and held + size <= 20)

    @property
    def fresh(self) -> int:
        now = time.monotonic()
        return sum(now - letter.arrived <= EXPIRY for letter in self.deque)

    def end_episode(self) -> None:
        if self.episode and not self.deque:
            self.expected.append(self.episode)
            self.episode = 0

    def drop_stale(self) -> None:
        while self.deque and time.monotonic() - self.deque[0].arrived > EXPIRY:
            self.deque.popleft()
            self.expired += 1

    @rule()
    def take(self) -> None:
        self.drop_stale()
        letter = self.deque.popleft() if self.deque else None
        self.taken += letter is not None
        self.end_episode()
        assert self.box.take() is letter

    @rule()
    def expire(self) -> None:
        self.drop_stale()
        self.end_episode()
        self.box.expire(time.monotonic())

    @rule()
    def clear(self) -> None:
        assert self.box.clear() == len(self.deque)
        self.deque.clear()
        self.end_episode()

    @invariant()
    def agrees(self) -> None:
        assert len(self.box) == len(self.deque)
        assert self.box.is_full == (self.fresh >= 4)
        assert self.box.bytes_in - self.box.bytes_out == sum(item.size for item in self.deque)
        assert (self.tally.full, self.tally.expired) == (self.dropped, self.expired)
        assert (self.box.dropped, self.box.taken) == (self.dropped, self.taken)
        assert self.diary.lines == self.expected


MailboxModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_mailbox_agrees_with_a_deque = MailboxModel.TestCase
