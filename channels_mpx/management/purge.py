"""``mpx purge``: deletes worker queues, after it has shown them and asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from channels_mpx.exceptions import CommandRefused
from channels_mpx.server import BATCH, Server

from .console import Console, Line
from .formats import plural, readable, table
from .subcommand import PATIENCE, Subcommand

__all__ = ["Purge"]


class Purge(Subcommand):
    """Deletes worker queues."""

    name = "purge"
    help = "Delete what waits in worker channels: show it, ask, delete. Nothing else is touched."

    def add_arguments(self, parser: Any) -> None:
        """See `Subcommand.add_arguments`."""
        parser.add_argument("channels", nargs="*", metavar="channel", help="Worker channels.")
        parser.add_argument("--all", action="store_true", help="All worker channels of the layer.")
        parser.add_argument(
            "--no-input",
            "--noinput",
            action="store_false",
            dest="interactive",
            help="Do not ask. --json needs it.",
        )

    def run(self, console: Console, server: Server, options: dict[str, Any]) -> None:
        """See `Subcommand.run`."""
        names = list(dict.fromkeys(options["channels"]))
        if bool(names) is bool(options["all"]):
            raise CommandError("Name the worker channels to purge, or give --all.")
        if console.is_json and options["interactive"]:
            raise CommandError("With --json nobody can be asked: give --no-input too.")
        given = [_queue(server, name) for name in names]
        server.reach(PATIENCE)
        if server.is_memory:
            console.aside("memory:// has only the queues of this very process.", "WARNING")
        keys = server.queues() if options["all"] else given
        found = {
            key: length
            for key, length in zip(keys, server.lengths(keys), strict=True)
            if length != 0
        }
        if not console.is_json:
            _show(console, server, found)
        is_agreed = not options["interactive"] or (bool(found) and _ask(console, found))
        deleted = _delete(server, list(found)) if is_agreed else {}
        if console.is_json:
            document = {_name(key): length for key, length in deleted.items()}
            console.document({"layer": options["layer"], "deleted": document})
        elif deleted:
            total = sum(length or 0 for length in deleted.values())
            console.line(f"Deleted {plural(total, 'message')}.", "SUCCESS")
        elif found:
            console.line("Nothing was deleted.")


def _queue(server: Server, name: str) -> bytes:
    """Return the key of a worker channel's queue, if there can be one of that name."""
    if "!" in name:
        raise CommandError(
            f"{readable(name)} is a consumer's own channel: what waits in it waits in its process."
        )
    try:
        return server.queue_key(name)
    except TypeError as error:
        raise CommandError(readable(str(error))) from error


def _name(key: bytes) -> str:
    return readable(key.split(b":", 2)[2])


def _show(console: Console, server: Server, found: dict[bytes, int | None]) -> None:
    if not found:
        console.line("Nothing waits there.")
        return
    rows = [(_name(key), "no list" if length is None else length) for key, length in found.items()]
    console.line(f"On {server.address}, under the prefix {server.names.prefix}:", "MIGRATE_HEADING")
    console.lines(Line(f"  {line}") for line in table(("channel", "waiting"), rows))


def _ask(console: Console, found: dict[bytes, int | None]) -> bool:
    total = sum(length or 0 for length in found.values())
    what = f"{plural(total, 'message')} in {plural(len(found), 'queue')}"
    console.line(f"Delete {what}? They cannot be brought back. Type 'yes' to do it:", "WARNING")
    try:
        return input().strip().lower() == "yes"
    except (EOFError, OSError, RuntimeError):  # at its end, a background job's, closed
        raise CommandError("Nobody answers; --no-input deletes without asking.") from None


def _delete(server: Server, keys: Sequence[bytes]) -> dict[bytes, int | None]:
    """Delete queues; return what was in each. One that is gone meanwhile is left out."""
    deleted: dict[bytes, int | None] = {}
    for start in range(0, len(keys), BATCH):
        batch = keys[start : start + BATCH]
        # Both of a pair leave in one write, so what is counted is what goes.
        replies = server.ask_each(
            command for key in batch for command in ((b"LLEN", key), (b"UNLINK", key))
        )
        for key, length, unlinked in zip(batch, replies[::2], replies[1::2], strict=True):
            if isinstance(unlinked, CommandRefused):
                raise unlinked
            if unlinked:
                deleted[key] = None if isinstance(length, CommandRefused) else length
    return deleted
