"""The Lua scripts that Redis runs for us; each stands in a file of its own beside this one.

Scripts and not MULTI: before Redis 7.2 a push can land inside the reply of EXEC when commands and
subscriptions share a connection.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final

#: Digits in front of a queue's entries: its deadline in milliseconds since 1970.
DEADLINE_DIGITS: Final = 13

#: The last deadline that fits.
LAST_DEADLINE: Final = 10**DEADLINE_DIGITS - 1


class Script:
    """A script and the digest that Redis knows it by once it has run."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = resources.files(__package__).joinpath("lua", f"{name}.lua").read_bytes()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


PUSH: Final = Script("push")
POP: Final = Script("pop")
UNPOP: Final = Script("unpop")
