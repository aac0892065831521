"""System checks: is ``CHANNEL_LAYERS`` right, and is it ready for production?

`check_settings` runs with every management command and connects to nothing. The other two run with
``check --deploy``; `check_servers` asks each server what it allows, for at most `PATIENCE` seconds.
Only layers of this package and of its subclasses are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Warning
from django.core.management import get_commands
from django.utils.module_loading import import_string

from . import exposure
from .exceptions import CommandRefused, ConfigurationError, LinkRefused, MPXError
from .layer import MultiplexedChannelLayer
from .options import Options
from .server import Server

__all__ = ["TAG", "check_deployment", "check_servers", "check_settings"]

TAG = "channels"

#: Seconds that a check waits for a server.
PATIENCE = 2

#: What Channels reads from the entry of an alias.
KEYS = ("BACKEND", "CONFIG", "TEST_CONFIG")

#: Options whose values are checked against each other.
PAIR = ("reconnect_delay", "max_reconnect_delay")

#: What servers without RESP3 answer to ``HELLO 3``: before Redis 6, and proxies that lack it.
NO_RESP3 = re.compile(r"unknown command\W+HELLO|NOPROTO", re.IGNORECASE)

_DEFAULTS = {
    option.name: option.default if option.default is not MISSING else None
    for option in fields(Options)
}


def check_settings(**kwargs: object) -> list[CheckMessage]:
    """Return what is wrong with the settings of our layers."""
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    if not isinstance(layers, Mapping):
        return [_not_a_dict(layers, "CHANNEL_LAYERS", "one entry for each alias")]
    found = [message for alias in layers for message in _check_alias(alias, layers[alias])]
    return [*found, *_check_runserver(layers)]


def check_deployment(**kwargs: object) -> list[CheckMessage]:
    """Return what the settings of our layers lack for production."""
    return [message for alias, layer in _layers() for message in _check_host(alias, layer.options)]


def check_servers(**kwargs: object) -> list[CheckMessage]:
    """Return what the servers of our layers lack. Connects to each, and closes again."""
    found: list[CheckMessage] = []
    for alias, layer in _layers():
        server = Server(layer)
        if not server.is_memory:
            try:
                found += _check_server(_path(alias, "hosts"), server)
            finally:
                server.close()
    return found


# The settings


def _path(alias: str, *options: str) -> str:
    """Return where in the settings something stands."""
    keys = (alias, "CONFIG", *options) if options else (alias,)
    return "CHANNEL_LAYERS" + "".join(f"[{key!r}]" for key in keys)


def _not_a_dict(value: object, path: str, content: str) -> CheckMessage:
    return Error(
        f"It must be a dict, not {type(value).__name__}.",
        hint=f"Make it a dict with {content}.",
        obj=path,
        id="channels_mpx.E001",
    )


def _find_backend(entry: object) -> Any:
    """Return the class that ``BACKEND`` names, or the error that it cannot be imported with."""
    name = entry.get("BACKEND") if isinstance(entry, Mapping) else None
    if not isinstance(name, str):
        return None
    try:
        return import_string(name)
    except Exception as error:  # a module of the user's may raise anything
        return error


def _is_ours(backend: object) -> bool:
    return isinstance(backend, type) and issubclass(backend, MultiplexedChannelLayer)


def _check_alias(alias: str, entry: Any) -> Iterator[CheckMessage]:
    if not isinstance(entry, Mapping):
        yield _not_a_dict(entry, _path(alias), "'BACKEND' and 'CONFIG'")
        return
    backend = _find_backend(entry)
    if backend is None:
        yield _bad_backend(alias, "There is no BACKEND.")
    elif isinstance(backend, Exception):
        yield _not_imported(alias, entry["BACKEND"], backend)
    elif _is_ours(backend):
        yield from _check_entry(alias, entry, backend)


def _check_entry(alias: str, entry: Mapping[str, Any], backend: type) -> Iterator[CheckMessage]:
    for key in entry:
        if key not in KEYS:
            yield Warning(
                f"The key {key!r} means nothing here.",
                hint=f"Options of the layer belong into 'CONFIG'. Known keys: {', '.join(KEYS)}.",
                obj=_path(alias),
                id="channels_mpx.W002",
            )
    config = entry.get("CONFIG", {})
    if not isinstance(config, Mapping):
        yield _not_a_dict(config, f"{_path(alias)}['CONFIG']", "the options of the layer, or {}")
        return
    try:
        backend(**config)
    except ConfigurationError as error:
        yield from _blame(alias, config, _text(error), backend is MultiplexedChannelLayer)
    except Exception as error:  # a subclass of the user's may raise anything
        yield _not_made(alias, f"{type(error).__name__}: {error}")


def _bad_backend(alias: str, text: str) -> CheckMessage:
    hint = "The layer is 'channels_mpx.MultiplexedChannelLayer'."
    return Error(text, hint=hint, obj=_path(alias), id="channels_mpx.E002")


def _not_imported(alias: str, name: str, error: Exception) -> CheckMessage:
    text = f"BACKEND {name!r} cannot be imported: {type(error).__name__}: {error}"
    if name.partition(".")[0] == "channels_mpx":
        return _bad_backend(alias, text)
    hint = "Whether it is a layer of channels_mpx cannot be told; its CONFIG was not checked."
    return Warning(text, hint=hint, obj=_path(alias), id="channels_mpx.W001")


def _check_runserver(layers: Mapping[str, Any]) -> Iterator[CheckMessage]:
    """Yield a warning if the development server answers WebSockets with 404."""
    app = get_commands().get("runserver")
    is_wsgi = app in ("django.core", "django.contrib.staticfiles")
    if settings.DEBUG and is_wsgi and any(_is_ours(_find_backend(it)) for it in layers.values()):
        yield Warning(
            "runserver serves WSGI only: it answers WebSockets with 404.",
            hint="Put 'daphne' at the top of INSTALLED_APPS (pip install daphne), or start an ASGI"
            " server such as uvicorn yourself and silence this.",
            obj="INSTALLED_APPS",
            id="channels_mpx.W003",
        )


def _not_made(alias: str, text: str) -> CheckMessage:
    return Error(
        f"The layer cannot be made: {text}",
        hint="This is what its BACKEND raises when it is called with CONFIG.",
        obj=_path(alias),
        id="channels_mpx.E005",
    )


def _blame(
    alias: str, config: Mapping[str, Any], text: str, is_complete: bool
) -> Iterator[CheckMessage]:
    """Yield an error for each option that is wrong by itself, or else what the layer said.

    Args:
        alias: Whose options.
        config: The options.
        text: What the layer said, of one of them.
        is_complete: Whether there are no other options than ours, as subclasses may have.
    """
    found = False
    for name in config:
        together = [each for each in PAIR if each in config] if name in PAIR else [name]
        if name != together[0] or not (is_complete or name in _DEFAULTS):
            continue
        try:
            Options.parse({each: config[each] for each in together})
        except ConfigurationError as error:
            found = True
            yield _wrong_option(alias, name, _text(error))
    if not found:
        # What only making the layer finds: a serializer, a package, an argument of redis-py.
        yield _wrong_option(alias, None, text)


def _wrong_option(alias: str, name: str | None, text: str) -> CheckMessage:
    """Return an error for the option that the text begins with, or else for ``name``."""
    known = next((option for option in _DEFAULTS if text.startswith(option)), None)
    if known is not None:
        default = "redis://localhost:6379" if known == "hosts" else repr(_DEFAULTS[known])
        hint = f"Without it, {known} is {default}."
        return Error(text, hint=hint, obj=_path(alias, known), id="channels_mpx.E004")
    if name is not None:
        hint = f"Known options: {', '.join(_DEFAULTS)}."
        return Error(text, hint=hint, obj=_path(alias, name), id="channels_mpx.E003")
    return _not_made(alias, text)


def _text(error: ConfigurationError) -> str:
    return str(error).partition(": ")[2]


# Production


def _layers() -> Iterator[tuple[str, MultiplexedChannelLayer]]:
    """Yield our layers whose settings hold, made for the occasion; the others have their errors."""
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    if isinstance(layers, Mapping):
        for alias, entry in layers.items():
            backend = _find_backend(entry)
            if _is_ours(backend) and not any(
                message.is_serious() for message in _check_alias(alias, entry)
            ):
                yield alias, backend(**entry.get("CONFIG", {}))


def _check_host(alias: str, options: Options) -> Iterator[CheckMessage]:
    path = _path(alias, "hosts")
    if options.hosts.memory is not None:
        yield Warning(
            "memory:// stays within one process: other workers, tasks and commands reach nobody.",
            hint="Give the URL of a Redis server.",
            obj=path,
            id="channels_mpx.W014",
        )
        return
    if exposure.is_remote(options.hosts):
        if not exposure.has_tls(options.hosts):
            yield Warning(
                "The connection to another machine is not encrypted.",
                hint="Use rediss://, or 'ssl': True in a dict.",
                obj=path,
                id="channels_mpx.W011",
            )
        if not exposure.has_password(options.hosts):
            yield Warning(
                "There is no password for a server on another machine.",
                hint="Give Redis a user with a password, and put both into the URL or the dict.",
                obj=path,
                id="channels_mpx.W012",
            )
    if not options.symmetric_encryption_keys:
        yield Warning(
            "Messages are not encrypted: whoever can read Redis can read them, and whoever can"
            " publish there can make them up.",
            hint="Give a secret. All processes need the same.",
            obj=_path(alias, "symmetric_encryption_keys"),
            id="channels_mpx.W013",
        )
    if exposure.has_password_in_url(options.hosts):
        yield Warning(
            "There is a password inside a URL: Django's error page and its mails to ADMINS show it.",
            hint="Give the dict {'address': <the URL without it>, 'password': …}. Django hides what"
            " is called password.",
            obj=path,
            id="channels_mpx.W018",
        )


def _check_server(path: str, server: Server) -> Iterator[CheckMessage]:
    try:
        reply = server.reach(PATIENCE, b"CONFIG", b"GET", b"client-output-buffer-limit")
    except CommandRefused as error:
        yield Info(
            f"Its limits of output buffers cannot be read: {error.text}",
            hint="Allow +config|get, or compare client-output-buffer-limit with max_message_size.",
            obj=path,
            id="channels_mpx.I001",
        )
    except LinkRefused as error:
        if NO_RESP3.search(error.reason):
            yield Warning(
                f"The server does not speak RESP3: {error.reason}",
                hint="Use Redis 6 or newer, or what is compatible with it.",
                obj=path,
                id="channels_mpx.W016",
            )
        else:
            yield _not_asked(path, error)
    except MPXError as error:
        yield _not_asked(path, error)
    else:
        yield from _check_limits(path, reply, server.layer.options.max_message_size)


def _not_asked(path: str, error: MPXError) -> CheckMessage:
    return Warning(
        f"The server could not be asked: {error}",
        hint="Run the check where Redis can be reached, or silence it.",
        obj=path,
        id="channels_mpx.W017",
    )


def _check_limits(path: str, reply: Mapping[bytes, bytes], size: int) -> Iterator[CheckMessage]:
    words = b" ".join(reply.values()).split()
    if b"pubsub" not in words:
        return
    at = words.index(b"pubsub")
    hard, soft = int(words[at + 1]), int(words[at + 2])
    # Redis cuts a client off when this much waits for it. 0: never.
    if 0 < hard < 2 * size or 0 < soft < size:
        yield Warning(
            f"Redis closes the connection when {hard} bytes wait for a process, or {soft} for"
            f" longer; max_message_size is {size}.",
            hint="Raise client-output-buffer-limit pubsub to two messages (hard) and one (soft),"
            " or lower max_message_size.",
            obj=path,
            id="channels_mpx.W015",
        )
