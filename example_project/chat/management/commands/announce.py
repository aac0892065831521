"""Speak to a room from the command line: plain sync code, no event loop."""

from argparse import ArgumentParser
from typing import Any

from channels.layers import get_channel_layer
from django.core.management.base import BaseCommand, CommandError
from home.layer import is_on_redis
from home.rules import Refused, clean_text

from channels_mpx.exceptions import LinkError, MPXError
from chat.consumers import room_group


class Command(BaseCommand):
    """`manage.py announce lobby "The tea is ready."`"""

    help = "Shows an announcement to everybody in a room of the chat."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take a room and a text, the text with or without quotes around it."""
        parser.add_argument("room", help="name of the room, for instance: lobby")
        parser.add_argument("text", nargs="+", help="what to say")

    def handle(self, *args: Any, **options: Any) -> None:
        """Send one message to the room's group."""
        try:
            group, text = room_group(options["room"]), clean_text(" ".join(options["text"]))
        except Refused as refusal:
            raise CommandError(str(refusal)) from refusal
        if not is_on_redis():
            raise CommandError(
                "The chat runs on memory://, which no other process can reach. Start it with"
                " REDIS_URL set, for instance to redis://localhost:6379/0, and set the same here."
            )
        try:
            layer = get_channel_layer()
            layer.sync.group_send(group, {"type": "chat.announcement", "text": text})
        except LinkError as error:
            raise CommandError(
                f"{error}\nIs Redis running there, and is REDIS_URL the same as the chat's?"
            ) from error
        except MPXError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"Told {options['room']}: {text}")
