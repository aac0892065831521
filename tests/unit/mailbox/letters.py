"""What is put into mailboxes, and who puts and takes it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from channels_mpx.mailbox import Item, Mailbox
from tests.helpers import eventually

EXPIRY = 500.0


class Letter:
    """A message; ``age`` is for how many seconds it has waited already."""

    def __init__(self, text: str = "", size: int = 1, age: float = 0.0) -> None:
        self.text = text
        self.size = size
        self.arrived = time.monotonic() - age

    def __repr__(self) -> str:
        return f"<Letter {self.text}>"


STALE = EXPIRY * 2


class Diary:
    """Writes down what a mailbox reports."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def overflowed(self, mailbox: Mailbox) -> None:
        self.lines.append("overflowed")

    def relieved(self, mailbox: Mailbox, dropped: int) -> None:
        self.lines.append(dropped)


def fill(box: Mailbox, *texts: str) -> list[bool]:
    return [box.put(Letter(text)) for text in texts]


def age(box: Mailbox) -> None:
    """Let what waits expire."""
    for item in box.items or ():
        item.arrived -= STALE


def texts(box: Mailbox) -> list[str]:
    """Take everything."""
    return [letter.text for letter in iter(box.take, None)]  # type: ignore[attr-defined]


async def start_reader(box: Mailbox) -> asyncio.Task[Item]:
    """Return a task that waits in `get`."""
    waiting = len(box._waiters)
    task = asyncio.create_task(box.get())
    await eventually(lambda: len(box._waiters) > waiting)
    return task


def in_thread(function: Callable[..., object], *arguments: object) -> None:
    """Call a function in a thread and block this loop until it has returned."""
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()
