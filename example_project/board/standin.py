"""Plays `feed.py` on `memory://`, where no other program can reach the board."""

import json
import threading
import time

from channels.layers import get_channel_layer
from feed import INTERVAL, readings


def start() -> None:
    """Feed the board from a thread of this process, for as long as it lives."""
    threading.Thread(target=_feed, name="feed", daemon=True).start()


def _feed() -> None:
    multiplexer = get_channel_layer().multiplexer
    for reading in readings():
        for name, value in reading.items():
            multiplexer.sync.publish(f"metrics.{name}", json.dumps(value))
        time.sleep(INTERVAL)
