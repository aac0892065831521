"""How messages become bytes: msgpack, JSON, or a class of the user's own."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from . import exceptions

__all__ = [
    "JSONSerializer",
    "Message",
    "MsgPackSerializer",
    "Serializer",
    "find_serializer",
    "register_serializer",
]

Message = dict[str, Any]

#: What a message's values may be, but for lists and dicts of them.
SCALARS = frozenset({str, bytes, int, float, bool, type(None)})


class Serializer(Protocol):
    """What a serializer class must offer; it is instantiated without arguments."""

    def serialize(self, message: Message) -> bytes:
        """Return the bytes of a message; raise anything if it has a value without a form."""

    def deserialize(self, data: bytes) -> Message:
        """Return the message; raise anything if the bytes are not one."""


class MsgPackSerializer:
    """msgpack, the default: everything that the specification allows."""

    #: Values of these exact types need no closer look.
    scalars = SCALARS

    def __init__(self) -> None:
        self.serialize: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
        self.deserialize: Callable[[bytes], Message] = msgspec.msgpack.Decoder(Message).decode

    def problem(self, value: object) -> str | None:
        """Say why a scalar has no form here, if it has none."""
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            return "the integer does not fit into 64 bits"
        return None


class JSONSerializer:
    """JSON: readable on the wire, but without byte strings, NaN and infinities."""

    scalars = SCALARS - {bytes, float}

    def __init__(self) -> None:
        self.serialize: Callable[[Any], bytes] = msgspec.json.Encoder().encode
        self.deserialize: Callable[[bytes], Message] = msgspec.json.Decoder(Message).decode

    def problem(self, value: object) -> str | None:
        """Say why a scalar has no form here, if it has none."""
        if isinstance(value, bytes):
            return "JSON has no byte strings; use serializer_format 'msgpack'"
        if isinstance(value, float) and not math.isfinite(value):
            return f"JSON has no {value!r}; use serializer_format 'msgpack'"
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            return "the integer does not fit into 64 bits"
        return None


_registry: dict[str, type[Serializer]] = {"msgpack": MsgPackSerializer, "json": JSONSerializer}


def register_serializer(name: str, serializer: type[Serializer]) -> None:
    """Make a serializer known, so that ``serializer_format`` can name it.

    Args:
        name: The value for ``serializer_format``. An earlier one of that name is replaced.
        serializer: A class that takes no arguments and has ``serialize`` and ``deserialize``.

    Raises:
        ConfigurationError: It has not both methods.
    """
    _registry[name] = _require_serializer(serializer, name)


def find_serializer(form: str | type[Serializer]) -> type[Serializer]:
    """Return the class for a ``serializer_format``: a registered name, a dotted path or a class.

    Raises:
        ConfigurationError: There is none such; the nearest known name is given.
    """
    if not isinstance(form, str):
        return _require_serializer(form, repr(form))
    if form in _registry:
        return _registry[form]
    module, dot, attribute = form.rpartition(".")
    if dot and all(part.isidentifier() for part in form.split(".")):
        try:
            return _require_serializer(getattr(importlib.import_module(module), attribute), form)
        except exceptions.ConfigurationError:
            raise
        except Exception as error:  # a module of the user's may raise anything
            what = (
                ""
                if isinstance(error, ImportError | AttributeError)
                else f"{type(error).__name__}: "
            )
            raise exceptions.ConfigurationError(
                problem=f"serializer_format {form!r} cannot be imported: {what}{error}"
            ) from error
    near = difflib.get_close_matches(form, _registry, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {sorted(_registry)}"
    raise exceptions.ConfigurationError(problem=f"serializer_format {form!r} is unknown{hint}")


def _require_serializer(candidate: Any, name: str) -> type[Serializer]:
    methods = ("serialize", "deserialize")
    builtin = (MsgPackSerializer, JSONSerializer)
    if candidate in builtin or all(callable(getattr(candidate, m, None)) for m in methods):
        serializer: type[Serializer] = candidate
        return serializer
    raise exceptions.ConfigurationError(
        problem=f"serializer_format {name} needs the methods serialize(message) and deserialize(data)"
    )
