"""How a link begins, when it hardly does."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as redis_errors
from redis.asyncio.connection import Connection

from channels_mpx import link as link_module
from channels_mpx import sentinels
from channels_mpx.exceptions import LinkUnavailable
from channels_mpx.hosts import parse_host
from channels_mpx.link import RedisDialer, _code, _hang_up, _take_over
from channels_mpx.reasons import Attempt, Stage
from channels_mpx.sentinels import first_answers
from tests.servers import RedisServer
from tests.unit.test_resp import Diary, Wire, message


async def test_bytes_that_came_with_the_handshake_are_read() -> None:
    """What the server sent before we took the transport over is not lost."""
    reader, wire, diary = asyncio.StreamReader(), Wire(), Diary()
    wire.set_protocol = lambda protocol: None  # type: ignore[method-assign]
    wire.is_closing = lambda: False  # type: ignore[method-assign]
    reader.feed_data(message(b"one", b"1"))
    connection: Any = SimpleNamespace(_reader=reader, _writer=SimpleNamespace(transport=wire))
    _take_over(connection, diary, "test:1")
    assert diary.lines == [("message", b"one", b"1")]
    assert connection._writer is None
    _hang_up(connection)


async def test_server_that_speaks_out_of_turn_is_left() -> None:
    """What nobody asked, right behind the handshake, is no way to begin."""
    reader, wire, diary = asyncio.StreamReader(), Wire(), Diary()
    wire.set_protocol = lambda protocol: None  # type: ignore[method-assign]
    wire.is_closing = lambda: False  # type: ignore[method-assign]
    reader.feed_data(b"+OK\r\n")
    connection: Any = SimpleNamespace(_reader=reader, _writer=SimpleNamespace(transport=wire))
    with pytest.raises(ConnectionError, match="out of turn"):
        _take_over(connection, diary, "test:1")


class Asked:
    """A connection that is asked for its role, and answers with an error."""

    def __init__(self, text: str) -> None:
        self._error = redis_errors.ResponseError(text)

    async def send_command(self, *command: str) -> None:
        assert command == ("ROLE",)

    async def read_response(self) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("text", "is_left"), [("BUSY Redis is busy running a script", True), ("NOPERM role", False)]
)
async def test_who_may_not_ask_for_the_role_takes_the_server(text: str, is_left: bool) -> None:
    """Without permission there is nothing to know; a server that cannot answer yet is tried again."""
    dialer = RedisDialer(parse_host("redis://localhost"), "test", 5)
    connection: Any = Asked(text)
    if is_left:
        with pytest.raises(redis_errors.ResponseError):
            await dialer._require_master(connection)
    else:
        await dialer._require_master(connection)


@pytest.mark.parametrize("form", ["sync", "async", "none"])
async def test_handshake_of_the_users_own_is_kept(form: str) -> None:
    """`redis_connect_func` is redis-py's, and may return an awaitable or nothing."""
    done: list[Any] = []

    async def greet(connection: Any) -> None:
        done.append(connection)

    class Greeted:
        _writer = SimpleNamespace(_protocol=object())

        async def on_connect(self) -> None:
            done.append(self)

    connection = Greeted()
    own = {"sync": done.append, "async": greet, "none": None}[form]
    attempt = Attempt(1.0, is_tls=False, is_local=False)
    await link_module._greeting(own, attempt)(connection)
    assert done == [connection]
    assert attempt.stage is Stage.GREETED


async def test_error_of_a_broken_handshake_is_looked_at() -> None:
    """What asyncio keeps of it is not complained of when it is collected."""
    waiters = [asyncio.get_running_loop().create_future() for _ in range(2)]
    for waiter in waiters:
        protocol = SimpleNamespace(_closed=waiter)
        connection = SimpleNamespace(_writer=SimpleNamespace(_protocol=protocol))
        await link_module._greeting(
            lambda connection: None, Attempt(1.0, is_tls=False, is_local=False)
        )(connection)
    waiters[0].set_exception(ConnectionResetError())
    waiters[1].cancel()
    await asyncio.sleep(0)
    del waiters, waiter, protocol, connection  # -W error: a complaint would fail the test


class Closing(Connection):
    """A connection whose server hangs up right behind the answer to ROLE."""

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        response = await super().read_response(*args, **kwargs)
        if isinstance(response, list) and response[0] in (b"master", "master"):
            self._reader.feed_eof()
        return response


async def test_server_that_hangs_up_after_the_handshake_is_noticed(
    redis_server: RedisServer,
) -> None:
    """An end that was read together with the handshake is not overlooked."""
    host = parse_host(
        {"host": redis_server.host, "port": redis_server.port, "connection_class": Closing}
    )
    with pytest.raises(LinkUnavailable):
        link = await RedisDialer(host, "test", 5).dial(Diary())
        link.lose("the test is over")


Answer = dict[str, Any] | Exception


def questions(*answers: tuple[float, Answer]) -> list[asyncio.Task[Any]]:
    """Return tasks that answer after so many seconds each."""

    async def answer(after: float, what: Answer) -> dict[str, Any]:
        await asyncio.sleep(after)
        if isinstance(what, Exception):
            raise what
        return what

    return [asyncio.ensure_future(answer(*each)) for each in answers]


async def test_sentinels_that_answer_soon_are_all_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer starts a short wait for others, who may know better; errors are no answers."""
    monkeypatch.setattr(sentinels, "GRACE", 0.1)
    asked = questions((0.0, OSError("down")), (0.01, {"n": 1}), (0.02, {"n": 2}), (600, {"n": 3}))
    assert await first_answers(asked) == [{"n": 1}, {"n": 2}]
    assert not asked[-1].done()
    asked[-1].cancel()


async def test_sentinels_that_all_fail_are_no_answer() -> None:
    """Then everybody has been heard, and each has its error."""
    asked = questions((0.0, OSError("first")), (0.01, OSError("second")))
    assert await first_answers(asked) == []
    assert [str(question.exception()) for question in asked] == ["first", "second"]


async def test_all_sentinels_are_waited_for_no_longer_than_they_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When everybody has answered there is nothing to wait for."""
    monkeypatch.setattr(sentinels, "GRACE", 3600)  # which nobody lives to see
    assert len(await first_answers(questions((0.0, {"n": 1}), (0.01, {"n": 2})))) == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (redis_errors.AuthenticationError("Authentication required."), "NOAUTH"),
        (redis_errors.AuthenticationError("invalid username-password pair"), "WRONGPASS"),
        (redis_errors.BusyLoadingError("Redis is loading the dataset in memory"), "LOADING"),
        (redis_errors.NoPermissionError("this user has no permissions"), "NOPERM"),
        (redis_errors.ReadOnlyError("You can't write against a read only replica."), "READONLY"),
        (redis_errors.ResponseError("MASTERDOWN Link with MASTER is down"), "MASTERDOWN"),
        (redis_errors.ConnectionError("max number of clients reached"), "ERR"),
        (redis_errors.ConnectionError("Connection closed by server."), None),
        (OSError(111, "refused"), None),
    ],
)
def test_code_of_an_error_without_one(error: Exception, code: str | None) -> None:
    """Older versions of redis-py cut Redis's code off and keep it nowhere."""
    assert _code(error) == code
