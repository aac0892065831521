"""What users may choose to have done when something goes wrong."""

from __future__ import annotations

import enum
from typing import TypeVar

from . import exceptions

__all__ = ["GapPolicy", "Overflow", "choose"]

Policy = TypeVar("Policy", bound=enum.Enum)


class Overflow(enum.Enum):
    """What a full mailbox does with one message more."""

    #: Drops it.
    DROP_NEWEST = "drop_newest"
    #: Drops the one that has waited longest.
    DROP_OLDEST = "drop_oldest"
    #: Drops it and all that follow; whoever reads gets what waits, and then the end.
    CLOSE = "close"


class GapPolicy(enum.Enum):
    """What a consumer does when messages may have been missed."""

    #: Is told.
    NOTIFY = "notify"
    #: Closes its socket, so that the client comes again.
    CLOSE = "close"
    #: Nothing.
    IGNORE = "ignore"


def choose(kind: type[Policy], name: str, value: object) -> Policy:
    """Return the policy that a user has written.

    Args:
        kind: The policies to choose from.
        name: What the user calls it.
        value: A policy, or its value.

    Raises:
        ConfigurationError: There is no such policy.
    """
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(repr(policy.value) for policy in kind)
        raise exceptions.ConfigurationError(
            problem=f"{name} must be one of {known}, not {value!r}"
        ) from None
