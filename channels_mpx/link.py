"""How a link to Redis begins. The only door to redis-py.

redis-py dials: URL forms, TLS, users, credential providers, Sentinel discovery and the handshake
are its business. Then `RedisLink` takes the transport over (``set_protocol``) and speaks by itself.
No error of redis-py leaves this module except as the cause of one of ours.

The seam to redis-py's internals is `_take_over`, and a contract test holds it against the oldest
and the newest redis-py that we support.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import redis.asyncio.connection as redis_connection
from redis import exceptions as redis_errors
from redis.asyncio import Redis, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from . import exceptions
from .options import Host
from .resp import RedisLink
from .wire import PASSING, Link, Receiver

#: Seconds that the other sentinels have to contradict the first that has named a master.
GRACE = 0.5

#: The errors for which redis-py has classes; it takes the code out of their text, and keeps it in
#: its newer versions only.
_CODES: dict[type[Exception], str] = {
    redis_errors.AuthenticationError: "WRONGPASS",
    redis_errors.BusyLoadingError: "LOADING",
    redis_errors.ClusterDownError: "CLUSTERDOWN",
    redis_errors.NoPermissionError: "NOPERM",
    redis_errors.ReadOnlyError: "READONLY",
    redis_errors.TryAgainError: "TRYAGAIN",
}

#: What Redis says to one client too many; redis-py makes a broken connection of it.
_TOO_MANY = "max number of clients reached"

#: Arguments that mean something to a pool and nothing to one connection.
_POOL_ARGUMENTS = (
    "max_connections",
    "timeout",
    "queue_class",
    "connection_class",
    "auto_close_connection_pool",
)


class RedisDialer:
    """Makes links to one Redis server.

    Args:
        host: Where, in any of the forms of the setting ``hosts``.
        client_name: For CLIENT SETNAME, so that CLIENT LIST shows whose connection it is.
        timeout: Seconds for connecting and for each step of the handshake.

    Raises:
        ConfigurationError: redis-py does not take the host's arguments.
    """

    def __init__(self, host: Host, client_name: str, timeout: float) -> None:
        self._host = host
        self._timeout = timeout
        self._sentinel = dict(host.sentinel)
        self._arguments = dict(host.arguments)
        try:
            if host.url is not None:
                self._arguments = {**redis_connection.parse_url(host.url), **self._arguments}
            self._class = self._choose_class()
            for name in _POOL_ARGUMENTS:
                self._arguments.pop(name, None)
            if self._class is redis_connection.SSLConnection:
                _check_host_name(self._arguments)
            self._arguments |= {
                "protocol": 3,
                "redis_connect_func": _greeting(self._arguments.get("redis_connect_func")),
                "client_name": client_name,
                "retry": Retry(NoBackoff(), 0),
                "health_check_interval": 0,
                "socket_timeout": timeout,
                "socket_connect_timeout": timeout,
            }
            self._class(**self._arguments)
        except (TypeError, ValueError, redis_errors.RedisError) as error:
            raise exceptions.ConfigurationError(problem=f"hosts: {error}") from error
        self.address = _describe(self._arguments)
        if self._sentinel:
            self.address = f"sentinel master {self._sentinel['master_name']!r}"

    def _choose_class(self) -> type[redis_connection.AbstractConnection]:
        given: Any = self._arguments.get("connection_class")
        if self._arguments.pop("ssl", False):
            return redis_connection.SSLConnection
        if given is not None:
            chosen: type[redis_connection.AbstractConnection] = given
            return chosen
        if "path" in self._arguments:
            return redis_connection.UnixDomainSocketConnection
        return redis_connection.Connection

    async def dial(self, receiver: Receiver) -> Link:
        """See `Dialer.dial`. Password, database, protocol and certificate are refusals."""
        connection = None
        try:
            arguments = dict(self._arguments)
            if self._sentinel:
                arguments["host"], arguments["port"] = await self._discover()
            address = _describe(arguments)
            connection = self._class(**arguments)
            await connection.connect()  # type: ignore[no-untyped-call]
            await self._require_master(connection)
            return _take_over(connection, receiver, address)
        except Exception as error:  # a credential provider of the user's may raise anything
            if connection is not None:
                _hang_up(connection)
            raise self._translate(error) from error
        except BaseException:  # cancelled: the half-made connection must not stay
            if connection is not None:
                _hang_up(connection)
            raise

    async def _discover(self) -> tuple[str, int]:
        """Ask the sentinels who is master now: all at once, because some may be down with it.

        Those that answer may disagree; the last failover has the highest number.
        """
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            self._sentinel["sentinels"],
            sentinel_kwargs={
                "socket_timeout": self._timeout,
                "socket_connect_timeout": self._timeout,
                **(self._sentinel.get("sentinel_kwargs") or {}),
            },
        )
        questions = [asyncio.ensure_future(self._ask(sentinel, it)) for it in sentinel.sentinels]
        try:
            states = await _first_answers(questions)
        finally:
            for question in questions:
                question.cancel()
            await asyncio.gather(*questions, return_exceptions=True)
            for client in sentinel.sentinels:
                await client.connection_pool.disconnect()
        state = max(states, key=lambda state: int(state.get("config-epoch", 0)))
        return state["ip"], state["port"]

    async def _ask(self, sentinel: Sentinel, client: Redis) -> Mapping[str, Any]:
        """Return what one sentinel knows of the master, if it holds it to be alive."""
        name = self._sentinel["master_name"]
        masters: Any = await client.sentinel_masters()
        state: dict[str, Any] | None = masters.get(name)
        if not state or not sentinel.check_master_state(state, name):
            raise redis_errors.ConnectionError(f"No master found for {name!r}")
        return state

    async def _require_master(self, connection: redis_connection.AbstractConnection) -> None:
        """Refuse a replica: it takes our messages and gives them to nobody but its own clients."""
        await connection.send_command("ROLE")
        try:
            role = (await connection.read_response())[0]
        except redis_errors.ResponseError as error:
            if _code(error) in PASSING:
                raise
            return  # who may not ask notices a demotion only when it ends the connection
        if role not in (b"master", "master"):
            raise redis_errors.ReadOnlyError("it is a replica; messages there reach nobody else")

    def _translate(self, error: BaseException) -> exceptions.LinkError:
        certificate = _find_certificate_error(error)
        if certificate is not None:
            return exceptions.LinkRefused(address=self.address, reason=certificate)
        is_refusal = isinstance(
            error, (redis_errors.ResponseError, redis_errors.AuthenticationError)
        )
        code = _code(error)
        if is_refusal and code not in PASSING:
            reason = f"it wants a password ({error})" if code == "NOAUTH" else str(error)
            return exceptions.LinkRefused(address=self.address, reason=reason, code=code)
        return exceptions.LinkUnavailable(
            address=self.address, seconds=self._timeout, reason=_reason(error), code=code
        )


async def _first_answers(
    questions: Sequence[asyncio.Future[Mapping[str, Any]]],
) -> list[Mapping[str, Any]]:
    """Return the answers that come soon after the first one; raise the last error if none does."""
    left: set[asyncio.Future[Mapping[str, Any]]] = set(questions)
    answers: list[Mapping[str, Any]] = []
    error: BaseException | None = None
    loop = asyncio.get_running_loop()
    until: float | None = None
    while left and (until is None or loop.time() < until):
        patience = None if until is None else until - loop.time()
        done, left = await asyncio.wait(left, timeout=patience, return_when="FIRST_COMPLETED")
        for question in done:
            error = question.exception() or error
            if question.exception() is None:
                answers.append(question.result())
                until = until or loop.time() + GRACE
    if not answers:
        assert error is not None
        raise error
    return answers


def _check_host_name(arguments: dict[str, Any]) -> None:
    """Have the server's name checked as well as its certificate: redis-py before 6 does not."""
    requirement = arguments.get("ssl_cert_reqs", "required")
    if requirement not in (None, "none", ssl.CERT_NONE):
        arguments.setdefault("ssl_check_hostname", True)


def _find_certificate_error(error: BaseException | None) -> str | None:
    """Return what TLS says about a certificate, ours or the server's; None if it is not that."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"TLS: {error.verify_message}"
        reason = str(error.reason) if isinstance(error, ssl.SSLError) else ""
        if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
            return f"TLS: {reason.lower().replace('_', ' ')}"
        error = error.__cause__ or error.__context__
    return None


def _code(error: BaseException) -> str | None:
    """Return the code of an error of Redis's; None if Redis has not said anything."""
    text, code = str(error), getattr(error, "status_code", None)
    if isinstance(code, str):
        return code
    if isinstance(error, redis_errors.AuthenticationError) and "invalid" not in text:
        return "NOAUTH"
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    if isinstance(error, redis_errors.ResponseError):
        return text.partition(" ")[0]
    return "ERR" if _TOO_MANY in text else None


def _reason(error: BaseException) -> str:
    """Return what to say of an error; redis-py's and the system's speak for themselves."""
    if isinstance(error, (redis_errors.RedisError, OSError)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _describe(arguments: dict[str, Any]) -> str:
    if "path" in arguments:
        return f"unix:{arguments['path']}"
    return f"{arguments.get('host', 'localhost')}:{arguments.get('port', 6379)}"


def _greeting(own: Any) -> Callable[[Any], Awaitable[None]]:
    """Return what shakes hands: the user's own way, or redis-py's.

    If the connection breaks meanwhile, redis-py lets go of a future that holds the system's error,
    and asyncio would complain of it some time later. What is wrong, redis-py raises as well.
    """

    async def greet(connection: Any) -> None:
        closed = getattr(connection._writer._protocol, "_closed", None)
        if closed is not None:
            closed.add_done_callback(lambda waiter: waiter.cancelled() or waiter.exception())
        done = connection.on_connect() if own is None else own(connection)
        if inspect.isawaitable(done):
            await done

    return greet


def _take_over(
    connection: redis_connection.AbstractConnection, receiver: Receiver, address: str
) -> RedisLink:
    """Take the transport from a redis-py connection that has shaken hands."""
    reader: Any = connection._reader
    writer: Any = connection._writer
    transport = writer.transport
    if reader.at_eof() or transport.is_closing():
        raise ConnectionError("the server closed the connection after the handshake")
    link = RedisLink(transport, receiver, address, keep=writer)
    transport.set_protocol(link)
    early = bytes(reader._buffer)
    connection._reader = connection._writer = None
    if early:
        link.data_received(early)
        if link.is_lost:
            raise ConnectionError("the server spoke out of turn")
    return link


def _hang_up(connection: redis_connection.AbstractConnection) -> None:
    writer: Any = connection._writer
    connection._reader = connection._writer = None
    if writer is not None:
        writer.transport.abort()
