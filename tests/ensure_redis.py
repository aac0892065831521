"""Make sure that there is a `redis-server` for the tests to start, version 6 or newer.

If it is missing, Debian's package is installed where that needs no questions asked. Otherwise one
sentence says what to install, and the exit status is 1. Needs nothing but the standard library.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

OLDEST = 6
ADVICE = (
    f"The tests need redis-server {OLDEST} or newer on PATH: install it with "
    "`apt-get install redis-server` (Debian, Ubuntu), `brew install redis` (macOS) "
    "or from https://redis.io/downloads/, then run this command again."
)


def find() -> str | None:
    """Return what is wrong with the installed server, or None if it will do."""
    if shutil.which("redis-server") is None:
        return "There is no redis-server here."
    text = subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout
    version = re.search(r"v=(\d+)", text)
    if version is None or int(version[1]) < OLDEST:
        return f"The redis-server here is too old or unknown ({text.strip()})."
    return None


def install(package: str) -> None:
    """Install Debian's package if we are root, or may become root without a password."""
    if shutil.which("apt-get") is None:
        return
    if os.geteuid() == 0:
        root = ["env"]
    elif (
        shutil.which("sudo")
        and not subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode
    ):
        root = ["sudo", "-n", "env"]
    else:
        return
    apt_get = [*root, "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]
    print(f"Installing {package} with apt-get.", flush=True)
    subprocess.run([*apt_get, "update"], stdin=subprocess.DEVNULL)
    packages = ["--no-install-recommends", package]
    subprocess.run([*apt_get, "install", *packages], stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    if shutil.which("redis-server") is None:
        # Its service may start, or fail to: the tests use servers of their own, on free ports.
        install("redis-server")
    if problem := find():
        sys.exit(f"{problem} {ADVICE}")
