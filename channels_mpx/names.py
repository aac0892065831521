"""Where everything lives in Redis, and which names are allowed.

All of the layer's own topics and keys start with ``<prefix>:`` so that one ACL rule
(``&<prefix>:*  ~<prefix>:*``) covers them and so that no other prefix can collide with them.

    <prefix>:inbox:<process>    direct channels, membership requests, replies of one process
    <prefix>:group:<group>      one Redis channel for each group
    <prefix>:queue:<channel>    the list behind a worker channel
    <prefix>:bell:<channel>     the doorbell that tells readers that the list has grown
"""

from __future__ import annotations

import enum
import os
import re
import secrets
from typing import Final, NamedTuple

from . import exceptions

#: Characters of a process name: 80 random bits, so that two processes never share one.
PROCESS_NAME_LENGTH = 16

#: Characters of a bad name that an error shows.
SHOWN = 100

_ALPHABET = "0123456789abcdefghijklmnopqrstuv"

#: The key under which the receiver of a request finds where the reply goes.
REPLY_TO: Final = "mpx.reply_to"

#: What stands there: the asker's process and the token of its request.
RETURN_ADDRESS: Final = re.compile(rb"[0-9a-v]{%d}![0-9]{1,20}" % PROCESS_NAME_LENGTH)

_GLOB_SPECIAL = re.compile(rb"([*?\[\]\\])")
_GLOB_HEAD = re.compile(rb"(?:[^*?\[\\]|\\.)*", re.DOTALL)
_GLOB_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_PREFIX = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


class Kind(enum.Enum):
    """The two things that one can subscribe to in Redis."""

    CHANNEL = "channel"
    PATTERN = "pattern"

    # Topics are dictionary keys on the reader; Enum's own __hash__ is a Python function.
    __hash__ = object.__hash__


class Topic(NamedTuple):
    """Anything that a process can subscribe to: an exact channel or a glob pattern."""

    kind: Kind
    name: bytes


class DirectAddress(NamedTuple):
    """Where a direct channel ``<anything><process>!<local>`` lives."""

    process: str
    local: bytes


class ReturnAddress(NamedTuple):
    """Where a reply goes: to the inbox of a process, for the request with this token."""

    process: str
    token: bytes

    def __bytes__(self) -> bytes:
        return b"%b!%b" % (self.process.encode(), self.token)


def new_process_name() -> str:
    """Return a random token that no other process has."""
    number = int.from_bytes(secrets.token_bytes(10), "big")
    return "".join(_ALPHABET[(number >> 5 * i) & 31] for i in range(PROCESS_NAME_LENGTH))


def project_name() -> str:
    """Return the name of the Django project, for people who look at CLIENT LIST."""
    module = os.environ.get("DJANGO_SETTINGS_MODULE", "")
    return re.sub(r"[^!-~]", "", module.partition(".")[0]) or "python"


def escape_glob(name: bytes) -> bytes:
    r"""Return a pattern that matches exactly ``name``: ``*?[]\`` become plain characters.

    Redis documentation, PSUBSCRIBE: special characters are escaped with a backslash.
    """
    return _GLOB_SPECIAL.sub(rb"\\\1", name)


def say_bad_name(error: TypeError, name: object) -> str:
    """Return what Channels says of a name, with the name; of what is none only the type."""
    text = str(error).rstrip(".")
    if not isinstance(name, str):
        return f"{text}, not {type(name).__name__}; are the arguments in the right order?"
    if len(name) > SHOWN:
        return f"{text}, not {name[:SHOWN]!r}… ({len(name)} characters)"
    return f"{text}, not {name!r}"


def encode_name(name: object) -> bytes:
    """Return a user's channel, pattern, prefix or suffix as Redis gets it.

    Raises:
        InvalidName: It is empty, or neither text nor bytes.
    """
    if not isinstance(name, (str, bytes)):
        raise exceptions.InvalidName(
            name=name, problem=f"a name is str or bytes, not {type(name).__name__}"
        )
    if not name:
        raise exceptions.InvalidName(name=name, problem="it is empty")
    return name.encode("utf-8", "surrogatepass") if isinstance(name, str) else name


def parse_direct(channel: str) -> DirectAddress | None:
    """Return where a direct channel lives; None for a worker channel (one without ``!``).

    The name itself must already be valid for Channels. A direct channel that no process of ours
    can have made has an empty process name.
    """
    left, bang, local = channel.partition("!")
    if not bang:
        return None
    if len(left) < PROCESS_NAME_LENGTH:
        return DirectAddress("", local.encode())
    return DirectAddress(left[-PROCESS_NAME_LENGTH:], local.encode())


def parse_return(address: object) -> ReturnAddress | None:
    """Return where a reply goes; None if that is no return address."""
    text = address.encode() if isinstance(address, str) else address
    if not isinstance(text, bytes) or RETURN_ADDRESS.fullmatch(text) is None:
        return None
    process, _, token = text.partition(b"!")
    return ReturnAddress(process.decode(), token)


class Namespace:
    """The names under one prefix.

    Args:
        prefix: 1 to 64 characters, letters, digits, ``_``, ``-`` and ``.``. Two sites that share
            a Redis server need two prefixes: Pub/Sub ignores the database number.

    Raises:
        ConfigurationError: The prefix has another form.
    """

    def __init__(self, prefix: str) -> None:
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise exceptions.ConfigurationError(
                problem=f"prefix must be 1 to 64 letters, digits, '_', '-' or '.', not {prefix!r}; "
                "the colon behind it is added"
            )
        self.prefix = prefix
        self._root = f"{prefix}:".encode()

    def inbox(self, process: str) -> bytes:
        """Return the inbox of a process."""
        return b"%binbox:%b" % (self._root, process.encode())

    def group(self, group: str) -> bytes:
        """Return the Redis channel of a group."""
        return b"%bgroup:%b" % (self._root, group.encode())

    def queue(self, channel: str) -> bytes:
        """Return the key of a worker channel's list."""
        return b"%bqueue:%b" % (self._root, channel.encode())

    def bell(self, channel: str) -> bytes:
        """Return the Redis channel that rings when a worker channel's list grows."""
        return b"%bbell:%b" % (self._root, channel.encode())

    def queues_pattern(self) -> bytes:
        """Return the glob that matches the keys of all worker channels and nothing else."""
        return b"%bqueue:*" % escape_glob(self._root)

    def covers(self, name: bytes) -> bool:
        """Tell whether a plain name is one of ours."""
        return name.startswith(self._root)

    def is_exposed_by(self, pattern: bytes) -> bool:
        """Tell whether a glob pattern may match one of our names; in doubt it may.

        Compared is what stands before the first special character that is not escaped.
        """
        head = _GLOB_HEAD.match(pattern)
        assert head is not None  # it may be empty
        literal = _GLOB_ESCAPE.sub(rb"\1", head[0])
        if head.end() == len(pattern):
            return self.covers(literal)
        return self._root.startswith(literal) or literal.startswith(self._root)

    def require_foreign(self, name: bytes) -> None:
        """Refuse a name that a user must neither subscribe to nor publish on.

        Raises:
            ReservedName: It lies under the prefix.
        """
        if self.covers(name):
            raise exceptions.ReservedName(
                name=name.decode("utf-8", "backslashreplace"), prefix=self.prefix
            )
