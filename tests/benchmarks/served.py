"""The application that Daphne and uvicorn serve: ``PEER`` and ``URL`` come from the environment."""

from __future__ import annotations

import os

from tests.benchmarks.context import prepare

prepare("asyncio")  # the server itself decides on its loop

from tests.benchmarks.apps import install_layer, listener  # noqa: E402  (Django is ready now)

install_layer(os.environ["PEER"], os.environ["URL"])
application = listener(os.environ["PEER"])
