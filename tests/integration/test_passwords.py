"""No password is in what an error page, a mail to ADMINS or another collector of errors shows."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import override_settings
from django.views.debug import ExceptionReporter

from channels_mpx import ConfigurationError, LinkError, MultiplexedChannelLayer, Multiplexer
from channels_mpx.tracebacks import origin, without_frames
from tests.helpers import eventually
from tests.servers import HOST, Certificates, RedisServer, free_port

# Made up anew each time: pages show lines of source code as well.
SECRET = f"s3cret-{secrets.token_hex(8)}"
NAME = f"user-{secrets.token_hex(8)}"

#: What the tests' own frames must not hold either, by name.
HOSTS: dict[str, Any] = {}

SETTINGS: dict[str, dict[str, Any]] = {
    "argument": {"hosts": [{"host": "a", "password": SECRET, "pasword": SECRET}]},
    "port": {"hosts": [{"host": "a", "password": SECRET, "port": 70000}]},
    "database": {"hosts": [f"redis://:{SECRET}@a/0?db={SECRET}"]},
    "protocol": {"hosts": [f"redis://:{SECRET}@a/0?protocol={SECRET}"]},
    "not escaped": {"hosts": [f"redis://:12#{SECRET}@a:6379"]},
    "in the query": {"hosts": [f"redis://:12?{SECRET}=1@a:6379"]},
    "a name in the query": {"hosts": [f"redis://a?x{SECRET.replace('-', '')}=1"]},
    "option": {"hosts": [f"redis://:{SECRET}@a"], "capcity": 3},
    "two": {"hosts": [f"redis://:{SECRET}@a", {"password": SECRET}]},
    "provider": {"hosts": [{"host": "a", "password": SECRET, "credential_provider": print}]},
    "provider too": {"hosts": [{"host": "a", "password": SECRET, "credential_provider": None}]},
    "surrogate": {"hosts": [{"host": "a", "password": f"{SECRET}\udc80"}]},
    "keys": {"hosts": [f"redis://:{SECRET}@a"], "symmetric_encryption_keys": [SECRET, 3]},
    "sentinel": {
        "hosts": [
            {
                "sentinels": [("a", 1)],
                "master_name": "m",
                "sentinel_kwargs": {"password": SECRET, "pasword": SECRET},
            }
        ]
    },
}


class Provider(redis.CredentialProvider):
    """Credentials that cannot be had."""

    def get_credentials(self) -> tuple[str, str]:
        password = SECRET
        raise KeyError(f"no token of {len(password)} characters")


def error_of(act: Callable[[], object]) -> BaseException:
    """Return what is raised, as a collector gets it: with all frames from here on."""
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def shown(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield what collectors show of an error: Django's page and mails, and local variables."""
    reporter = ExceptionReporter(None, type(error), error, error.__traceback__)
    for is_debug in (True, False):
        with override_settings(DEBUG=is_debug):
            yield f"page, DEBUG={is_debug}", reporter.get_traceback_html()
            yield f"text, DEBUG={is_debug}", reporter.get_traceback_text()
    left, seen = [error], set()
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            told = traceback.TracebackException.from_exception(each, capture_locals=True)
            yield f"locals of {type(each).__name__}", "".join(told.format())
            yield f"repr of {type(each).__name__}", repr(each)
            left += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]  # type: ignore[list-item]


def leaks(error: BaseException) -> list[str]:
    """Return where the password is, and where not even the frame of the test is."""
    found = [where for where, text in shown(error) if SECRET in text or SECRET[:6] in text]
    assert any("error_of" in text for where, text in shown(error)), "nothing was looked at"
    return found


def test_a_password_in_a_frame_would_be_seen() -> None:
    """The control: a local variable of a frame is in all of these but Django's text."""

    def fail() -> None:
        password = SECRET
        raise ZeroDivisionError(len(password))

    found = leaks(error_of(fail))
    assert {where.partition(",")[0] for where in found} == {"page", "locals of ZeroDivisionError"}


@pytest.mark.parametrize("name", SETTINGS)
def test_wrong_settings_show_no_password(name: str) -> None:
    """However they are wrong, and whoever reads them."""
    if name == "provider too":
        layer = MultiplexedChannelLayer(**SETTINGS[name])
        assert SECRET not in f"{layer!r} {layer.options!r} {layer._hub._dialer!r}"
        return
    error = error_of(lambda: MultiplexedChannelLayer(**SETTINGS[name]))
    assert isinstance(error, ConfigurationError)
    assert leaks(error) == []
    if len(SETTINGS[name]) == 1:
        error = error_of(lambda: Multiplexer(SETTINGS[name]["hosts"]))
        assert isinstance(error, ConfigurationError)
        assert leaks(error) == []


def test_missing_package_shows_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are secrets too."""
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    HOSTS["keys"] = {"hosts": ["memory://"], "symmetric_encryption_keys": [SECRET]}
    error = error_of(lambda: MultiplexedChannelLayer(**HOSTS["keys"]))
    assert isinstance(error, ConfigurationError)
    assert leaks(error) == []


WAYS = [
    "wrong password", "dict", "none", "refused", "to tls", "to plain", "stranger", "sentinel",
    "sentinel away", "provider", "closed", "socket", "database", "replica",
]  # fmt: skip


@pytest.fixture
async def place(
    request: pytest.FixtureRequest,
    make_redis: Callable[..., RedisServer],
    certificates: Certificates,
    tmp_path: Path,
) -> Any:
    """The name of an entry of `HOSTS` with which no connection can be made."""
    way = request.param
    login = {"username": NAME, "password": SECRET}
    async with contextlib.AsyncExitStack() as stack:
        host: Any = {"host": HOST, "port": free_port(), **login}
        if way in ("wrong password", "dict", "none", "provider", "stranger", "to tls", "sentinel"):
            is_tls = way in ("stranger", "to tls")
            server = make_redis(password="right", tls=certificates if is_tls else None)
            host["port"] = server.port
            if way == "wrong password":
                host = server.url_for(NAME, SECRET)
            elif way == "none":
                host = server.url_for()
            elif way == "provider":
                host = {"host": HOST, "port": server.port, "credential_provider": Provider()}
            elif way == "stranger":
                host["ssl"] = True
            elif way == "sentinel":
                host = {
                    "sentinels": [(HOST, server.port), (HOST, free_port())],
                    "master_name": "m",
                    "sentinel_kwargs": login,
                    **login,
                }
        elif way == "sentinel away":
            sentinels = [(HOST, free_port())]
            host = {"sentinels": sentinels, "master_name": "m", "sentinel_kwargs": login, **login}
        elif way == "to plain":
            host |= {"ssl": True, "port": make_redis().port}
        elif way == "socket":
            host = {"unix_socket_path": str(tmp_path / "none"), **login}
        elif way in ("closed", "replica", "database"):
            rules = f"{NAME} on >{SECRET} ~* &* +@all"
            config = [f"replicaof {HOST} {free_port()}"] if way == "replica" else []
            server = make_redis(users=[rules], config=config)
            host["port"] = server.port
            if way == "database":
                host["db"] = 9999
            if way == "closed":
                closing = await asyncio.start_server(lambda r, w: w.close(), HOST, 0)
                await stack.enter_async_context(closing)
                host["port"] = closing.sockets[0].getsockname()[1]
        HOSTS[way] = host
        yield way


@pytest.mark.parametrize("place", WAYS, indirect=True)
@pytest.mark.parametrize("form", ["sync", "async", "dial"])
async def test_no_way_to_fail_shows_a_password(place: str, form: str) -> None:
    """Neither a call on the loop of the connection, nor one from a thread, nor the dialer itself."""
    layer = MultiplexedChannelLayer(hosts=[HOSTS[place]], timeout=0.7)

    def sync() -> None:
        layer.sync.group_send("g", {"type": "x"})

    async def dial() -> None:
        await layer._hub._dialer.dial(None)  # type: ignore[arg-type]

    if form == "sync":
        error = await asyncio.to_thread(error_of, sync)
    else:
        verb = dial if form == "dial" else layer.new_channel
        error = await asyncio.to_thread(error_of, lambda: asyncio.run(verb()))
    await layer.aclose()
    assert isinstance(error, LinkError), error
    assert leaks(error) == []
    if form == "dial":
        assert error.__cause__ is not None
        assert error.__cause__.__traceback__ is None
    if place == "provider" and form == "dial":
        assert "KeyError" in str(error)
        assert "get_credentials() in test_passwords.py" in str(error)


async def test_no_cancelled_attempt_shows_a_password() -> None:
    """The same for an attempt that somebody ends."""
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda reader, writer: writers.append(writer), HOST, 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        HOSTS["silent"] = {"host": HOST, "port": port, "password": SECRET}
        layer = MultiplexedChannelLayer(hosts=[HOSTS["silent"]])
        attempt = asyncio.ensure_future(layer._hub._dialer.dial(None))  # type: ignore[arg-type]
        await eventually(lambda: writers)
        attempt.cancel()
        # Until Python 3.10 asyncio's timeouts may take the cancellation for their own.
        with pytest.raises((asyncio.CancelledError, LinkError)) as caught:
            await attempt
        for writer in writers:
            writer.close()
    assert [where for where, text in shown(caught.value) if SECRET in text] == []


def test_chains_and_groups_lose_their_frames() -> None:
    """Causes, contexts, cycles, and what a group holds; where it came from can be told before."""

    class Group(Exception):
        exceptions: tuple[BaseException, ...] = ()

    first, second, third = (error_of(lambda: 1 / 0) for _ in range(3))
    assert origin(first).startswith("<lambda>() in test_passwords.py:")
    group = Group()
    group.exceptions = (third,)
    first.__cause__, second.__context__, group.__context__ = second, group, first
    assert without_frames(first) is first
    assert [each.__traceback__ for each in (first, second, third)] == [None] * 3
