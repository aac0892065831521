"""The settings, validated: what stands in ``CONFIG`` becomes one frozen object, or one clear error."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from . import exceptions
from .arguments import MOST_SECONDS
from .names import Namespace

__all__ = ["Host", "Options", "parse_host"]

#: The fewest seconds for a step of connecting: a crowd of TLS handshakes takes its time.
LEAST_STEP = 2.5

#: The scheme of the layer that needs no server.
MEMORY = "memory"

_SCHEMES = ("redis", "rediss", "unix", MEMORY)


@dataclass(frozen=True)
class Host:
    """One server, in the terms of redis-py.

    Attributes:
        url: A Redis URL, if there is one.
        arguments: Arguments of a redis-py connection; they win over the URL's.
        sentinel: ``sentinels``, ``master_name`` and ``sentinel_kwargs``, if Sentinel is asked.
        memory: The name of a broker in this process; None for a real server.
    """

    url: str | None = field(default=None, repr=False)
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sentinel: Mapping[str, Any] = field(default_factory=dict, repr=False)
    memory: str | None = None


def parse_host(value: object) -> Host:
    """Return one entry of ``hosts`` in a common form.

    Args:
        value: A URL, a pair of host and port, or a dict: redis-py arguments, possibly with
            ``address`` (a URL), or ``sentinels`` and ``master_name``.

    Raises:
        ConfigurationError: It has none of these forms.
    """
    if isinstance(value, Host):
        return value
    if isinstance(value, str):
        return _parse_url(value)
    if isinstance(value, (tuple, list)):
        return _parse_pair(value)
    if isinstance(value, Mapping):
        return _parse_mapping(value)
    raise _wrong(f"hosts: {type(value).__name__} is no form of a host; use a Redis URL")


def _parse_url(url: str) -> Host:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # The text of the URL stays out of the errors, and out of their causes: it may hold a
        # password, also in the place of a port or a database if it was not escaped.
        raise _wrong(
            "hosts: not a URL: its host or port cannot be read; "
            "special characters in a password must be percent-encoded"
        ) from None
    if parts.scheme not in _SCHEMES or not url.startswith(f"{parts.scheme}://"):
        raise _wrong(
            f"hosts: the URL begins with {parts.scheme + ':' if parts.scheme else 'no scheme'!r}; "
            "it must begin with redis://, rediss://, unix:// or memory://"
        )
    if parts.scheme == MEMORY:
        return Host(memory=parts.netloc)
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not database.isdecimal():
        raise _wrong(
            "hosts: the database in the URL must be a number; "
            "special characters in a password must be percent-encoded"
        )
    if port is not None and port == 0:
        raise _wrong("hosts: the port in the URL must be 1 to 65535, not 0")
    return Host(url=url)


def _parse_pair(pair: Sequence[Any], where: str = "hosts", usual: int = 6379) -> Host:
    if len(pair) != 2 or not isinstance(pair[0], str) or not isinstance(pair[1], (int, str)):
        raise _wrong(f"{where}: a pair is a host name and a port, as in ('localhost', {usual})")
    host, port = pair
    if not str(port).isdecimal() or not 1 <= int(port) <= 65535:
        raise _wrong(f"{where}: the port must be 1 to 65535, not {port!r}")
    return Host(arguments={"host": host, "port": int(port)})


def _parse_mapping(mapping: Mapping[Any, Any]) -> Host:
    arguments = dict(mapping)
    if "unix_socket_path" in arguments:
        arguments["path"] = arguments.pop("unix_socket_path")
    sentinel = {
        name: arguments.pop(name)
        for name in ("sentinels", "master_name", "sentinel_kwargs")
        if name in arguments
    }
    if sentinel:
        _require_sentinel(**sentinel)
        return Host(arguments=arguments, sentinel=sentinel)
    address = arguments.pop("address", None)
    if isinstance(address, (tuple, list)):
        return Host(arguments={**_parse_pair(address).arguments, **arguments})
    if address is not None:
        parsed = parse_host(address)
        return Host(url=parsed.url, arguments=arguments, memory=parsed.memory)
    if not arguments:
        raise _wrong("hosts: the dict is empty; give at least 'address' or 'host'")
    return Host(arguments=arguments)


def _require_sentinel(
    sentinels: object = None, master_name: object = None, sentinel_kwargs: object = None
) -> None:
    """Refuse what Sentinel cannot be asked with, before somebody tries; no value is told."""
    if not sentinels or not master_name:
        raise _wrong("hosts: Sentinel needs both 'sentinels' and 'master_name'")
    if isinstance(sentinels, (str, bytes, Mapping)) or not isinstance(sentinels, Collection):
        raise _wrong(
            "hosts: 'sentinels' must be a list of pairs of a host name and a port, as in "
            f"[('localhost', 26379)], not {type(sentinels).__name__}"
        )
    for number, pair in enumerate(sentinels):
        is_sequence = isinstance(pair, (tuple, list))
        _parse_pair(pair if is_sequence else (), f"hosts: sentinels[{number}]", 26379)
    if not isinstance(master_name, str):
        raise _wrong(f"hosts: 'master_name' must be a string, not {type(master_name).__name__}")
    if sentinel_kwargs is not None and not isinstance(sentinel_kwargs, Mapping):
        raise _wrong(
            "hosts: 'sentinel_kwargs' must be a dict of redis-py arguments, "
            f"not {type(sentinel_kwargs).__name__}"
        )


def _parse_hosts(value: object) -> Host:
    """Return the only host; a lone one needs no list around it."""
    if value is None:
        return _parse_url("redis://localhost:6379")
    is_pair = isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], int)
    if isinstance(value, (str, Mapping, Host)) or is_pair:
        return parse_host(value)
    if not isinstance(value, (list, tuple)) or not value:
        raise _wrong("hosts must be a list with one Redis URL in it")
    if len(value) > 1:
        raise _wrong(
            f"hosts has {len(value)} entries; channels_mpx speaks to one server for now, "
            "so give one (a Sentinel entry counts as one)"
        )
    return parse_host(value[0])


@dataclass(frozen=True)
class Options:
    """Everything that can be configured, with its default.

    Attributes:
        hosts: The server.
        prefix: What all names in Redis begin with.
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
        ping_interval: Seconds of silence before a PING.
        ping_timeout: Seconds that the answer may take before the link is given up.
        probe_interval: Seconds without any message before one is sent to ourselves.
        max_message_size: Bytes of one encoded message with its envelope.
        channel_max_bytes: Bytes that wait in one channel of a consumer.
        reconnect_delay: Seconds before the second attempt to connect; it doubles from there.
        max_reconnect_delay: The most seconds between two attempts.
        client_name: For CLIENT SETNAME; None makes one from the project and the process id.
    """

    hosts: Host = field(default_factory=lambda: _parse_hosts(None))
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
                of the wrong type or out of range.
        """
        known = [option.name for option in fields(cls) if only is None or option.name in only]
        values = {}
        for name, value in config.items():
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
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
    return Namespace(value).prefix


def _keys(name: str, value: Any) -> Any:
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
        raise _wrong(f"{name} must be a list of keys, even if there is only one")
    if not all(isinstance(key, (str, bytes)) and key for key in value):
        raise _wrong(f"{name} must hold strings or bytes that are not empty")
    return tuple(value)


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
    "hosts": lambda name, value: _parse_hosts(value),
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
