"""How a link to Redis begins. The only door to redis-py.

redis-py dials: URL forms, TLS, users, credential providers, Sentinel discovery and the handshake
are its business. Then `RedisLink` takes the transport over (``set_protocol``) and speaks by itself.
No error of redis-py leaves this module except as the cause of one of ours.

The seam to redis-py's internals is `_take_over`, and a contract test holds it against the oldest
and the newest redis-py that we support.
"""

from __future__ import annotations

import ssl
from typing import Any

import redis.asyncio.connection as redis_connection
from redis import exceptions as redis_errors
from redis.asyncio import Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from . import exceptions
from .options import Host
from .resp import RedisLink
from .wire import Link, Receiver

#: Error codes of a server that will take us later (Redis source, ``shared`` error objects).
TRANSIENT = frozenset({"LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY"})

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
        """Ask the sentinels who is master now."""
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            self._sentinel["sentinels"],
            sentinel_kwargs={
                "socket_timeout": self._timeout,
                **(self._sentinel.get("sentinel_kwargs") or {}),
            },
        )
        try:
            host, port = await sentinel.discover_master(self._sentinel["master_name"])
        finally:
            for client in sentinel.sentinels:
                await client.connection_pool.disconnect()
        return host, port

    async def _require_master(self, connection: redis_connection.AbstractConnection) -> None:
        """Refuse a replica: it takes our messages and gives them to nobody but its own clients."""
        await connection.send_command("ROLE")
        try:
            role = (await connection.read_response())[0]
        except redis_errors.ResponseError:
            return  # who may not ask notices a demotion only when it ends the connection
        if role not in (b"master", "master"):
            raise redis_errors.ReadOnlyError("it is a replica; messages there reach nobody else")

    def _translate(self, error: BaseException) -> exceptions.LinkError:
        code = str(error).partition(" ")[0]
        is_certificate = isinstance(error.__context__, ssl.SSLCertVerificationError)
        is_refusal = isinstance(
            error, (redis_errors.ResponseError, redis_errors.AuthenticationError)
        )
        if is_certificate or (
            is_refusal
            and code not in TRANSIENT
            and not isinstance(error, redis_errors.ReadOnlyError)
        ):
            return exceptions.LinkRefused(address=self.address, reason=str(error))
        return exceptions.LinkUnavailable(
            address=self.address, seconds=self._timeout, reason=_reason(error)
        )


def _reason(error: BaseException) -> str:
    """Return what to say of an error; redis-py's and the system's speak for themselves."""
    if isinstance(error, (redis_errors.RedisError, OSError)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _describe(arguments: dict[str, Any]) -> str:
    if "path" in arguments:
        return f"unix:{arguments['path']}"
    return f"{arguments.get('host', 'localhost')}:{arguments.get('port', 6379)}"


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
