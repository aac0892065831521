"""What Redis knows about a layer, as one picture. What it does not allow is missing, with a note."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from channels_mpx.exceptions import CommandRefused
from channels_mpx.names import escape_glob
from channels_mpx.server import Server

from .formats import readable

__all__ = ["Census", "Connection", "Group", "Queue", "ServerFacts", "take_census"]

T = TypeVar("T")

#: What the names of our connections begin with, unless ``client_name`` says otherwise.
CLIENT = "channels_mpx:"


@dataclass(frozen=True)
class ServerFacts:
    """The server: its version, how long it runs, bytes used and allowed (0: no limit), clients."""

    version: str
    uptime: int
    memory: int
    max_memory: int
    clients: int


@dataclass(frozen=True)
class Connection:
    """The connection of one layer in one process; times in seconds, the output buffer in bytes."""

    name: str
    address: str
    age: int
    idle: int
    subscriptions: int
    patterns: int
    output_buffer: int
    is_this: bool


@dataclass(frozen=True)
class Group:
    """A group, and how many processes have members of it."""

    name: str
    processes: int


@dataclass(frozen=True)
class Queue:
    """A worker channel: how many messages wait, and how many processes wait for one.

    ``length`` is None if its key holds something else, ``readers`` if Redis does not tell.
    """

    name: str
    length: int | None
    readers: int | None


@dataclass(frozen=True)
class Census:
    """A layer as Redis sees it. None: Redis does not tell, and a note says why.

    Attributes:
        server: The server.
        role: ``master``, or what else it says it is.
        processes: The connections of layers, of this prefix or another.
        listening: How many processes have an inbox under this prefix.
        groups: The groups with members, those in most processes first.
        patterns: How many distinct patterns all clients of the server have.
        queues: The worker channels that somebody reads, or in which something waits.
        notes: What is missing, and why.
    """

    server: ServerFacts | None
    role: str | None
    processes: list[Connection] | None
    listening: int | None
    groups: list[Group] | None
    patterns: int | None
    queues: list[Queue] | None
    notes: list[str]


def take_census(server: Server) -> Census:
    """Ask Redis; see `Server` for what is raised."""
    notes: list[str] = []

    def attempt(what: str, look: Callable[[Server], T]) -> T | None:
        try:
            return look(server)
        except CommandRefused as error:
            notes.append(f"{what}: {readable(error.text)}")
            return None

    readers = attempt("readers of worker channels", lambda server: _audience(server, b"bell"))
    lengths = attempt("queues", _lengths)
    return Census(
        server=attempt("server", _server),
        role=attempt("role", lambda server: readable(server.ask(b"ROLE")[0])),
        processes=attempt("processes", _processes),
        listening=attempt("inboxes", lambda server: len(_channels(server, b"inbox"))),
        groups=attempt("groups", _groups),
        patterns=attempt("patterns", lambda server: int(server.ask(b"PUBSUB", b"NUMPAT"))),
        queues=None if lengths is None else _queues(lengths, readers),
        notes=notes,
    )


def _server(server: Server) -> ServerFacts:
    lines = (line.partition(b":") for line in server.ask(b"INFO").splitlines())
    info = {key.decode(): value.decode() for key, _, value in lines}
    return ServerFacts(
        version=info.get("redis_version", "?"),
        uptime=int(info.get("uptime_in_seconds", 0)),
        memory=int(info.get("used_memory", 0)),
        max_memory=int(info.get("maxmemory", 0)),
        clients=int(info.get("connected_clients", 0)),
    )


def _processes(server: Server) -> list[Connection]:
    listed = server.ask(b"CLIENT", b"LIST")
    try:
        own = str(server.ask(b"CLIENT", b"ID"))
    except CommandRefused:
        own = ""  # then nobody learns which one is this command's
    found = []
    for row in listed.decode("utf-8", "backslashreplace").splitlines():
        fields = dict(word.partition("=")[::2] for word in row.split())
        name = fields.get("name", "")
        if name.startswith(CLIENT) or name == server.layer.options.client_name:
            found.append(_connection(name, fields, fields.get("id") == own))
    return sorted(found, key=lambda process: (process.name, -process.age, process.address))


def _connection(name: str, fields: dict[str, str], is_this: bool) -> Connection:
    def number(field: str) -> int:
        return int(fields.get(field, 0))

    return Connection(
        name=readable(name),
        address=readable(fields.get("addr", "")),
        age=number("age"),
        idle=number("idle"),
        subscriptions=number("sub"),
        patterns=number("psub"),
        output_buffer=number("obl") + number("omem"),
        is_this=is_this,
    )


def _channels(server: Server, place: bytes) -> list[bytes]:
    """Return the Redis channels of one place under the prefix that somebody is subscribed to."""
    root = b"%b:%b:" % (server.names.prefix.encode(), place)
    found = server.ask(b"PUBSUB", b"CHANNELS", escape_glob(root) + b"*")
    return list(found)


def _audience(server: Server, place: bytes) -> dict[str, int]:
    """Return how many processes are subscribed to each name of one place under the prefix."""
    counts = server.numsub(_channels(server, place))
    return {_local(channel): count for channel, count in counts.items() if count}


def _groups(server: Server) -> list[Group]:
    groups = [Group(name, count) for name, count in _audience(server, b"group").items()]
    return sorted(groups, key=lambda group: (-group.processes, group.name))


def _lengths(server: Server) -> dict[str, int | None]:
    keys = server.queues()
    return dict(zip(map(_local, keys), server.lengths(keys), strict=True))


def _queues(lengths: dict[str, int | None], readers: dict[str, int] | None) -> list[Queue]:
    names = sorted({*lengths, *(readers or {})})
    return [
        Queue(name, lengths.get(name, 0), None if readers is None else readers.get(name, 0))
        for name in names
    ]


def _local(name: bytes) -> str:
    """Return what stands behind the prefix and the place."""
    return readable(name.split(b":", 2)[2])
