"""``mpx status``: a layer as Redis sees it, once or again and again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError

from channels_mpx.exceptions import LinkError
from channels_mpx.server import Server

from .census import Census, Connection, take_census
from .console import Console, Line
from .formats import age, plural, size, table
from .subcommand import PATIENCE, Subcommand, count, seconds

__all__ = ["Status"]

#: Seconds between two pictures, and how much of each list a person is shown.
INTERVAL = 2.0
SHOWN = 20


class Status(Subcommand):
    """Shows processes, groups, patterns and worker queues."""

    name = "status"
    help = "Show the layer as Redis sees it: server, processes, groups, patterns, worker queues."

    def add_arguments(self, parser: Any) -> None:
        """See `Subcommand.add_arguments`."""
        parser.add_argument(
            "--watch",
            nargs="?",
            type=seconds,
            const=INTERVAL,
            metavar="SECONDS",
            help=f"Show it again and again, every {INTERVAL:g} seconds or as given, until Ctrl-C.",
        )
        parser.add_argument(
            "--limit",
            type=count,
            metavar="N",
            help=f"Show so many groups and queues: {SHOWN} on a terminal, else all of them.",
        )

    def run(self, console: Console, server: Server, options: dict[str, Any]) -> None:
        """See `Subcommand.run`."""
        if server.is_memory:
            raise CommandError(
                f"The layer {options['layer']!r} is memory://, which lives within one process:"
                " there is no server to look at."
            )
        server.reach(PATIENCE)
        picture = _Picture(console, server, options["layer"], options["limit"])
        if options["watch"] is None:
            picture.show()
        else:
            picture.watch(options["watch"])


class _Picture:
    """Takes pictures of a layer, and shows them."""

    def __init__(self, console: Console, server: Server, alias: str, limit: int | None) -> None:
        self._console = console
        self._server = server
        self._alias = alias
        self._limit = limit or (SHOWN if console.is_watched else None)

    def show(self) -> None:
        """Show one picture."""
        census = take_census(self._server)
        if self._console.is_json:
            self._console.document(self._document(census))
        else:
            self._console.lines(self._lines(census))

    def watch(self, interval: float) -> None:
        """Show pictures until Ctrl-C. Losing the server ends nothing: it may come back."""
        screen = self._console.screen() if self._console.is_watched else contextlib.nullcontext()
        try:
            with screen:
                while True:
                    self._show_again(interval)
                    time.sleep(interval)
        except KeyboardInterrupt:
            return

    def _show_again(self, interval: float) -> None:
        console, now = self._console, time.strftime("%H:%M:%S")
        head = Line(f"{now}, every {interval:g} s; Ctrl-C ends", "MIGRATE_LABEL")
        try:
            census = take_census(self._server)
        except LinkError as error:
            if console.is_watched:
                console.draw([head, Line(str(error), "ERROR")])
            else:
                console.aside(f"{now}  {error}", "ERROR")
            return
        if console.is_watched:
            console.draw([head, *self._lines(census)])
        elif console.is_json:
            console.document(self._document(census))
        else:
            console.lines([Line(now), *self._lines(census), Line("")])

    def _document(self, census: Census) -> dict[str, Any]:
        document = asdict(census)
        for name in ("groups", "queues"):
            document[name] = document[name] and document[name][: self._limit]
        return {
            "layer": self._alias,
            "prefix": self._server.names.prefix,
            "address": self._server.address,
            "time": time.time(),
            **document,
        }

    def _lines(self, census: Census) -> Iterator[Line]:
        prefix, address = self._server.names.prefix, self._server.address
        yield Line(f"Layer {self._alias}, prefix {prefix}, on {address}", "MIGRATE_HEADING")
        if census.server is not None:
            facts = census.server
            limit = f"of {size(facts.max_memory)}" if facts.max_memory else "without a limit"
            yield Line(
                f"Redis {facts.version}, {census.role or 'of unknown role'}, up {age(facts.uptime)},"
                f" memory {size(facts.memory)} {limit}, {plural(facts.clients, 'client')}"
            )
        elif census.role is not None:
            yield Line(f"Redis, {census.role}")
        if census.patterns is not None:
            yield Line(f"Patterns, of all clients of the server: {census.patterns:,}")
        yield from self._processes(census)
        yield from self._groups(census)
        yield from self._queues(census)
        for note in census.notes:
            yield Line(f"not shown, {note}", "WARNING")

    def _processes(self, census: Census) -> Iterator[Line]:
        if census.processes is None:
            return
        inboxes = ""
        if census.listening is not None:
            inboxes = f", {census.listening:,} with an inbox under {self._server.names.prefix}:"
        yield Line("")
        yield Line(f"{plural(len(census.processes), 'connection')}{inboxes}", "MIGRATE_LABEL")
        header = ("process", "address", "age", "idle", "subscribed", "patterns", "output buffer")
        yield from _rows(header, [_process_row(process) for process in census.processes], texts=2)

    def _groups(self, census: Census) -> Iterator[Line]:
        if census.groups is not None:
            yield Line("")
            yield Line(plural(len(census.groups), "group"), "MIGRATE_LABEL")
            rows = [(group.name, group.processes) for group in census.groups[: self._limit]]
            yield from _rows(("group", "processes"), rows)
            yield from self._rest(len(census.groups))

    def _queues(self, census: Census) -> Iterator[Line]:
        if census.queues is not None:
            yield Line("")
            yield Line(plural(len(census.queues), "worker channel"), "MIGRATE_LABEL")
            rows = [
                (
                    queue.name,
                    "no list" if queue.length is None else queue.length,
                    "?" if queue.readers is None else queue.readers,
                )
                for queue in census.queues[: self._limit]
            ]
            yield from _rows(("channel", "waiting", "readers"), rows)
            yield from self._rest(len(census.queues))

    def _rest(self, number: int) -> Iterator[Line]:
        if self._limit is not None and number > self._limit:
            yield Line(f"  … and {number - self._limit:,} more; see --limit")


def _process_row(process: Connection) -> tuple[object, ...]:
    return (
        process.name + (" (this command)" if process.is_this else ""),
        process.address,
        age(process.age),
        age(process.idle),
        process.subscriptions,
        process.patterns,
        size(process.output_buffer),
    )


def _rows(header: tuple[str, ...], rows: list[tuple[Any, ...]], texts: int = 1) -> Iterator[Line]:
    if rows:
        head, *body = table(header, rows, texts)
        yield Line(f"  {head}", "SQL_COLTYPE")
        yield from (Line(f"  {line}") for line in body)
