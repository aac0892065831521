"""``manage.py mpx``: looks into a layer, and speaks through it. One module for each subcommand."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from argparse import SUPPRESS
from collections.abc import Iterator
from typing import Any

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)

from channels_mpx.exceptions import MPXError
from channels_mpx.management.access import find_layer
from channels_mpx.management.console import Console
from channels_mpx.management.ping import Ping
from channels_mpx.management.publish import Publish
from channels_mpx.management.purge import Purge
from channels_mpx.management.status import Status
from channels_mpx.management.subcommand import Subcommand
from channels_mpx.management.tail import Tail
from channels_mpx.server import Server

__all__ = ["SUBCOMMANDS", "Command"]

SUBCOMMANDS: dict[str, Subcommand] = {
    subcommand.name: subcommand for subcommand in (Status(), Ping(), Tail(), Publish(), Purge())
}

#: Options that Django takes before the subcommand, where nobody looks for them. They have no
#: defaults here, which would undo what was given there.
DJANGOS_OWN: dict[tuple[str, ...], dict[str, Any]] = {
    ("--settings",): {"help": "The Python path to a settings module."},
    ("--pythonpath",): {"help": "A directory to add to the Python path."},
    ("-v", "--verbosity"): {"type": int, "choices": (0, 1, 2, 3), "help": "Of no effect here."},
    ("--traceback",): {"action": "store_true", "help": "Show a traceback with an error."},
    ("--no-color",): {"action": "store_true", "help": "Don't colorize the output."},
    ("--force-color",): {"action": "store_true", "help": "Force colorization of the output."},
}

#: The exit code of a command that Ctrl-C has ended before it could do anything: 128 + SIGINT.
INTERRUPTED = 130


class Command(BaseCommand):  # type: ignore[misc, unused-ignore]
    """Looks into a layer, and speaks through it.

    The system checks are not run before it: it must work when something else is wrong.
    """

    help = "Looks into a channel layer of channels_mpx, and speaks through it."
    requires_system_checks = ()

    def add_arguments(self, parser: Any) -> None:
        """Add the subcommands. Each takes the options that all have, Django's among them."""
        common = self._common()
        subparsers = parser.add_subparsers(
            dest="subcommand", required=True, title="subcommands", metavar="subcommand"
        )
        for subcommand in SUBCOMMANDS.values():
            subparser = subparsers.add_parser(
                subcommand.name,
                help=subcommand.help,
                description=subcommand.help,
                parents=[common],
                formatter_class=DjangoHelpFormatter,
            )
            subcommand.add_arguments(subparser)

    def _common(self) -> CommandParser:
        """Return a parser of the options that may stand behind every subcommand."""
        parser = CommandParser(add_help=False)
        parser.add_argument(
            "--layer",
            default="default",
            metavar="ALIAS",
            help="Which layer of CHANNEL_LAYERS: %(default)s.",
        )
        parser.add_argument(
            "--json", action="store_true", help="Write JSON, one document in each line."
        )
        for names, rest in DJANGOS_OWN.items():
            parser.add_argument(*names, default=SUPPRESS, **rest)
        return parser

    def handle(self, *args: Any, **options: Any) -> None:
        """Run a subcommand.

        Raises:
            CommandError: Something is wrong; says what in one sentence.
        """
        if asyncio._get_running_loop() is not None:
            raise CommandError(
                "mpx blocks, and this thread runs an event loop: call it in another thread, for"
                " example with asyncio.to_thread."
            )
        console = Console(
            self.stdout, self.stderr, self.style, options["json"], options["force_color"]
        )
        with _in_one_sentence(has_own_stdout=not options.get("stdout")), _unlogged():
            server = Server(find_layer(options["layer"]))
            SUBCOMMANDS[options["subcommand"]].run(console, server, options)


@contextlib.contextmanager
def _in_one_sentence(has_own_stdout: bool) -> Iterator[None]:
    """Turn what may go wrong into what Django shows to people."""
    try:
        yield
    except MPXError as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        raise CommandError("Interrupted.", returncode=INTERRUPTED) from None
    except BrokenPipeError:
        if not has_own_stdout:
            raise  # it belongs to whoever called us, as the process's own stdout does then
        # Whoever read our output has enough of it, as `head` has. Python's own advice (signal,
        # Note on SIGPIPE): nothing must be flushed into that pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Keep warnings from the terminal that nobody has configured a handler for.

    What they say is in the command's own words too.
    """
    package, handler = logging.getLogger("channels_mpx"), logging.NullHandler()
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
