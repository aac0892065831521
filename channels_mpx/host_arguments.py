"""Arguments of redis-py's connections: which there are, and which values they can have.

No value that may be secret is told.
"""

from __future__ import annotations

import codecs
import difflib
import inspect
import os
import ssl
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["find_file_problem", "find_problem", "require_known"]

#: Returns what is wrong with a value, in words that follow its name; None if nothing is.
Find = Callable[[Any, Mapping[str, Any]], "str | None"]

#: What a dict in ``hosts`` may have besides the arguments of a connection.
_FORMS = {"address", "unix_socket_path", "ssl", "sentinels", "master_name", "sentinel_kwargs"}

_UNSET = "is None; is an environment variable not set?"


def find_problem(name: str, value: Any, others: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the value of an argument, in words that follow its name.

    Args:
        name: The argument.
        value: Its value.
        others: All arguments that are given together; TLS looks at several files at once.

    Returns:
        None if nothing is wrong, or if nothing is known of such an argument.
    """
    find = _FINDS.get(name)
    return None if find is None else find(value, others)


def find_file_problem(arguments: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the files of TLS, the argument's name first; None if nothing is."""
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        problem = find_problem(name, arguments.get(name), arguments)
        if problem is not None:
            return f"{name} {problem}"
    return None


def _port(value: Any, others: Mapping[str, Any]) -> str | None:
    if value is None:
        return _UNSET
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and value.isascii() and value.isdecimal()):
        if 1 <= int(value) <= 65535:
            return None
    # What is no number may be somebody's password in the wrong place.
    return f"must be 1 to 65535, not {value}" if is_number else "must be a number, 1 to 65535"


def _host(value: Any, others: Mapping[str, Any]) -> str | None:
    if value is None:
        return _UNSET
    if not isinstance(value, str):
        return f"must be a host name, not {type(value).__name__}"
    if not value:
        return "is empty; is an environment variable empty?"
    return None


def _path(value: Any, others: Mapping[str, Any]) -> str | None:
    if value is None:
        return _UNSET
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        return "must be the path of a unix socket" + _not(value)
    return None


def _database(value: Any, others: Mapping[str, Any]) -> str | None:
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    is_digits = isinstance(value, str) and value.isascii() and value.isdecimal()
    if value is None or is_number or is_digits:
        return None
    return "must be the number of a database, 0 or more"


def _credential(value: Any, others: Mapping[str, Any]) -> str | None:
    if value is None or isinstance(value, (bytes, int)):
        return None
    if not isinstance(value, str):
        return f"must be a string, not {type(value).__name__}"
    encoding = others.get("encoding") or "utf-8"
    try:
        value.encode(encoding)
    except UnicodeEncodeError:
        return f"has a character that {encoding} cannot encode"
    except LookupError:
        return None  # which is a problem of the encoding's
    return None


def _provider(value: Any, others: Mapping[str, Any]) -> str | None:
    # redis-py before 5.1 calls the one, newer ones the other; its base class has what is needed.
    names = ("get_credentials", "get_credentials_async")
    if value is None or any(callable(getattr(value, name, None)) for name in names):
        return None
    return "must be a redis.CredentialProvider" + _not(value)


def _protocol(value: Any, others: Mapping[str, Any]) -> str | None:
    # The layer speaks RESP3, whatever stands here.
    return None if value in (None, 2, 3, "2", "3") else "must be 2 or 3"


def _encoding(value: Any, others: Mapping[str, Any]) -> str | None:
    try:
        codecs.lookup(value)
    except (LookupError, TypeError, ValueError):
        return "must be an encoding that Python knows, such as 'utf-8'"
    return None


def _flag(value: Any, others: Mapping[str, Any]) -> str | None:
    return None if value in (True, False, None) else "must be True or False" + _not(value)


def _not(value: Any) -> str:
    return f", not {type(value).__name__}"


# TLS


def _readable(value: Any) -> str | None:
    """Return why a file cannot be read. Its name is no secret, and what one looks for."""
    if not isinstance(value, (str, os.PathLike)):
        return "must be the path of a file" + _not(value)
    try:
        with open(value, "rb"):
            return None
    except FileNotFoundError:
        return f"names a file that does not exist: {os.fspath(value)!r}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return f"names a file that cannot be read: {os.fspath(value)!r}: {reason}"


def _authorities(value: Any, others: Mapping[str, Any]) -> str | None:
    problem = None if value is None else _readable(value)
    if value is None or problem is not None:
        return problem
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(value)
    except ssl.SSLError:
        return f"names a file without a certificate in PEM form: {os.fspath(value)!r}"
    return None


def _certificate(value: Any, others: Mapping[str, Any]) -> str | None:
    """Look at our own certificate together with its key, which may be in the same file."""
    problem = None if value is None else _readable(value)
    key = others.get("ssl_keyfile")
    if value is None or problem is not None or (key is not None and _readable(key) is not None):
        return problem  # or the key's own
    password = others.get("ssl_password")
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
            value, key, lambda: password if password is not None else ""
        )
    except (ssl.SSLError, TypeError, ValueError):
        return (
            f"and ssl_keyfile cannot be used together: {os.fspath(value)!r} must be a certificate in "
            "PEM form, ssl_keyfile its key, and ssl_password the key's, if it has one"
        )
    return None


def _key(value: Any, others: Mapping[str, Any]) -> str | None:
    if value is None:
        return None
    return _readable(value) if others.get("ssl_certfile") else "needs ssl_certfile as well"


def _directory(value: Any, others: Mapping[str, Any]) -> str | None:
    if value is None or (isinstance(value, (str, os.PathLike)) and os.path.isdir(value)):
        return None
    return "must be a directory of certificates that exists"


_FINDS: dict[str, Find] = {
    "host": _host,
    "port": _port,
    "path": _path,
    "db": _database,
    "username": _credential,
    "password": _credential,
    "credential_provider": _provider,
    "encoding": _encoding,
    "protocol": _protocol,
    "ssl": _flag,
    "ssl_ca_certs": _authorities,
    "ssl_certfile": _certificate,
    "ssl_keyfile": _key,
    "ssl_ca_path": _directory,
}


# Names


def require_known(
    kind: type, arguments: Mapping[str, Any], in_url: Mapping[str, Any], tls: type
) -> None:
    """Refuse arguments that a class does not take, with the nearest one that it does.

    Args:
        kind: The class.
        arguments: What it is going to get.
        in_url: Those of them that come from a URL.
        tls: The class that knows the arguments of TLS.

    Raises:
        ValueError: There is one. It is not told if it comes from a URL: what looks like a name
            there may be a part of a password.
    """
    known = _find_known(kind)
    for name in arguments:
        if known is None or name in known:
            continue
        shown = "in the URL" if name in in_url else repr(name)
        if name.startswith("ssl_") and name in (_find_known(tls) or ()):
            raise ValueError(f"{name!r} is for TLS; use rediss://, or 'ssl': True in a dict")
        near = difflib.get_close_matches(name, known | _FORMS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
        raise ValueError(f"there is no argument {shown}; {hint}")


def _find_known(kind: type) -> set[str] | None:
    """Return the names of the arguments that a class takes; None if it takes any."""
    names: set[str] = set()
    for each in kind.__mro__:
        if "__init__" in each.__dict__:
            parameters = tuple(inspect.signature(each.__dict__["__init__"]).parameters.values())[1:]
            names |= {one.name for one in parameters if one.kind is not one.VAR_KEYWORD}
            if not any(one.kind is one.VAR_KEYWORD for one in parameters):
                return names
    return None
