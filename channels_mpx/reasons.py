"""Why an attempt to connect failed: one sentence that names the likely cause.

What the system and TLS say is short and speaks of themselves; here it is said of Redis and of the
setting ``hosts``.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Attempt", "Stage", "chain", "find_certificate_problem", "find_obstacle"]

#: What OpenSSL says of a certificate whose authority is unknown: X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT,
#: X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY.
_UNKNOWN_AUTHORITY = (18, 19, 20)

#: The same of a certificate for another host: X509_V_ERR_HOSTNAME_MISMATCH, …_IP_ADDRESS_MISMATCH.
_OTHER_HOST = (62, 64)

_NOT_TLS = "is this a TLS port? hosts asks for TLS (rediss:// or 'ssl')"
_NOT_PLAIN = "is this a TLS port? hosts asks for a connection without TLS (redis://)"


class Stage(enum.IntEnum):
    """How far an attempt has come."""

    CONNECTING = 0
    GREETING = 1
    GREETED = 2


@dataclass
class Attempt:
    """One attempt to connect.

    Attributes:
        timeout: Seconds for each step of it.
        is_tls: Whether it asks for TLS.
        is_local: Whether it goes to a unix socket.
        stage: How far it has come.
        address: Where it goes, once that is known.
    """

    timeout: float
    is_tls: bool
    is_local: bool
    stage: Stage = Stage.CONNECTING
    address: str = ""

    def closed(self) -> str:
        """Say that the server has closed the connection."""
        if self.stage is Stage.CONNECTING and self.is_tls:
            return f"the server closed the connection during the TLS handshake; {_NOT_TLS}"
        if self.stage is Stage.GREETED:
            return "the server closed the connection after the handshake"
        text = "the server closed the connection before it answered"
        return text if self.is_tls or self.is_local else f"{text}; {_NOT_PLAIN}"

    def timed_out(self) -> str:
        """Say that a step has taken too long."""
        seconds = f"within {self.timeout:g} s"
        if self.stage is not Stage.CONNECTING:
            return f"connected, and no answer {seconds}; is it Redis, and does it run?"
        if self.is_tls:
            return f"no TLS handshake {seconds}; {_NOT_TLS}"
        return f"no connection {seconds}; is the address right, and may this process reach it?"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it came from, to the first of the system's.

    What stands behind that one is what somebody was handling when the attempt began.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        if isinstance(error, (OSError, asyncio.TimeoutError)):
            return
        error = error.__cause__ or error.__context__


def find_certificate_problem(error: BaseException) -> str | None:
    """Return what is wrong with a certificate, ours or the server's; None if it is not that."""
    for each in chain(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            text = f"TLS: this process does not trust its certificate: {each.verify_message}"
            if each.verify_code in _UNKNOWN_AUTHORITY:
                return f"{text}; is the authority that signed it in ssl_ca_certs?"
            if each.verify_code in _OTHER_HOST:
                return f"{text}; is hosts the name for which it was issued?"
            return text
        reason = str(each.reason) if isinstance(each, ssl.SSLError) else ""
        if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
            said = reason.lower().replace("_", " ")
            return (
                f"TLS: it does not accept the certificate of this process: {said}; "
                "are ssl_certfile and ssl_keyfile right?"
            )
    return None


def find_obstacle(error: BaseException, attempt: Attempt) -> str | None:
    """Return what the system or TLS has said, and what that means; None if neither said anything."""
    for each in chain(error):
        if isinstance(each, ssl.SSLError):
            return _say_tls(each, attempt)
        if isinstance(each, socket.gaierror):
            return f"the host name cannot be resolved: {each.strerror}; is it right in hosts?"
        if isinstance(each, (TimeoutError, asyncio.TimeoutError)):
            return attempt.timed_out()
        if isinstance(each, OSError):
            return _say_system(each, attempt)
    return None


def _say_tls(error: ssl.SSLError, attempt: Attempt) -> str:
    reason = (error.reason or str(error)).lower().replace("_", " ")
    if isinstance(error, ssl.SSLEOFError):
        return attempt.closed()
    if "wrong version number" in reason or "record layer" in reason:
        return f"the server answered without TLS; {_NOT_TLS}"
    return f"TLS: {reason}"


def _say_system(error: OSError, attempt: Attempt) -> str:
    # Where a name has several addresses asyncio puts all their errors into one text.
    numbers = {error.errno or 0} - {0} or set(map(int, re.findall(r"\[Errno (\d+)\]", str(error))))
    if numbers == {errno.ECONNREFUSED}:
        return "connection refused; is Redis running there?"
    if numbers & {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}:
        return attempt.closed()
    if attempt.is_local and numbers == {errno.ENOENT}:
        return "there is no such socket; is Redis running, and is this its unixsocket?"
    if attempt.is_local and numbers & {errno.EACCES, errno.EPERM}:
        return "this process may not use the socket: Permission denied; see Redis's unixsocketperm"
    return error.strerror or str(error) or type(error).__name__
