"""What clients and operators hear when a consumer cannot have its channel or declared names.

Nothing of the consumer has run by then, and none of it can: so the client is told to come again
later, or that the fault is the server's, and the log has at most one line a minute for all of them.
"""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from channels_mpx import exceptions
from channels_mpx.ledgers import text_of
from channels_mpx.names import Topic

from .pump import Event

__all__ = ["OPENED_BY_CLIENT", "explain", "turn_away"]

logger = logging.getLogger("channels_mpx.consumers")

#: Connections that an event of the client opens: before it nothing can be sent.
OPENED_BY_CLIENT = frozenset({"http", "websocket"})

#: Seconds between two records about clients of one class of consumers.
PAUSE = 60.0

#: The most names that the log has of one consumer.
NAMED = 3

#: Code of the WebSocket protocol for what will not be better soon.
INTERNAL_ERROR = 1011


#: When the log was told last of clients of a class of consumers that were turned away, by level.
_last_times: weakref.WeakKeyDictionary[type, dict[int, float]] = weakref.WeakKeyDictionary()


def is_denied(error: exceptions.LinkError) -> bool:
    """Tell whether Redis's ACL is the reason, so that waiting does not help."""
    return isinstance(error, exceptions.CommandRefused) and error.code == "NOPERM"


def explain(consumer: type, topics: Sequence[Topic], error: exceptions.LinkError) -> None:
    """Log why a consumer could not begin: at most once a minute for each class and level.

    Args:
        consumer: Its class.
        topics: What its class attributes say, if anything.
        error: Why it cannot have them, or a channel.
    """
    name = consumer.__qualname__
    if not topics:
        if _is_news(consumer, logging.WARNING):
            logger.warning(
                "channels_mpx: %s turns clients away, it cannot have a channel: %s", name, error
            )
        return
    names = ", ".join(repr(text_of(topic.name)) for topic in topics[:NAMED])
    if len(topics) > NAMED:
        names += f" and {len(topics) - NAMED} more"
    if is_denied(error):
        if _is_news(consumer, logging.ERROR):
            logger.error(
                "channels_mpx: %s turns clients away, Redis forbids it %s: %s", name, names, error
            )
    elif _is_news(consumer, logging.WARNING):
        logger.warning(
            "channels_mpx: %s turns clients away, it cannot subscribe to %s: %s", name, names, error
        )


def _is_news(consumer: type, level: int) -> bool:
    """Tell whether it is time for a record of a client that is turned away now."""
    times, now = _last_times.setdefault(consumer, {}), time.monotonic()
    if now - times.get(level, -math.inf) < PAUSE:
        return False
    times[level] = now
    return True


async def turn_away(
    scope: Mapping[str, Any],
    send: Callable[[Event], Awaitable[None]],
    error: exceptions.LinkError,
    close_code: int,
) -> None:
    """Answer a client whose first event has come and was not handled.

    Args:
        scope: The connection's scope, of one of the types in `OPENED_BY_CLIENT`.
        send: The server's.
        error: Why it is turned away.
        close_code: For a WebSocket that may try again later.
    """
    is_ours = is_denied(error)
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": INTERNAL_ERROR if is_ours else close_code})
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"0")]
    status = 500 if is_ours else 503
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
