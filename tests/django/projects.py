"""Small projects of users, whose tests are run."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from tests.installed import write_metadata

ROOT = Path(__file__).parent.parent.parent
PYTEST = """
[tool.pytest.ini_options]
filterwarnings = ["error"]
"""
ASYNCIO = """
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
"""
SETTINGS = """
SECRET_KEY = "only for tests"
INSTALLED_APPS = ["channels"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_mpx.MultiplexedChannelLayer",
        "CONFIG": {"hosts": ["redis://192.0.2.1"], "capacity": 7, "prefix": "mine",
                   "symmetric_encryption_keys": ["key"]},
    },
    "other": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
}
"""

CONSUMERS = """
from channels.generic.websocket import AsyncJsonWebsocketConsumer, WebsocketConsumer

from channels_mpx.consumers import MultiplexedConsumerMixin


class Plain(AsyncJsonWebsocketConsumer):
    groups = ["room"]

    async def receive_json(self, content):
        await self.channel_layer.group_send("room", {"type": "said", **content})

    async def said(self, event):
        await self.send_json(event["text"])


class Mixed(MultiplexedConsumerMixin, Plain):
    pass


class Sync(WebsocketConsumer):
    groups = ["room"]

    def said(self, event):
        self.send(text_data='"%s"' % event["text"])
"""


class Project:
    """A project of a user, into which channels_mpx is installed.

    Args:
        pytester: Makes and runs it.
        monkeypatch: For its environment.
    """

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        site = pytester.mkdir("site")
        write_metadata(site)
        monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}:{pytester.path}")
        monkeypatch.setenv("PYTHONDEVMODE", "1")
        monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "mysite")
        self._pytester = pytester
        self._monkeypatch = monkeypatch
        self._options = ["-p", "no:cacheprovider"]
        pytester.makepyprojecttoml(f"{PYTEST}{ASYNCIO}")
        pytester.makepyfile(mysite=SETTINGS, mychat=CONSUMERS)

    def make_plain(self) -> None:
        """Have no Django settings, and no other plugins."""
        self._monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
        self._pytester.makepyprojecttoml(PYTEST)
        self._options += ["-p", "no:django", "-p", "no:asyncio"]

    def run(self, source: str, *arguments: str) -> pytest.RunResult:
        """Run one file of tests with pytest, in a process of its own."""
        self._pytester.makepyfile(test_it=textwrap.dedent(source))
        return self._pytester.run(sys.executable, "-m", "pytest", *self._options, *arguments)

    def passes(self, count: int, source: str, *arguments: str) -> None:
        """Run tests of which all pass, and which leave nothing to be said about."""
        done = self.run(source, *arguments)
        done.assert_outcomes(passed=count)
        said = done.stdout.str() + done.stderr.str()
        for word in ("never retrieved", "never awaited", "was destroyed", "ResourceWarning"):
            assert word not in said
