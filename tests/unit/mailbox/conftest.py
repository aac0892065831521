"""A mailbox, and what it reports to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from channels_mpx.mailbox import Mailbox
from channels_mpx.policies import Overflow
from channels_mpx.statistics import Tally
from tests.unit.mailbox.letters import EXPIRY, Diary


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def make(tally: Tally, diary: Diary) -> Callable[..., Mailbox]:
    """A function that makes a mailbox for three messages of ten bytes in all."""

    def make(
        kind: type[Mailbox] = Mailbox,
        capacity: int = 3,
        policy: Overflow = Overflow.DROP_NEWEST,
    ) -> Mailbox:
        return kind("chat!1", capacity, 10, EXPIRY, tally, diary, policy)

    return make


@pytest.fixture
def box(make: Callable[..., Mailbox]) -> Mailbox:
    return make()
