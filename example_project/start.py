#!/usr/bin/env python
"""Start the example under Daphne: `python example_project/start.py --port 8000`."""

import argparse
import os
import sys

import redis
from daphne.endpoints import build_endpoint_description_strings
from daphne.server import Server


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(description="channels_mpx at work, in four pages.")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--bind", default="127.0.0.1", help="default: 127.0.0.1")
    options = parser.parse_args()

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from board import standin
    from channels.layers import get_channel_layer
    from config.asgi import application
    from home.layer import is_on_redis

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
    if not is_on_redis():
        standin.start()
    server.run()
    if server.abort_start:
        sys.exit(
            f"Nothing could listen on {options.bind}, port {options.port}. Choose another port with "
            f"--port {options.port + 1}; behind tox: `-- --port {options.port + 1}`."
        )


def banner(bind: str, server: Server) -> str:
    """Say where the example is, what carries it, and what feeds its board."""
    from django.conf import settings
    from home.layer import host, is_on_redis, without_secrets

    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)
    address = f"[{name}]" if ":" in name else name
    feed = "python example_project/feed.py, in another terminal"
    return (
        f"Pages:  http://{address}:{server.listening_addresses[0][1]}/\n"
        f"Layer:  {settings.CHANNEL_LAYERS['default']['BACKEND']} on {without_secrets(host())}\n"
        f"Board:  fed by {feed if is_on_redis() else 'this process: no other can reach it'}\n"
        f"{trouble()}"
        "Ctrl-C ends it."
    )


def trouble() -> str:
    """Return a line about a Redis that does not answer within 2 s; nothing if it does."""
    from home.layer import host, is_on_redis

    if not is_on_redis():
        return ""
    try:
        with redis.Redis.from_url(host(), socket_connect_timeout=2, socket_timeout=2) as client:
            client.ping()
    except (redis.RedisError, OSError) as error:
        return f"Redis:  not reachable ({error}); the pages wait for it\n"
    return ""


if __name__ == "__main__":
    main()
