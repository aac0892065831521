"""``manage.py mpx``: looks into a layer, and speaks through it. One module for each subcommand."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import sys
from argparse import SUPPRESS, Action
from collections.abc import Iterator
from typing import Any

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
    OutputWrapper,
)
from django.core.management.color import no_style

from channels_mpx.management.access import find_layer
from channels_mpx.management.console import Console
from channels_mpx.management.endings import in_one_sentence, terminable
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

#: What all subcommands take. It may stand before them too.
COMMON: dict[tuple[str, ...], dict[str, Any]] = {
    ("--layer",): {"metavar": "ALIAS", "help": "Which layer of CHANNEL_LAYERS: default."},
    ("--json",): {"action": "store_true", "help": "Write JSON, one document in each line."},
}


class Misplaced(Action):
    """An option of some subcommands that stands before them: says where it belongs."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """See `argparse.Action`."""
        parser.error(f"{option_string} stands behind the subcommand: mpx {self.const} …")


class Command(BaseCommand):  # type: ignore[misc, unused-ignore]
    """Looks into a layer, and speaks through it.

    The system checks are not run before it: it must work when something else is wrong.
    """

    help = "Looks into a channel layer of channels_mpx, and speaks through it."
    requires_system_checks = ()

    def add_arguments(self, parser: Any) -> None:
        """Add the subcommands. Each takes the options that all have, Django's among them."""
        # What is shortened behind the subcommand would be looked for among those before it too.
        parser.allow_abbrev = False
        parser.set_defaults(layer="default")
        common = CommandParser(add_help=False)
        for names, rest in COMMON.items():
            parser.add_argument(*names, **rest)
        for names, rest in {**COMMON, **DJANGOS_OWN}.items():
            common.add_argument(*names, **rest, default=SUPPRESS)
        subparsers = parser.add_subparsers(dest="subcommand", required=True, title="subcommands")
        for subcommand in SUBCOMMANDS.values():
            subparser = subparsers.add_parser(
                subcommand.name,
                help=subcommand.help,
                description=subcommand.help,
                parents=[common],
                formatter_class=DjangoHelpFormatter,
            )
            subcommand.add_arguments(subparser)
        self._add_misplaced(parser)

    def _add_misplaced(self, parser: Any) -> None:
        """Have the options of the subcommands explained where they do not belong."""
        owners: dict[str, list[str]] = {}
        destinations: dict[str, str] = {}
        for subcommand in SUBCOMMANDS.values():
            own = CommandParser(add_help=False)
            subcommand.add_arguments(own)
            for action in own._actions:
                for option in action.option_strings:
                    owners.setdefault(option, []).append(f"{subcommand.name} {option}")
                    destinations[option] = action.dest
        for option, uses in owners.items():
            parser.add_argument(
                option,
                dest=destinations[option],  # as `call_command` knows it
                action=Misplaced,
                nargs="?",
                const=" or mpx ".join(uses),
                default=SUPPRESS,
                help=SUPPRESS,
            )

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
        self._adopt(options)
        console = Console(
            self.stdout, self.stderr, self.style, options["json"], options["force_color"]
        )
        with terminable(), in_one_sentence(not options.get("stdout")), _unlogged():
            server = Server(find_layer(options["layer"]))
            SUBCOMMANDS[options["subcommand"]].run(console, server, options)

    def _adopt(self, options: dict[str, Any]) -> None:
        """See to what Django leaves open: streams that are closed, and https://no-color.org."""
        if sys.stderr is None and not options.get("stderr"):
            self.stderr = OutputWrapper(io.StringIO())  # who closed it wants to hear nothing
        if sys.stdout is None and not options.get("stdout"):
            raise CommandError("stdout is closed: there is nowhere to write to.")
        if os.environ.get("NO_COLOR") and not options["force_color"]:
            self.style = no_style()
            self.stderr.style_func = None


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
