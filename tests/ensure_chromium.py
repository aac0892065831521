"""Make sure that there is a Chromium for the browser tests to start.

If it is missing, Debian's package is installed where that needs no questions asked. Otherwise one
sentence says what to install, and the exit status is 1. Needs nothing but the standard library.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.ensure_redis import install

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ADVICE = (
    "The browser tests need Chromium on PATH: install it with `apt-get install chromium` (Debian) "
    "or from https://www.chromium.org/getting-involved/download-chromium/, then run this command "
    "again."
)


def find() -> str | None:
    """Return the path of a browser that will do, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


if __name__ == "__main__":
    if find() is None:
        install("chromium")
    if find() is None:
        sys.exit(f"There is no Chromium here. {ADVICE}")
