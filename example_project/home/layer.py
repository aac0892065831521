"""What carries the channel layer, for people to see."""

import re

from django.conf import settings
from django.http import HttpRequest


def host() -> str:
    """Return the layer's host as it stands in the settings."""
    return str(settings.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"][0])


def is_on_redis() -> bool:
    """Tell whether other programs can reach the layer; on `memory://` none can."""
    return not host().startswith("memory://")


def context(request: HttpRequest) -> dict[str, object]:
    """Tell every template the same (a context processor)."""
    return {"is_on_redis": is_on_redis(), "layer_host": without_secrets(host())}


def without_secrets(url: str) -> str:
    """Return a URL without user, password and query; what is not clear is left out."""
    scheme, separator, rest = url.partition("://")
    place, *tail = re.split("[?#]", rest, maxsplit=1)
    if not separator or "@" in "".join(tail):
        return f"{scheme}://…" if separator else "…"
    hidden = "…@" if "@" in place else ""
    return f"{scheme}://{hidden}{place.rpartition('@')[2]}"
