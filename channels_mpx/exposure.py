"""How exposed a server is, as far as its entry in ``hosts`` tells. Nobody is asked."""

from __future__ import annotations

import ipaddress
from urllib.parse import parse_qs, urlsplit

from .hosts import Host

__all__ = ["has_password", "has_password_in_url", "has_tls", "is_remote"]


def is_remote(host: Host) -> bool:
    """Tell whether a server is, or may be, on another machine. A name that is not local is."""
    if "path" in host.arguments:
        return False
    if host.sentinel:
        names = [name for name, _ in host.sentinel["sentinels"]]
    elif "host" in host.arguments:
        names = [host.arguments["host"]]
    else:
        parts = urlsplit(host.url or "")
        names = ["localhost" if parts.scheme == "unix" else parts.hostname or "localhost"]
    return not all(_is_local(str(name)) for name in names)


def has_tls(host: Host) -> bool:
    """Tell whether the connection is encrypted, or may be."""
    if "connection_class" in host.arguments:
        return True  # of the user's own making: it is not for us to tell
    return bool(host.arguments.get("ssl")) or urlsplit(host.url or "").scheme == "rediss"


def has_password(host: Host) -> bool:
    """Tell whether there is a password, or somebody who provides one."""
    parts = urlsplit(host.url or "")
    given = {**parse_qs(parts.query), **host.arguments}
    return bool(parts.password or given.get("password") or given.get("credential_provider"))


def has_password_in_url(host: Host) -> bool:
    """Tell whether a password stands where only a reader of URLs can see that it is one."""
    parts = urlsplit(host.url or "")
    return bool(parts.password) or any("password" in name for name in parse_qs(parts.query))


def _is_local(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
