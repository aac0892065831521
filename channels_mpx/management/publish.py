"""``mpx publish``: one message to a group, to a channel of the layer, or to any Redis channel."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from channels.exceptions import ChannelFull, MessageTooLarge
from django.core.management.base import CommandError

from channels_mpx.exceptions import UnknownChannel
from channels_mpx.server import Server

from .console import Console
from .formats import plural, readable
from .subcommand import PATIENCE, Subcommand
from .tail import encode

__all__ = ["Publish"]


class Publish(Subcommand):
    """Sends one message."""

    name = "publish"
    help = "Send one message to a Redis channel, a group, or a channel of the layer."

    def add_arguments(self, parser: Any) -> None:
        """See `Subcommand.add_arguments`."""
        parser.add_argument("name", help="Where to.")
        parser.add_argument(
            "message",
            help='The payload as it is; with --group or --channel a JSON object with a "type".',
        )
        kinds = parser.add_mutually_exclusive_group()
        kinds.add_argument("--group", action="store_true", help="The name is a group.")
        kinds.add_argument(
            "--channel",
            action="store_true",
            help="It is a channel of the layer: a consumer's or a worker's.",
        )

    def run(self, console: Console, server: Server, options: dict[str, Any]) -> None:
        """See `Subcommand.run`."""
        name, text = options["name"], options["message"]
        if options["group"] and options["channel"]:
            raise CommandError("The name is a group or a channel: give one of the options.")
        if options["group"] or options["channel"]:
            message = _parse(text)
            server.reach(PATIENCE)
            send: Callable[[str, dict[str, Any]], int | None]
            send = server.send_to_group if options["group"] else server.send
            try:
                receivers = send(name, message)
            except (TypeError, ChannelFull, MessageTooLarge) as error:
                raise CommandError(_explain(error, name)) from error
        else:
            receivers = _publish(server, name, text)
        if receivers == 0 and options["channel"]:
            raise UnknownChannel(channel=name)
        if server.is_memory:
            console.aside("memory:// reaches this very process only.", "WARNING")
        if console.is_json:
            console.document({"name": name, "receivers": receivers})
        elif receivers is None:
            console.line(f"Put into the queue of {readable(name)}.")
        else:
            console.line(f"Redis gave it to {plural(receivers, 'receiver')}.")
        if receivers == 0 and not options["group"]:
            console.aside(
                f"Nobody listens to the channel {readable(name)} in Redis. A group takes --group, a"
                " channel of the layer --channel.",
                "WARNING",
            )


def _publish(server: Server, name: str, text: str) -> int:
    """Publish a payload on a plain Redis channel."""
    channel = encode(name)
    if not channel:
        raise CommandError("A channel cannot have an empty name.")
    if server.names.covers(channel):
        raise CommandError(
            f"{readable(name)} is the layer's own, where a plain payload is garbage: name the group"
            " with --group, or the channel with --channel."
        )
    server.reach(PATIENCE)
    return server.call(server.hub.publish, channel, encode(text))


def _parse(text: str) -> dict[str, Any]:
    """Return the message in a JSON text."""
    try:
        message = json.loads(text)
    except ValueError as error:
        raise CommandError(f"The message is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise CommandError(f"The message must be a JSON object, not {readable(text)}")
    if not isinstance(message.get("type"), str) or not message["type"]:
        raise CommandError(
            'The message needs a "type" that names a handler: a consumer without one for it fails.'
        )
    return message


def _explain(error: Exception, name: str) -> str:
    """Return what Channels means; its `ChannelFull` has no text but the name."""
    if isinstance(error, ChannelFull):
        return f"The channel {readable(name)} is full: as many messages wait as may."
    return readable(str(error))
