"""The settings, validated: what stands in ``CONFIG`` becomes one frozen object, or one clear error."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from . import exceptions
from .arguments import MOST_SECONDS
from .hosts import Host, parse_hosts
from .names import Namespace
from .tracebacks import without_frames

__all__ = ["Options"]

#: The fewest seconds for a step of connecting: a crowd of TLS handshakes takes its time.
LEAST_STEP = 2.5

#: Options of channels_redis that mean nothing here.
_FOREIGN = {"random_prefix_length": "it is of channels_redis and not needed here, remove it"}


class Keys(tuple[Any, ...]):
    """Keys that do not print: frames of tracebacks show what variables hold."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} keys>"


@dataclass(frozen=True)
class Options:
    """Everything that can be configured, with its default.

    Attributes:
        hosts: The server.
        prefix: What all names in Redis begin with; an empty one means the default.
        expiry: Seconds that a message waits unread.
        group_expiry: Seconds that a channel may go unread before it leaves its groups until it is
            read; less than ``expiry`` means ``expiry``.
        capacity: Messages that wait in one channel.
        channel_capacity: Other capacities, by glob or compiled regular expression.
        symmetric_encryption_keys: The first encrypts, all decrypt.
        serializer_format: A registered name, a dotted path, or a class.
        on_disconnect: The ``type`` of a message to every consumer when the link is lost.
        on_reconnect: The ``type`` of a message to every consumer when it is back.
        timeout: Seconds that a call waits for Redis: for a link and for a confirmation.
        ping_interval: Seconds between two PINGs.
        ping_timeout: Seconds that the answer may take before the link is given up.
        probe_interval: Seconds without any message before one is sent to ourselves.
        max_message_size: Bytes of one encoded message with its envelope.
        channel_max_bytes: Bytes that wait in one channel of a consumer.
        reconnect_delay: Seconds before the second attempt to connect; it doubles from there.
        max_reconnect_delay: The most seconds between two attempts.
        client_name: For CLIENT SETNAME; None makes one from the project and the process id.
    """

    hosts: Host = field(default_factory=lambda: parse_hosts(None))
    prefix: str = "mpx"
    expiry: float = 60
    group_expiry: float = 86400
    capacity: int = 100
    channel_capacity: Mapping[Any, int] = field(default_factory=dict)
    symmetric_encryption_keys: Sequence[str | bytes] = field(default=(), repr=False)
    serializer_format: Any = "msgpack"
    on_disconnect: str | None = None
    on_reconnect: str | None = None
    timeout: float = 10.0
    ping_interval: float = 2.0
    ping_timeout: float = 2.5
    probe_interval: float = 10.0
    max_message_size: int = 8 * 2**20
    channel_max_bytes: int = 64 * 2**20
    reconnect_delay: float = 0.005
    max_reconnect_delay: float = 0.9
    client_name: str | None = None

    @property
    def step_timeout(self) -> float:
        """Seconds for connecting and for each step of the handshake.

        A server that has stopped is left after about the time in which it is noticed, so that
        another one is not waited for any longer.
        """
        return min(self.timeout, max(self.ping_timeout, LEAST_STEP))

    @classmethod
    def parse(cls, config: Mapping[str, Any], only: Sequence[str] | None = None) -> Options:
        """Return the options that ``config`` describes.

        Args:
            config: Names and values, as in ``CONFIG``.
            only: The names that are allowed here; all by default.

        Raises:
            ConfigurationError: A name is unknown (the nearest known one is given) or a value is
                of the wrong type or out of range. Its traceback begins here.
        """
        try:
            return cls._parse(config, only)
        except exceptions.ConfigurationError as error:
            raise without_frames(error)  # noqa: B904  (the very error)
        finally:
            del config  # there are passwords in it, and a traceback shows what a frame holds

    @classmethod
    def _parse(cls, config: Mapping[str, Any], only: Sequence[str] | None) -> Options:
        known = [option.name for option in fields(cls) if only is None or option.name in only]
        values = {}
        for name, value in config.items():
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                if name in _FOREIGN and only is None:
                    raise _wrong(f"there is no option {name!r}: {_FOREIGN[name]}")
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                raise _wrong(f"there is no option {name!r}; {hint}")
            values[name] = _CHECKS[name](name, value)
        options = cls(**values)
        if options.max_reconnect_delay < options.reconnect_delay:
            raise _wrong("max_reconnect_delay must not be below reconnect_delay")
        return options


def _wrong(problem: str) -> exceptions.ConfigurationError:
    return exceptions.ConfigurationError(problem=problem)


Check = Callable[[str, Any], Any]


def _number(least: float, whole: bool = False) -> Check:
    what, most = ("a whole number", math.inf) if whole else ("a number of seconds", MOST_SECONDS)

    def check(name: str, value: Any) -> Any:
        is_number = isinstance(value, int if whole else (int, float))
        if isinstance(value, bool) or not is_number or not least <= value < math.inf:
            raise _wrong(f"{name} must be {what}, at least {least}, not {value!r}")
        if value > most:
            raise _wrong(f"{name} must be {what}, at most {most}, not {value!r}")
        return value

    return check


def _text(name: str, value: Any) -> Any:
    if value is not None and (not isinstance(value, str) or not value):
        raise _wrong(f"{name} must be a string that is not empty, or None, not {value!r}")
    return value


def _prefix(name: str, value: Any) -> Any:
    return Namespace(value or Options.prefix if isinstance(value, str) else value).prefix


def _keys(name: str, value: Any) -> Any:
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
        raise _wrong(f"{name} must be a list of keys, even if there is only one")
    if not all(isinstance(key, (str, bytes)) and key for key in value):
        raise _wrong(f"{name} must hold strings or bytes that are not empty")
    return Keys(value)


def _capacities(name: str, value: Any) -> Any:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _wrong(f"{name} must be a dict of pattern and capacity, not {type(value).__name__}")
    for pattern, capacity in value.items():
        if not isinstance(pattern, (str, re.Pattern)):
            raise _wrong(f"{name}: {pattern!r} is neither a glob nor a compiled pattern")
        if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, bytes):
            raise _wrong(f"{name}: {pattern!r} is a pattern for bytes; names of channels are str")
        _number(1, whole=True)(f"{name}[{pattern!r}]", capacity)
    return value


def _serializer(name: str, value: Any) -> Any:
    if not isinstance(value, (str, type)):
        raise _wrong(f"{name} must be a name, a dotted path or a class, not {value!r}")
    return value


def _client_name(name: str, value: Any) -> Any:
    if value is not None and (not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value)):
        raise _wrong(f"{name} must be printable ASCII without spaces, not {value!r}")
    return value


_CHECKS: dict[str, Check] = {
    "hosts": lambda name, value: parse_hosts(value),
    "prefix": _prefix,
    "expiry": _number(0.001),
    "group_expiry": _number(0),
    "capacity": _number(1, whole=True),
    "channel_capacity": _capacities,
    "symmetric_encryption_keys": _keys,
    "serializer_format": _serializer,
    "on_disconnect": _text,
    "on_reconnect": _text,
    "timeout": _number(0.001),
    "ping_interval": _number(0.001),
    "ping_timeout": _number(0.001),
    "probe_interval": _number(0.001),
    "max_message_size": _number(1024, whole=True),
    "channel_max_bytes": _number(1024, whole=True),
    "reconnect_delay": _number(0.001),
    "max_reconnect_delay": _number(0.001),
    "client_name": _client_name,
}
