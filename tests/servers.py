"""Private Redis servers that tests may stop, kill, freeze and restart."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis

HOST = "127.0.0.1"
DEADLINE = 10.0  # seconds for a server to start or to stop


@dataclass(frozen=True)
class Certificates:
    """The files of a server certificate, and of the authority that signed it."""

    cert: Path
    key: Path
    ca: Path


class RedisServer:
    """A `redis-server` without persistence, in a directory of its own, on a free loopback port.

    The harness itself talks to the server through a unix socket, as the user `harness`. So passwords,
    ACLs, TLS and a proxy on the port are the test's alone, and so is `CLIENT KILL`; what the harness
    adds is one connection.

    Args:
        password: what the default user must give.
        users: ACL rules, as in `"alice on >secret ~mpx:* &mpx:* +@all"`.
        tls: serve the port with TLS.
        port: a fixed port; a free one otherwise, which `restart` keeps.
        config: further lines of redis.conf.
    """

    def __init__(
        self,
        *,
        password: str = "",
        users: Sequence[str] = (),
        tls: Certificates | None = None,
        port: int | None = None,
        config: Sequence[str] = (),
    ) -> None:
        self.host = HOST
        self.port = port or free_port()
        self.password = password
        self.tls = tls
        self._users = users
        self._config = config
        self._port_is_fixed = port is not None
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="mpx-", ignore_cleanup_errors=True)
        self._socket = Path(self._directory.name, "redis.sock")
        self._admin = redis.Redis(
            unix_socket_path=str(self._socket),
            username="harness",
            password="harness",
            socket_timeout=DEADLINE,
            retry=None,
            decode_responses=True,
            encoding_errors="backslashreplace",
            protocol=2,
        )

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL for the default user and database 0."""
        return self.url_for(password=self.password)

    @property
    def unix_url(self) -> str:
        """The same by way of the unix socket."""
        return f"unix://{_login('', self.password)}{self._socket}?db=0"

    def url_for(self, user: str = "", password: str = "", *, port: int | None = None) -> str:
        """Return the URL for a user, on another port if a proxy stands in front."""
        scheme, query = ("rediss", f"?ssl_ca_certs={self.tls.ca}") if self.tls else ("redis", "")
        return f"{scheme}://{_login(user, password)}{self.host}:{port or self.port}/0{query}"

    @property
    def pid(self) -> int:
        """The process id of a server that was started."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there; it may be frozen."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and return when it answers."""
        assert not self.running, "the server runs already"
        for _ in range(1 if self._port_is_fixed else 5):
            if self._try_to_start():
                self._port_is_fixed = True
                return
            if not self._port_is_fixed:  # somebody else was quicker
                self.port = free_port()
        raise RuntimeError(f"redis-server does not start:\n{self._log.read_text()}")

    def stop(self) -> None:
        """Let the server shut down in order: clients see their connections closed."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once, with SIGKILL."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill the server if it runs, and start it empty on the same port."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop the process where it is: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server run on."""
        os.kill(self.pid, signal.SIGCONT)

    def command(self, *args: Any) -> Any:
        """Run one command and return its reply, as text (INFO as a dict)."""
        return self._admin.execute_command(*args)

    def close(self) -> None:
        """End the server and remove its directory. It cannot be started again."""
        self.kill()
        self._directory.cleanup()

    @property
    def _log(self) -> Path:
        return Path(self._directory.name, "redis.log")

    def _try_to_start(self) -> bool:
        config = Path(self._directory.name, "redis.conf")
        config.write_text("".join(f"{line}\n" for line in self._lines()))
        self._process = subprocess.Popen(
            [*_dies_with_us(), "redis-server", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for pytest, whose fixtures then end the server
        )
        _started.add(self)
        deadline = time.monotonic() + DEADLINE
        while self.running and time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(self._socket))
                return bool(self._admin.ping())
            time.sleep(0.005)
        self.kill()
        return False

    def _lines(self) -> list[str]:
        lines = [
            f"bind {self.host}",
            f"dir {self._directory.name}",
            f"logfile {self._log}",
            f"unixsocket {self._socket}",
            'save ""',
            "appendonly no",
            "user harness on >harness ~* &* +@all",
            *(f"user {rules}" for rules in self._users),
        ]
        if self.password:
            lines.append(f"requirepass {self.password}")
        if self.tls:
            lines += [
                "port 0",
                f"tls-port {self.port}",
                f"tls-cert-file {self.tls.cert}",
                f"tls-key-file {self.tls.key}",
                f"tls-ca-cert-file {self.tls.ca}",
                "tls-auth-clients no",
            ]
        else:
            lines.append(f"port {self.port}")
        return [*lines, *self._config]

    def _end(self, number: signal.Signals) -> None:
        self._admin.close()
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)  # a frozen server cannot shut down
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """Return a loopback port that nobody uses right now.

    It is below the ports that the system gives to outgoing connections. Otherwise a client that
    dials a dead server again and again connects to itself one day, and holds the server's port.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind((HOST, port))
            return port


def _login(user: str, password: str) -> str:
    return f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""


def _dies_with_us() -> list[str]:
    """Return a prefix that ties a child's life to ours, so that even a SIGKILL leaves no server.

    Linux ties it to the thread that started the child, so only the main thread's children qualify.
    """
    on_main_thread = threading.current_thread() is threading.main_thread()
    return ["setpriv", "--pdeathsig", "KILL"] if on_main_thread and _has_setpriv() else []


@functools.cache
def _has_setpriv() -> bool:
    trial = ["setpriv", "--pdeathsig", "KILL", "true"]
    return (
        bool(shutil.which("setpriv")) and not subprocess.run(trial, capture_output=True).returncode
    )


_started: weakref.WeakSet[RedisServer] = weakref.WeakSet()
_owner = os.getpid()


@atexit.register
def _close_all() -> None:
    if os.getpid() == _owner:  # not in a fork of the tests
        for server in list(_started):
            server.close()
