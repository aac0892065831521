"""Where Redis is: an entry of ``hosts``, checked, in one form for all of them.

There are passwords in what is read here. No error tells a value that may be one, or a part of a
URL: what was not escaped stands in the place of something else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from . import exceptions
from .host_arguments import find_problem

__all__ = ["Arguments", "Host", "parse_host", "parse_hosts"]

#: The scheme of the layer that needs no server.
MEMORY = "memory"

_SCHEMES = ("redis", "rediss", "unix", MEMORY)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_GAP = re.compile(r"[\x00-\x20\x7f]")
_ESCAPE = "special characters in a password must be percent-encoded"


class Arguments(dict[str, Any]):
    """Arguments of redis-py that print without their values: there are passwords among them."""

    def __repr__(self) -> str:
        return f"<{', '.join(map(str, self))}>"


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
    arguments: Mapping[str, Any] = field(default_factory=Arguments, repr=False)
    sentinel: Mapping[str, Any] = field(default_factory=Arguments, repr=False)
    memory: str | None = None


def parse_hosts(value: object) -> Host:
    """Return the only server of the option ``hosts``; a lone one needs no list around it.

    Raises:
        ConfigurationError: It is none, or more than one.
    """
    if value is None:
        return parse_host("redis://localhost:6379")
    is_pair = isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], int)
    if isinstance(value, (str, Mapping, Host)) or is_pair:
        return parse_host(value)
    if not isinstance(value, (list, tuple)) or not value:
        raise _wrong("hosts must be a list with one Redis URL in it")
    if len(value) > 1:
        if _is_pair(value) and _is_number(str(value[1])):
            raise _wrong(
                "hosts is a list of servers, and this is the host name and the port of one; "
                "write [('localhost', 6379)], or the URL redis://localhost:6379"
            )
        raise _wrong(
            f"hosts has {len(value)} entries; channels_mpx speaks to one server for now, "
            "so give one (a Sentinel entry counts as one)"
        )
    return parse_host(value[0], "hosts[0]")


def parse_host(value: object, where: str = "hosts") -> Host:
    """Return one entry of ``hosts`` in a common form.

    Args:
        value: A URL, a pair of host and port, or a dict: redis-py arguments, possibly with
            ``address`` (a URL), or ``sentinels`` and ``master_name``.
        where: What errors call the entry.

    Raises:
        ConfigurationError: It has none of these forms, or a value in it cannot be.
    """
    if isinstance(value, Host):
        return value
    if isinstance(value, str):
        return _parse_url(value, where)
    if isinstance(value, (tuple, list)):
        return _parse_pair(value, where)
    if isinstance(value, Mapping):
        return _parse_mapping(value, where)
    if value is None:
        raise _wrong(f"{where} is None; is an environment variable not set?")
    raise _wrong(f"{where}: {type(value).__name__} is no form of a host; use a Redis URL")


def _parse_url(url: str, where: str) -> Host:
    if not url:
        raise _wrong(f"{where} is an empty string; is an environment variable empty?")
    if _GAP.search(url):
        raise _wrong(
            f"{where}: there is a space or a line break in the URL; "
            "is it at the end of what it was read from?"
        )
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise _wrong(
            f"{where}: the URL has no scheme; it must begin with redis://, rediss://, unix:// or "
            "memory://, as in redis://localhost:6379"
        )
    if scheme[1] not in _SCHEMES:
        raise _wrong(
            f"{where}: the URL begins with {scheme[0]!r}; "
            "it must begin with redis://, rediss://, unix:// or memory://"
        )
    if "#" in url:
        raise _wrong(f"{where}: a URL of Redis has no '#'; {_ESCAPE}, here as %23")
    parts = _split(url, where)
    if parts.scheme == MEMORY:
        if not re.fullmatch(r"[\w.\-]*", url[len("memory://") :]):
            raise _wrong(f"{where}: behind memory:// is a name of letters, digits, '_', '-', '.'")
        return Host(memory=parts.netloc)
    _require_arguments(_parse_query(parts.query, where), where)
    if parts.scheme == "unix":
        _require_socket(parts, where)
    else:
        _require_server(parts, where)
    return Host(url=url)


def _split(url: str, where: str) -> SplitResult:
    """Return the parts of a URL."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (it is read here for its ValueError)
    except ValueError:
        parts = None
    if parts is None:  # outside of the handler: the text of that error may hold a password
        raise _wrong(f"{where}: not a URL: its host or port cannot be read; {_ESCAPE}")
    return parts


def _require_socket(parts: SplitResult, where: str) -> None:
    if parts.hostname or not parts.path.strip("/"):
        raise _wrong(
            f"{where}: behind unix:// is the path of a socket, as in unix:///run/redis.sock"
        )


def _require_server(parts: SplitResult, where: str) -> None:
    database = parts.path.strip("/")
    if database and not _is_number(database):
        raise _wrong(f"{where}: the database in the URL must be a number; {_ESCAPE}")
    if parts.port == 0:
        raise _wrong(f"{where}: the port in the URL must be 1 to 65535, not 0")
    if parts.port is not None and not parts.hostname:
        raise _wrong(
            f"{where}: the URL has a port and no host; it is like redis://localhost:6379; {_ESCAPE}"
        )


def _parse_query(query: str, where: str) -> Arguments:
    """Return the arguments that stand behind the question mark of a URL."""
    for part in filter(None, query.split("&")):
        name, equals, _ = part.partition("=")
        if not equals or not name.isidentifier():
            raise _wrong(
                f"{where}: behind the '?' of the URL are arguments, as in ?db=1; {_ESCAPE}"
            )
    return Arguments(parse_qsl(query))


def _parse_pair(pair: Sequence[Any], where: str, usual: int = 6379) -> Host:
    if not _is_pair(pair):
        raise _wrong(f"{where}: a pair is a host name and a port, as in ('localhost', {usual})")
    host, port = pair
    if not host:
        raise _wrong(f"{where}: the host name is empty")
    problem = find_problem("port", port, {})
    if problem is not None:
        raise _wrong(f"{where}: the port {problem}")
    return Host(arguments=Arguments(host=host, port=int(port)))


def _parse_mapping(mapping: Mapping[Any, Any], where: str) -> Host:
    arguments = Arguments(mapping)
    if "unix_socket_path" in arguments:
        arguments["path"] = arguments.pop("unix_socket_path")
    sentinel = Arguments(
        (name, arguments.pop(name))
        for name in ("sentinels", "master_name", "sentinel_kwargs")
        if name in arguments
    )
    base = Host()
    if sentinel:
        _require_sentinel(where, **sentinel)
        base = Host(sentinel=sentinel)
    elif "address" in arguments:
        base = parse_host(arguments.pop("address"), f"{where}['address']")
    elif not arguments:
        raise _wrong(f"{where}: the dict is empty; give at least 'address' or 'host'")
    query = _parse_query(urlsplit(base.url or "").query, where)
    _require_arguments(Arguments({**query, **arguments}), where)
    together = Arguments({**base.arguments, **arguments})
    return Host(base.url, together, base.sentinel, base.memory)


def _require_sentinel(
    where: str,
    sentinels: object = None,
    master_name: object = None,
    sentinel_kwargs: object = None,
) -> None:
    """Refuse what Sentinel cannot be asked with, before somebody tries; no value is told."""
    if not sentinels or not master_name:
        raise _wrong(f"{where}: Sentinel needs both 'sentinels' and 'master_name'")
    if isinstance(sentinels, (str, bytes, Mapping)) or not isinstance(sentinels, Collection):
        raise _wrong(
            f"{where}: 'sentinels' must be a list of pairs of a host name and a port, as in "
            f"[('localhost', 26379)], not {type(sentinels).__name__}"
        )
    for number, pair in enumerate(sentinels):
        is_sequence = isinstance(pair, (tuple, list))
        _parse_pair(pair if is_sequence else (), f"{where}['sentinels'][{number}]", 26379)
    if not isinstance(master_name, str):
        raise _wrong(f"{where}: 'master_name' must be a string, not {type(master_name).__name__}")
    if sentinel_kwargs is not None and not isinstance(sentinel_kwargs, Mapping):
        raise _wrong(
            f"{where}: 'sentinel_kwargs' must be a dict of redis-py arguments, "
            f"not {type(sentinel_kwargs).__name__}"
        )
    _require_arguments(Arguments(sentinel_kwargs or {}), f"{where}['sentinel_kwargs']")


def _require_arguments(arguments: Mapping[str, Any], where: str) -> None:
    """Refuse values that redis-py would find out about at the first connection, or not at all."""
    for name, value in arguments.items():
        if not isinstance(name, str):
            raise _wrong(f"{where}: the keys of the dict must be names of arguments")
        problem = find_problem(name, value, arguments)
        if problem is not None:
            raise _wrong(f"{where}[{name!r}] {problem}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _is_pair(value: Sequence[Any]) -> bool:
    return len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], (int, str))


def _wrong(problem: str) -> exceptions.ConfigurationError:
    return exceptions.ConfigurationError(problem=problem)
