"""What people may choose: room names, their own names, what they say."""

import json
import re
from typing import Any

MAX_ROOM, MAX_NAME, MAX_TEXT, MAX_ID = 40, 24, 500, 40
ROOM = re.compile(rf"[a-z0-9-]{{1,{MAX_ROOM}}}")


class Refused(ValueError):
    """What somebody chose is not allowed; the text says why and is fit to be shown."""


def clean_room(room: str) -> str:
    """Return the room's name unchanged, or refuse it."""
    if not ROOM.fullmatch(room):
        raise Refused(f"A room's name has 1 to {MAX_ROOM} lower-case letters, digits and hyphens.")
    return room


def clean_name(name: object) -> str:
    """Return a person's name without needless space and invisible characters."""
    return _line(name, "Your name", MAX_NAME)


def clean_text(text: object) -> str:
    """Return what somebody says as one line."""
    return _line(text, "A message", MAX_TEXT)


def read_message(text: str | None) -> dict[str, Any]:
    """Read what a page sent: a JSON object with a `type` and a short `id` to answer to."""
    try:
        message = json.loads(text or "")
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise Refused("Send a JSON object.")
    if not isinstance(message.get("id"), str) or len(message["id"]) > MAX_ID:
        raise Refused(f"Each message needs an id of at most {MAX_ID} characters.")
    return message


def _line(value: object, what: str, limit: int) -> str:
    words = value.split() if isinstance(value, str) else []
    line = "".join(character for character in " ".join(words) if character.isprintable())
    if not line or len(line) > limit:
        raise Refused(f"{what} has 1 to {limit} characters.")
    return line
