#!/usr/bin/env python
"""Start the chat under Daphne: `python example_project/start.py --port 8000`."""

import argparse
import os
import re
import sys

from daphne.endpoints import build_endpoint_description_strings
from daphne.server import Server


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(description="A chat with rooms, on channels_mpx.")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--bind", default="127.0.0.1", help="default: 127.0.0.1")
    options = parser.parse_args()

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from channels.layers import get_channel_layer
    from config.asgi import application

    from channels_mpx.exceptions import MPXError

    try:
        get_channel_layer()  # now rather than at the first socket, if the settings are wrong
    except MPXError as error:
        sys.exit(str(error))
    server = Server(
        application,
        endpoints=build_endpoint_description_strings(host=options.bind, port=options.port),
        ready_callable=lambda: print(banner(options.bind, server), flush=True),
    )
    server.run()
    if server.abort_start:
        sys.exit(f"Nothing could listen on {options.bind}, port {options.port}.")


def banner(bind: str, server: Server) -> str:
    """Say where the chat is and what carries it."""
    from django.conf import settings

    layer = settings.CHANNEL_LAYERS["default"]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)
    address = f"[{host}]" if ":" in host else host
    return (
        f"Chat:   http://{address}:{server.listening_addresses[0][1]}/\n"
        f"Layer:  {layer['BACKEND']} on {without_secrets(layer['CONFIG']['hosts'][0])}\n"
        "Ctrl-C ends it."
    )


def without_secrets(url: str) -> str:
    """Return a URL without user, password and query; what is not clear is left out."""
    scheme, separator, rest = url.partition("://")
    place, *tail = re.split("[?#]", rest, maxsplit=1)
    if not separator or "@" in "".join(tail):
        return f"{scheme}://…" if separator else "…"
    hidden = "…@" if "@" in place else ""
    return f"{scheme}://{hidden}{place.rpartition('@')[2]}"


if __name__ == "__main__":
    main()
