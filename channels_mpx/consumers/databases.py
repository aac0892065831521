"""Whether a thread has database connections that Django would close, as seen from another thread.

``close_old_connections`` has to run in the thread where the connections are, which may be busy for
a long time. What it looks at are plain attributes of the connections, which any thread may read.
So the way to that thread is only taken if there is something to do.

A connection of Django is an object that a thread has for each entry of ``DATABASES``, open or not.
They are looked up once, in their thread; one that appears there later makes itself known when it
is opened. None of them is kept alive here.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from typing import Any

from channels import db
from django.db import close_old_connections, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

__all__ = ["ThreadConnections", "is_configured", "is_replaced", "look"]

#: The backend that Django puts in when ``DATABASES`` is empty.
_NONE = "django.db.backends.dummy"

# As Channels and Django have made them: what somebody puts in their place is always called.
_plain_close = db.aclose_old_connections
_plain_decision = BaseDatabaseWrapper.close_if_unusable_or_obsolete

_here = threading.local()


class ThreadConnections:
    """The database connections of one thread."""

    __slots__ = ("_connections",)

    def __init__(self) -> None:
        self._connections: list[weakref.ref[Any]] = []

    def __repr__(self) -> str:
        return f"<ThreadConnections {len(self._connections)} has_old={self.has_old()}>"

    def add(self, connection: Any) -> None:
        """Note a connection object; to be called in the thread itself."""
        known = [ref for ref in self._connections if ref() not in (None, connection)]
        self._connections = [*known, weakref.ref(connection)]

    def has_old(self) -> bool:
        """Tell whether ``close_old_connections`` would do anything in the thread; from any."""
        for ref in self._connections:
            connection = ref()
            if connection is not None and connection.connection is not None and _is_old(connection):
                return True
        return False


def _is_old(connection: Any) -> bool:
    """Tell whether Django would do anything about an open connection before a handler."""
    if type(connection).close_if_unusable_or_obsolete is not _plain_decision:
        return True  # the backend has an opinion of its own
    return bool(
        connection.errors_occurred
        or (connection.close_at is not None and time.monotonic() >= connection.close_at)
        or (connection.health_check_enabled and connection.health_check_done)
        or connection.autocommit != connection.settings_dict["AUTOCOMMIT"]
    )


def look() -> ThreadConnections:
    """Return the connections of the calling thread, the same object for each call there."""
    found: ThreadConnections | None = getattr(_here, "found", None)
    if found is None:
        found = _here.found = ThreadConnections()
    for alias in connections:
        with contextlib.suppress(Exception):  # what has no backend will never be opened
            found.add(connections[alias])
    return found


def is_configured() -> bool:
    """Tell whether there is any database in Django's settings."""
    for settings in connections.settings.values():  # for most messages: no generator
        if settings.get("ENGINE") != _NONE:
            return True
    return False


def is_replaced() -> bool:
    """Tell whether somebody has put another function where Channels closes old connections."""
    return (
        db.close_old_connections is not close_old_connections
        or db.aclose_old_connections is not _plain_close
    )


def _opened(connection: Any, **_: Any) -> None:
    """See Django's ``connection_created``, which is sent in the connection's thread."""
    found: ThreadConnections | None = getattr(_here, "found", None)
    if found is not None:
        found.add(connection)


connection_created.connect(_opened, dispatch_uid="channels_mpx.consumers.databases")
