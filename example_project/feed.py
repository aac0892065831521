#!/usr/bin/env python
"""Feed the live board: `REDIS_URL=redis://localhost:6379/0 python example_project/feed.py`.

A plain program that knows redis-py, and neither Django nor channels_mpx. It measures nothing: the
values are made up, as those of a small web server might be.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterator

import redis

INTERVAL = 1.0  # seconds between two readings


def readings() -> Iterator[dict[str, float]]:
    """Yield what is measured, once for each reading."""
    load, memory, rush = 0.4, 6.2e9, 0
    while True:
        rush = rush - 1 if rush else random.choice([0] * 24 + [12])  # now and then a busy while
        load += random.gauss(0, 0.03) + ((0.85 if rush else 0.4) - load) * 0.15
        load = min(max(load, 0.05), 0.99)
        memory = min(max(memory + random.gauss(0, 1.5e7) + (load - 0.45) * 3e7, 5e9), 8e9)
        yield {
            "requests": round(2900 * load * random.uniform(0.96, 1.04)),
            "latency": round(24 + 190 * load**4 + random.expovariate(0.4)),
            "errors": round(0.05 + max(0.0, load - 0.7) * 4 + random.uniform(0, 0.08), 2),
            "cpu": round(min(100, 100 * load + random.uniform(-2, 2)), 1),
            "memory": round(memory),
            "visitors": round(1200 + 1500 * load + random.gauss(0, 8)),
        }


def main() -> None:
    """Publish a reading every second until Ctrl-C; while Redis is away, say so and go on trying."""
    parser = argparse.ArgumentParser(description="Publishes made-up metrics for the live board.")
    parser.add_argument("--url", default=os.environ.get("REDIS_URL"), help="default: REDIS_URL")
    parser.add_argument("--interval", type=float, default=INTERVAL, help=f"default: {INTERVAL} s")
    options = parser.parse_args()
    if not options.url or options.url.startswith("memory://"):
        sys.exit("There is no Redis to publish to: give --url, or set REDIS_URL.")
    with redis.Redis.from_url(options.url) as server:
        for reading in readings():
            try:
                for name, value in reading.items():
                    server.publish(f"metrics.{name}", json.dumps(value))
            except (redis.ConnectionError, redis.TimeoutError) as error:
                print(f"Not published: {error}", flush=True)
            else:
                print(json.dumps(reading), flush=True)
            time.sleep(options.interval)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
