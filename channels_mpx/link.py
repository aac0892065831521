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
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import redis.asyncio.connection as redis_connection
from redis import exceptions as redis_errors
from redis.asyncio import Redis, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from . import exceptions
from .host_arguments import find_file_problem, require_known
from .hosts import Arguments, Host
from .reasons import Attempt, Stage, chain, find_certificate_problem, find_obstacle
from .resp import RedisLink
from .sentinels import NoMaster, first_answers
from .tracebacks import origin, without_frames
from .wire import PASSING, Link, Receiver

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
    "auto_close_connection_pool",
)


class RedisDialer:
    """Makes links to one Redis server.

    No error leaves with frames in which redis-py, or this class, holds a password.

    Args:
        host: Where, in any of the forms of the setting ``hosts``.
        client_name: For CLIENT SETNAME, so that CLIENT LIST shows whose connection it is.
        timeout: Seconds for connecting and for each step of the handshake.

    Raises:
        ConfigurationError: redis-py does not take the host's arguments.
    """

    def __init__(self, host: Host, client_name: str, timeout: float) -> None:
        self._timeout = timeout
        self._sentinel = Arguments(host.sentinel)
        problem: str | None = None
        try:
            self._arguments, self._class = _prepare(host)
            self._arguments |= {
                "protocol": 3,
                "client_name": client_name,
                "retry": Retry(NoBackoff(), 0),
                "health_check_interval": 0,
                "socket_timeout": timeout,
                "socket_connect_timeout": timeout,
            }
            self._class(**self._arguments)
        except (TypeError, ValueError, redis_errors.RedisError) as error:
            problem = str(error)
        if (
            problem is not None
        ):  # outside of the handler: what redis-py raised had a cause, and frames
            raise exceptions.ConfigurationError(problem=f"hosts: {problem}")
        self._own_greeting = self._arguments.pop("redis_connect_func", None)
        self.address = _describe(self._arguments)
        if self._sentinel:
            self.address = f"sentinel master {self._sentinel['master_name']!r}"

    async def dial(self, receiver: Receiver) -> Link:
        """See `Dialer.dial`. Password, database, protocol and certificate are refusals."""
        attempt = Attempt(
            self._timeout,
            is_tls=issubclass(self._class, redis_connection.SSLConnection),
            is_local="path" in self._arguments,
        )
        try:
            return await self._dial(receiver, attempt)
        except Exception as error:  # a credential provider of the user's may raise anything
            place = origin(error)
            raise self._translate(without_frames(error), attempt, place) from error
        except BaseException as error:  # cancelled, or interrupted
            raise without_frames(error)  # noqa: B904  (the very error)

    async def _dial(self, receiver: Receiver, attempt: Attempt) -> Link:
        connection = None
        try:
            arguments = Arguments(self._arguments)
            if self._sentinel:
                arguments["host"], arguments["port"] = await self._discover()
            attempt.address = address = _describe(arguments)
            arguments["redis_connect_func"] = _greeting(self._own_greeting, attempt)
            connection = self._class(**arguments)
            await connection.connect()  # type: ignore[no-untyped-call]
            await self._require_master(connection)
            return _take_over(connection, receiver, address)
        except BaseException:  # cancelled, too: the half-made connection must not stay
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
                # The next attempt is ours: redis-py's own would keep it a secret why there are none.
                "retry": Retry(NoBackoff(), 0),
                **(self._sentinel.get("sentinel_kwargs") or {}),
            },
        )
        questions = [asyncio.ensure_future(self._ask(sentinel, it)) for it in sentinel.sentinels]
        try:
            states = await first_answers(questions)
            if not states:
                raise NoMaster([question.exception() for question in questions])
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
        if not state:
            raise redis_errors.ConnectionError(f"it knows no master {name!r}")
        if not sentinel.check_master_state(state, name):
            raise redis_errors.ConnectionError(f"it says that the master {name!r} is down")
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

    def _translate(
        self, error: BaseException, attempt: Attempt, place: str
    ) -> exceptions.LinkRefused | exceptions.LinkUnavailable:
        """Return what to raise: a refusal, which trying again does not cure, or else an outage."""
        if isinstance(error, NoMaster):
            code, reason, is_refusal = self._no_master(error)
        else:
            code = _code(error)
            reason, is_refusal = self._judge(error, attempt, place)
            if self._sentinel and attempt.address:
                reason = f"{attempt.address}: {reason}"
        if is_refusal:
            return exceptions.LinkRefused(address=self.address, reason=reason, code=code)
        return exceptions.LinkUnavailable(
            address=self.address, seconds=self._timeout, reason=reason, code=code
        )

    def _no_master(self, error: NoMaster) -> tuple[str | None, str, bool]:
        """Return code and reason of an attempt that no sentinel helped, and whether all refused."""
        kwargs = self._sentinel.get("sentinel_kwargs") or {}
        said, refusals, codes = [], [], []
        for (host, port), each in zip(self._sentinel["sentinels"], error.errors, strict=True):
            attempt = Attempt(self._timeout, is_tls=bool(kwargs.get("ssl")), is_local=False)
            reason, is_refusal = self._judge(each, attempt, "")
            said.append(f"{host}:{port}: {reason}")
            refusals.append(is_refusal)
            codes.append(_code(each))
        text = f"no sentinel names the master {self._sentinel['master_name']!r} ({'; '.join(said)})"
        return codes[-1], text, all(refusals)

    def _judge(self, error: BaseException, attempt: Attempt, place: str) -> tuple[str, bool]:
        """Return why an attempt failed, and whether the server, or we, refused."""
        is_answer = isinstance(
            error, (redis_errors.ResponseError, redis_errors.AuthenticationError)
        )
        code = _code(error)
        if is_answer and code not in PASSING:
            return self._say_refusal(str(error), code), True
        if "closed by server" in str(error):
            return attempt.closed(), False
        certificate = find_certificate_problem(error)
        if certificate is not None:
            return certificate, True
        if attempt.is_tls and any(isinstance(each, OSError) for each in chain(error)):
            problem = find_file_problem(self._arguments)  # which was all right when we began
            if problem is not None:
                return f"hosts: {problem}", False
        if isinstance(error, redis_errors.TimeoutError):
            return attempt.timed_out(), False
        return find_obstacle(error, attempt) or _reason(error, place), False

    def _say_refusal(self, text: str, code: str | None) -> str:
        if code == "NOAUTH":
            return f"it wants a password, and hosts has none ({text})"
        if "DB index" in text:
            return f"it has no database {self._arguments.get('db')}: {text}"
        return f"it does not accept this process: {text}"


Kind = type[redis_connection.AbstractConnection]


def _prepare(host: Host) -> tuple[Arguments, Kind]:
    """Return the arguments of a connection, and its class.

    Raises:
        ValueError: An argument is not known, or redis-py cannot read the URL.
    """
    in_url = Arguments(redis_connection.parse_url(host.url)) if host.url is not None else {}
    arguments = Arguments({**in_url, **host.arguments})
    for name in _POOL_ARGUMENTS:
        arguments.pop(name, None)
    kind: Kind = arguments.pop("connection_class", None) or (
        redis_connection.UnixDomainSocketConnection
        if "path" in arguments
        else redis_connection.Connection
    )
    if arguments.pop("ssl", False):
        kind = redis_connection.SSLConnection
    require_known(kind, arguments, in_url, redis_connection.SSLConnection)
    require_known(Redis, host.sentinel.get("sentinel_kwargs") or {}, {}, Redis)
    if kind is redis_connection.SSLConnection:
        _check_host_name(arguments)
    return arguments, kind


def _check_host_name(arguments: dict[str, Any]) -> None:
    """Have the server's name checked as well as its certificate: redis-py before 6 does not."""
    requirement = arguments.get("ssl_cert_reqs", "required")
    if requirement not in (None, "none", ssl.CERT_NONE):
        arguments.setdefault("ssl_check_hostname", True)


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


def _reason(error: BaseException, place: str) -> str:
    """Return what to say of an error; redis-py's and the system's speak for themselves."""
    if isinstance(error, (redis_errors.RedisError, OSError)) and str(error):
        return str(error)
    # Somebody else's, a credential provider's for instance. Its traceback does not leave this module.
    return f"{type(error).__name__}: {error}".rstrip(": ") + (f" (in {place})" if place else "")


def _describe(arguments: dict[str, Any]) -> str:
    if "path" in arguments:
        return f"unix:{arguments['path']}"
    return f"{arguments.get('host', 'localhost')}:{arguments.get('port', 6379)}"


def _greeting(own: Any, attempt: Attempt) -> Callable[[Any], Awaitable[None]]:
    """Return what shakes hands: the user's own way, or redis-py's. It notes how far that comes.

    If the connection breaks meanwhile, redis-py lets go of a future that holds the system's error,
    and asyncio would complain of it some time later. What is wrong, redis-py raises as well.
    """

    async def greet(connection: Any) -> None:
        attempt.stage = Stage.GREETING
        closed = getattr(connection._writer._protocol, "_closed", None)
        if closed is not None:
            closed.add_done_callback(lambda waiter: waiter.cancelled() or waiter.exception())
        done = connection.on_connect() if own is None else own(connection)
        if inspect.isawaitable(done):
            await done
        attempt.stage = Stage.GREETED

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
