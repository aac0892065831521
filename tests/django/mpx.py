"""Runs ``manage.py mpx``: in this process, where its output can be looked at, or in one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from channels.layers import channel_layers
from django.core.management import CommandError, call_command
from django.test import override_settings

from channels_mpx.management.commands.mpx import Command
from channels_mpx.testing import Broker
from tests.layers import environment

BACKEND = "channels_mpx.MultiplexedChannelLayer"

#: The commands that an operator's user needs; a test holds the documentation against them.
OPERATOR = (
    "+ping +role +client|setname +client|list +client|id +info +config|get"
    " +pubsub|channels +pubsub|numsub +pubsub|numpat"
    " +publish +subscribe +unsubscribe +psubscribe +punsubscribe"
    " +eval +evalsha +time +lpop +rpush +lindex +llen +pexpire +pttl +scan +unlink"
)


def operator(commands: str = OPERATOR) -> str:
    """Return the ACL rules of an operator's user, who may give these commands."""
    return f"operator on >pw resetchannels ~mpx:* &mpx:* &mpx:group:* -@all {commands}"


@dataclass(frozen=True)
class Outcome:
    """What became of a command."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[Any]:
        """The JSON documents in the output."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> Any:
        """The only one of them."""
        (document,) = self.documents
        return document


class Output(io.StringIO):
    """Output that somebody may watch, and interrupt after so many writes of a text."""

    def __init__(self, is_tty: bool = False, enough: tuple[str, int] | None = None) -> None:
        super().__init__()
        self._is_tty = is_tty
        self._enough = enough

    def end_after(self, text: str, times: int) -> None:
        """Press Ctrl-C when a text has been written so many times."""
        self._enough = text, times

    def isatty(self) -> bool:
        """See `io.IOBase.isatty`."""
        return self._is_tty

    def write(self, text: str) -> int:
        """See `io.TextIOBase.write`."""
        written = super().write(text)
        if self._enough is not None and self.getvalue().count(self._enough[0]) >= self._enough[1]:
            self._enough = None
            raise KeyboardInterrupt
        return written


def setting(hosts: str, backend: str = BACKEND, **config: Any) -> dict[str, Any]:
    """Return the entry of an alias."""
    return {"BACKEND": backend, "CONFIG": {"hosts": [hosts], **config}}


class Manager:
    """Runs commands on ``CHANNEL_LAYERS``, in this process.

    Args:
        layers: Entries by alias.
    """

    def __init__(self, layers: dict[str, Any]) -> None:
        self._settings = override_settings(CHANNEL_LAYERS=layers)

    def __enter__(self) -> Manager:
        self._settings.enable()
        return self

    def __exit__(self, *_: object) -> None:
        layers = dict(channel_layers.backends)
        self._settings.disable()
        # A running loop may be the test's, which closing would block.
        closing = threading.Thread(target=lambda: [close(layer) for layer in layers.values()])
        closing.start()
        closing.join()

    def run(
        self, *words: str, out: Output | None = None, err: Output | None = None, **options: Any
    ) -> Outcome:
        """Run a command in this thread."""
        stdout, stderr = out or Output(), err or Output()
        try:
            call_command(Command(), *words, stdout=stdout, stderr=stderr, **options)
        except CommandError as error:
            return Outcome(error.returncode, stdout.getvalue(), f"{stderr.getvalue()}{error}")
        return Outcome(0, stdout.getvalue(), stderr.getvalue())

    async def __call__(self, *words: str, **options: Any) -> Outcome:
        """Run a command in another thread, while this one's loop goes on."""
        return await asyncio.to_thread(self.run, *words, **options)


def close(layer: Any) -> None:
    """Close a layer of ours."""
    if hasattr(layer, "sync"):
        layer.sync.close()


MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "tiny_settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""

SETTINGS = """
import json, os
SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["channels", "channels_mpx"]
CHANNEL_LAYERS = json.loads(os.environ["LAYERS"])
"""


class Project:
    """A tiny project whose ``manage.py`` runs in processes of its own.

    Args:
        directory: An empty one.
        layers: Its ``CHANNEL_LAYERS``.
    """

    def __init__(self, directory: Path, layers: dict[str, Any]) -> None:
        self._directory = directory
        self._layers = json.dumps(layers)
        (directory / "manage.py").write_text(MANAGE)
        (directory / "tiny_settings.py").write_text(SETTINGS)

    @contextlib.contextmanager
    def running(self, *words: str, **streams: Any) -> Iterator[subprocess.Popen[str]]:
        """Run ``manage.py`` with these words while the context lasts."""
        given: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            # Not -X dev: asyncio's debug mode reports whatever is slow on a busy machine.
            [sys.executable, "-W", "error", "manage.py", *words],
            cwd=self._directory,
            env=environment(LAYERS=self._layers, COLUMNS="120", LINES="40"),
            text=True,
            **{**given, **streams},
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def manage(self, *words: str, text: str = "") -> Outcome:
        """Run ``manage.py`` to its end, with ``text`` as its input."""
        with self.running(*words) as process:
            out, err = process.communicate(text, timeout=60)
        return Outcome(process.returncode, out, err)


def interrupt(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> Outcome:
    """Press Ctrl-C, or send another signal, and wait for the end."""
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return Outcome(process.returncode, out, err)


@contextlib.contextmanager
def on_broker() -> Iterator[tuple[Broker, Manager]]:
    """Commands on a broker that fails on demand."""
    broker = Broker()
    hosts = f"memory://{broker._name}"
    with Manager({"default": setting(hosts)}) as manager:
        yield broker, manager
