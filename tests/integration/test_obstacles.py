"""Why a connection cannot be made: one sentence that names the likely cause."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from channels_mpx import LinkError, LinkRefused, LinkUnavailable, MultiplexedChannelLayer
from tests.servers import HOST, Certificates, RedisServer, free_port

MakeRedis = Callable[..., RedisServer]


async def obstacle(host: Any, **config: Any) -> LinkError:
    """Return the error of one attempt."""
    layer = MultiplexedChannelLayer(hosts=[host], **config)
    with pytest.raises(LinkError) as caught:
        await layer._hub._dialer.dial(None)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return caught.value


def says(error: LinkError, kind: type[LinkError], pattern: str) -> None:
    """Fail unless the error is of a kind and its reason is a sentence."""
    assert type(error) is kind
    assert re.fullmatch(pattern, error.reason), error.reason  # type: ignore[attr-defined]


async def test_nobody_listens() -> None:
    """One address, once, and what to look at."""
    port = free_port()
    error = await obstacle(f"redis://{HOST}:{port}")
    says(error, LinkUnavailable, r"connection refused; is Redis running there\?")
    assert str(error).count(str(port)) == 1
    says(await obstacle(f"redis://localhost:{port}"), LinkUnavailable, "connection refused; .*")


async def test_tls_to_a_plain_port(redis_server: RedisServer) -> None:
    """Redis waits for the end of what it takes for a command."""
    error = await obstacle(f"rediss://{HOST}:{redis_server.port}", timeout=1)
    says(
        error,
        LinkUnavailable,
        r"(no TLS handshake within 1 s|the server .*TLS.*); is this a TLS port\? hosts asks for TLS"
        r" \(rediss:// or 'ssl'\)",
    )


async def test_plain_to_a_tls_port(make_redis: MakeRedis, certificates: Certificates) -> None:
    """Redis hangs up."""
    server = make_redis(tls=certificates)
    error = await obstacle(f"redis://{HOST}:{server.port}")
    says(
        error,
        LinkUnavailable,
        r"the server closed the connection before it answered; is this a TLS port\? hosts asks for a"
        r" connection without TLS \(redis://\)",
    )


async def test_answer_without_tls() -> None:
    """A server of another make answers what it does not understand."""

    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read(1)
        writer.write(b"-ERR what?\r\n" * 3)

    server = await asyncio.start_server(answer, HOST, 0)
    async with server:
        error = await obstacle(f"rediss://{HOST}:{server.sockets[0].getsockname()[1]}")
        for writer in writers:
            writer.transport.abort()
    says(error, LinkUnavailable, r"the server answered without TLS; is this a TLS port\?.*")


@pytest.mark.parametrize("is_tls", [True, False])
async def test_server_that_hangs_up(is_tls: bool) -> None:
    """At once, as a proxy does behind which nobody is."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), HOST, 0)
    async with server:
        scheme = "rediss" if is_tls else "redis"
        error = await obstacle(f"{scheme}://{HOST}:{server.sockets[0].getsockname()[1]}")
    where = "during the TLS handshake" if is_tls else "before it answered"
    says(
        error, LinkUnavailable, rf"the server closed the connection {where}; is this a TLS port\?.*"
    )


async def test_server_that_is_silent() -> None:
    """It takes the connection and says nothing."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda reader, writer: writers.append(writer), HOST, 0)
    async with server:
        error = await obstacle(f"redis://{HOST}:{server.sockets[0].getsockname()[1]}", timeout=0.5)
        for writer in writers:
            writer.close()
    says(
        error,
        LinkUnavailable,
        r"connected, and no answer within 0.5 s; is it Redis, and does it run\?",
    )


async def test_name_that_nobody_knows() -> None:
    """The name is in the address."""
    error = await obstacle("redis://no-such-host.invalid")
    says(error, LinkUnavailable, r"the host name cannot be resolved: .*; is it right in hosts\?")


async def test_socket_that_is_not_there(tmp_path: Path) -> None:
    """So is the path."""
    error = await obstacle(f"unix://{tmp_path}/none.sock")
    says(error, LinkUnavailable, r"there is no such socket; is Redis running, .*unixsocket\?")
    assert f"unix:{tmp_path}/none.sock" in str(error)


async def test_certificates(
    make_redis: MakeRedis, certificates: Certificates, tmp_path: Path
) -> None:
    """It is this process that refuses a certificate, or the server; a file that has gone is named."""
    server = make_redis(tls=certificates)
    stranger = f"rediss://{HOST}:{server.port}"
    says(
        await obstacle(stranger),
        LinkRefused,
        r"TLS: this process does not trust its certificate: .*; is the authority that signed it in"
        r" ssl_ca_certs\?",
    )
    other = trustme.CA()
    other.cert_pem.write_to_path(tmp_path / "ca.pem")
    host = {"address": stranger, "ssl_ca_certs": str(tmp_path / "ca.pem")}
    layer = MultiplexedChannelLayer(hosts=[host])
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(
        LinkUnavailable, match=r"hosts: ssl_ca_certs names a file that does not exi"
    ):
        await layer._hub._dialer.dial(None)  # type: ignore[arg-type]


async def test_database_and_password(make_redis: MakeRedis) -> None:
    """What Redis says is said as its own."""
    server = make_redis(password="right")
    says(
        await obstacle({"host": HOST, "port": server.port}),
        LinkRefused,
        r"it wants a password, and hosts has none \(.*\)",
    )
    says(
        await obstacle({"host": HOST, "port": server.port, "password": "wrong"}),
        LinkRefused,
        "it does not accept this process: invalid username-password pair or user is disabled.",
    )
    says(
        await obstacle({"host": HOST, "port": server.port, "password": "right", "db": 99}),
        LinkRefused,
        "it has no database 99: DB index is out of range",
    )


async def test_sentinels_that_cannot_help(make_redis: MakeRedis) -> None:
    """Each is named with what it has said, long before the deadline of a call."""
    plain, locked, port = make_redis(), make_redis(password="right"), free_port()
    sentinels = [(HOST, port), (HOST, locked.port), (HOST, plain.port)]
    host = {"sentinels": sentinels, "master_name": "main"}
    error = await obstacle(host)
    says(
        error,
        LinkUnavailable,
        rf"no sentinel names the master 'main' \({HOST}:{port}: connection refused; is Redis running"
        rf" there\?; {HOST}:{locked.port}: it (wants a password|does not).*; {HOST}:{plain.port}: .*unknown"
        rf" command.*\)",
    )
    layer = MultiplexedChannelLayer(hosts=[{**host, "sentinels": [(HOST, port)]}], timeout=3)
    with pytest.raises(LinkUnavailable, match=r"no sentinel names the master 'main'.*refused"):
        await layer.new_channel()
    await layer.aclose()
    refused = {"sentinels": [(HOST, locked.port)], "master_name": "main"}
    assert isinstance(await obstacle(refused), LinkRefused)


async def test_master_that_is_gone() -> None:
    """A server that speaks as a sentinel and names a master that is not there."""
    away = free_port()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fields = {"name": "main", "ip": HOST, "port": str(away), "flags": "master"}
        fields |= {"num-other-sentinels": "0", "quorum": "1", "config-epoch": "1"}
        while data := await reader.read(4096):
            for _ in range(data.upper().count(b"*") if b"MASTERS" not in data.upper() else 0):
                writer.write(b"+OK\r\n")
            if b"MASTERS" in data.upper():
                words = [word for pair in fields.items() for word in pair]
                writer.write(b"*1\r\n*%d\r\n" % len(words))
                writer.write(b"".join(b"$%d\r\n%b\r\n" % (len(w), w.encode()) for w in words))
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        host = {"sentinels": [(HOST, port)], "master_name": "main"}
        host["sentinel_kwargs"] = {"protocol": 2}
        error = await obstacle(host)
    says(error, LinkUnavailable, rf"{HOST}:{away}: connection refused; .*")
    assert "sentinel master 'main'" in str(error)


async def test_what_somebody_is_handling_is_no_reason() -> None:
    """An attempt that is made while another error is being handled tells its own."""
    try:
        raise ssl.SSLCertVerificationError("of somebody else")
    except ssl.SSLError:
        error = await obstacle(f"redis://{HOST}:{free_port()}")
    says(error, LinkUnavailable, r"connection refused; is Redis running there\?")
