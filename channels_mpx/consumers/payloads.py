"""What handlers get of a payload: the bytes themselves, or what they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from channels_mpx import exceptions

__all__ = ["decoder"]

Decoder = Callable[[bytes], Any]

#: What decoders raise: for text that is no UTF-8, maps with keys that have no hash, nesting without
#: end, and all the rest. Those of older versions of msgspec are not all its own.
_NOT_OF_THAT_FORM = (ValueError, TypeError, RecursionError, msgspec.MsgspecError)


def _checked(form: str, decode: Decoder) -> Decoder:
    def checked(payload: bytes) -> Any:
        try:
            return decode(payload)
        except _NOT_OF_THAT_FORM as error:
            raise exceptions.DecodingError(
                problem=f"the payload is not {form!r}: {error}"
            ) from error

    return checked


_DECODERS: dict[str, Decoder] = {
    "bytes": bytes,
    "text": _checked("text", bytes.decode),
    "json": _checked("json", msgspec.json.decode),
    "msgpack": _checked("msgpack", msgspec.msgpack.decode),
}


def decoder(form: object, name: str = "payload") -> Decoder:
    """Return what turns payloads of one form into what handlers get.

    Args:
        form: ``bytes``, ``text`` (UTF-8), ``json`` or ``msgpack``.
        name: What the user calls it.

    Returns:
        A function that raises `DecodingError` for a payload of another form.

    Raises:
        ConfigurationError: There is no such form.
    """
    decode = _DECODERS.get(form) if isinstance(form, str) else None
    if decode is None:
        known = ", ".join(map(repr, _DECODERS))
        raise exceptions.ConfigurationError(problem=f"{name} must be one of {known}, not {form!r}")
    return decode
