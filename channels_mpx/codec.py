"""Messages to bytes and back, and the check that what leaves arrives unchanged.

Channels' specification (Messages) allows byte strings, unicode strings, integers in the signed
64-bit range, floats, lists, dicts with unicode keys, booleans and None; tuples arrive as lists. A
value outside that is refused at the sender, by the path to it, instead of being turned silently
into something else (msgspec would write a UUID, a Decimal or a datetime as a string). Subclasses
of the allowed types, such as ``SafeString`` or a ``TextChoices`` member, travel as their base.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

import msgspec

from . import exceptions
from .serializers import SCALARS, JSONSerializer, Message, MsgPackSerializer, Serializer
from .weighing import CONTAINER_WEIGHT, Allowance

__all__ = ["Codec"]

#: Bytes before an encrypted message that say where it belongs. To find another place with the same
#: ones is out of reach, since whoever sends puts the time of sending into the place.
PLACE_SIZE = 16

#: Levels of lists and dicts inside a message: any receiver can decode it, however deep its stack.
MAX_DEPTH = 64

#: Where Django's lazy objects, such as those of ``gettext_lazy``, are made.
_LAZY_MODULE = "django.utils.functional"

#: Modules whose values a string says all of.
_WRITTEN_AS_TEXT = frozenset({"datetime", "decimal", "fractions", "ipaddress", "pathlib", "uuid"})

_OURS = (MsgPackSerializer, JSONSerializer)
_are_scalars = SCALARS.issuperset
_chain = itertools.chain.from_iterable
_join = "".join
_BASES: tuple[type[Any], ...] = (str, bytes, int, float)


class Codec:
    """Turns messages into bodies and back.

    Args:
        serializer: The class of the serializer.
        keys: Secrets; the first encrypts, all decrypt. Without any, bodies travel in the clear
            and encrypted ones are refused; with some, bodies in the clear are refused.
        max_size: Bytes of the largest message; how much it may hold is in proportion to that.

    Raises:
        ConfigurationError: Keys were given and ``cryptography`` is not installed.
    """

    def __init__(
        self,
        serializer: type[Serializer] = MsgPackSerializer,
        keys: Sequence[str | bytes] = (),
        max_size: int = 8 * 2**20,
    ) -> None:
        self._serializer = serializer()
        self._checked = isinstance(self._serializer, _OURS)
        #: Whether a class derived from ours may decode what our decoders refuse at the top.
        self._is_derived = self._checked and type(self._serializer) not in _OURS
        #: JSON knows no end of integers. Writing all of them is the quickest look at each.
        self._measure = (
            msgspec.msgpack.Encoder().encode
            if isinstance(self._serializer, JSONSerializer)
            else None
        )
        self._allowance = allowance = Allowance(max_size)
        #: Tells whether a body holds no more than is allowed; a user's own form cannot be looked at.
        self._admits: Callable[[bytes], bool] = {
            MsgPackSerializer: allowance.admits_msgpack,
            JSONSerializer: allowance.admits_json,
        }.get(serializer, lambda data: True)
        #: Bytes that cannot hold more than is allowed.
        self._harmless = allowance.harmless
        self._scalars: frozenset[type] = getattr(self._serializer, "scalars", frozenset())
        self._crypter = _make_crypter(keys) if keys else None
        self.encrypts = self._crypter is not None

    def encode(self, message: Message, place: bytes = b"") -> bytes:
        """Return the body for a message, encrypted if there are keys.

        Args:
            message: The message.
            place: See `seal`.

        Raises:
            EncodingError: See `serialize`.
        """
        return self.seal(self.serialize(message), place)

    def serialize(self, message: Message) -> bytes:
        """Return the body for a message in the clear.

        Raises:
            EncodingError: The message is not a dict or holds a value that has no wire form.
        """
        if not isinstance(message, dict):
            raise exceptions.EncodingError(
                path="the top", problem=f"a message is a dict, not {type(message).__name__}"
            )
        try:
            if self._checked and not self._is_flat(message):
                message = self._conform(message, "message", 0)
            if self._measure is not None:
                self._measure(message)
            data = self._serializer.serialize(message)
            if len(data) > self._harmless and not self._admits(data):
                raise exceptions.EncodingError(path="message", problem=self._excess)
            return data
        except exceptions.EncodingError:
            raise
        except Exception as error:  # a user's serializer may raise anything
            self._blame(message)
            raise exceptions.EncodingError(path="message", problem=str(error)) from error

    def seal(self, data: bytes, place: bytes) -> bytes:
        """Encrypt a body for one place only, if there are keys; else return it as it is.

        Args:
            data: What `serialize` returned.
            place: The name in Redis under which it is going to be found, and the whole header of
                its envelope. Only under that name, and behind that header, can it be decoded.
        """
        if self._crypter is None:
            return data
        sealed: bytes = self._crypter.encrypt(_mark(place) + data)
        return sealed

    def decode(self, data: bytes, encrypted: bool, place: bytes = b"") -> Message:
        """Return the message in a body.

        Args:
            data: The body.
            encrypted: Whether its envelope says that it is encrypted.
            place: Where it was found, see `seal`.

        Raises:
            DecodingError: It is not one, the keys do not fit, or it belongs to another place.
        """
        return self.read(self.unseal(data, encrypted, place))

    def unseal(self, data: bytes, encrypted: bool, place: bytes) -> bytes:
        """Return a body in the clear.

        Raises:
            DecodingError: The keys do not fit, or it belongs to another place.
        """
        if encrypted is not self.encrypts:
            raise exceptions.DecodingError(
                problem="it is encrypted and no key is configured"
                if encrypted
                else "it is not encrypted and only encrypted messages are taken"
            )
        try:
            if self._crypter is not None:
                data = self._crypter.decrypt(data)
        except Exception as error:  # whatever cryptography makes of bytes that are not its own
            raise exceptions.DecodingError(problem="no key fits") from error
        if encrypted:
            if data[:PLACE_SIZE] != _mark(place):
                raise exceptions.DecodingError(problem="it was sent to another place")
            data = data[PLACE_SIZE:]
        return data

    def read(self, data: bytes) -> Message:
        """Return the message in a body in the clear.

        Raises:
            DecodingError: It is not one, or holds more than any may.
        """
        if len(data) > self._harmless and not self._admits(data):
            raise exceptions.DecodingError(problem=self._excess)
        try:
            message = self._serializer.deserialize(data)
        except Exception as error:  # a user's serializer may raise anything
            raise exceptions.DecodingError(problem=str(error) or type(error).__name__) from error
        if not isinstance(message, dict):
            raise exceptions.DecodingError(problem=f"a {type(message).__name__}, not a dict")
        if self._checked:
            self._inspect(message)
        return message

    def read_again(self, data: bytes) -> Message:
        """Return the message in a body in which `read` has found one."""
        return self._serializer.deserialize(data)

    @property
    def is_plain(self) -> bool:
        """Whether what `read` returns is of plain types only, however deep."""
        return self._checked

    @property
    def _excess(self) -> str:
        return (
            f"it holds more than {self._allowance.weight} values, of which each list or dict "
            f"counts as {CONTAINER_WEIGHT}"
        )

    def _inspect(self, message: Message) -> None:
        """Refuse, at any depth, what `encode` would have refused."""
        try:
            if self._is_derived:
                _join(message)
            if not _are_scalars(map(type, message.values())):
                _require_plain(message.values())
            if self._measure is not None:
                self._measure(message)
        except TypeError as error:
            problem = "it holds values or keys that no message may hold"
            raise exceptions.DecodingError(problem=problem) from error
        except OverflowError as error:
            problem = "it holds an integer that does not fit into 64 bits"
            raise exceptions.DecodingError(problem=problem) from error

    def _is_flat(self, message: Message) -> bool:
        """Tell whether keys are strings and values of plain types, at the speed of C."""
        try:
            "".join(message)
        except TypeError:
            return False
        return self._scalars.issuperset(map(type, message.values()))

    def _conform(self, value: Any, path: str, depth: int) -> Any:
        """Return ``value`` in plain types only, or raise with the path to what has no form."""
        kind = type(value)
        if kind in self._scalars:
            return value
        if not isinstance(value, (dict, list, tuple)):
            return self._conform_scalar(value, path)
        if depth > MAX_DEPTH:
            raise exceptions.EncodingError(path=path, problem=f"nested over {MAX_DEPTH} levels")
        if isinstance(value, dict):
            return {
                self._conform_key(key, path): self._conform(item, f"{path}[{key!r}]", depth + 1)
                for key, item in value.items()
            }
        return [
            self._conform(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)
        ]

    def _conform_scalar(self, value: Any, path: str) -> Any:
        if isinstance(value, (bytearray, memoryview)):
            value = bytes(value)
        for base in _BASES:
            if isinstance(value, base):
                problem = self._serializer.problem(value)  # type: ignore[attr-defined]
                if problem is None:
                    # The base's own copy: a subclass may print itself quite differently.
                    return str.__str__(value) if isinstance(value, str) else base(value)
                raise exceptions.EncodingError(path=path, problem=problem)
        name, advice = _advise(value)
        raise exceptions.EncodingError(
            path=path, problem=f"{name} has no form on the wire; {advice}"
        )

    @staticmethod
    def _conform_key(key: Any, path: str) -> str:
        if isinstance(key, str):
            return key if type(key) is str else str.__str__(key)
        raise exceptions.EncodingError(
            path=path, problem=f"the key {key!r} is {type(key).__name__}, keys are strings"
        )

    def _blame(self, value: Any, path: str = "message", depth: int = 0) -> None:
        """After a failure: raise for the innermost value that fails on its own, if there is one."""
        if depth > MAX_DEPTH:
            raise exceptions.EncodingError(path=path, problem=f"nested over {MAX_DEPTH} levels")
        if isinstance(value, dict):
            for key, item in value.items():
                self._blame(item, f"{path}[{key!r}]", depth + 1)
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                self._blame(item, f"{path}[{index}]", depth + 1)
        else:
            problem = self._serializer.problem(value) if self._checked else None  # type: ignore[attr-defined]
            if problem is not None:
                raise exceptions.EncodingError(path=path, problem=problem)
            try:
                self._serializer.serialize({"": value})
            except Exception as error:  # a user's serializer may raise anything
                raise exceptions.EncodingError(path=path, problem=str(error)) from error


def _require_plain(items: Iterable[Any], level: int = 1) -> None:
    """Raise ``TypeError`` for what the specification does not allow in a dict or list."""
    dicts: list[dict[Any, Any]] = []
    for item in items:
        kind = type(item)
        if kind is dict:
            dicts.append(item)
            inner: Iterable[Any] = item.values()
        elif kind is list:
            inner = item
        elif kind in SCALARS:
            continue
        else:
            raise TypeError(kind)
        if not _are_scalars(map(type, inner)):
            if level == MAX_DEPTH:
                raise TypeError(level)  # deeper than anybody of ours sends
            _require_plain(inner, level + 1)
    if dicts:
        _join(_chain(dicts))  # no keys but strings; of all of them at once, at the speed of C


def _advise(value: object) -> tuple[str, str]:
    """Return what a value without a form is, and what to do about it."""
    name, modules = type(value).__qualname__, {kind.__module__ for kind in type(value).__mro__}
    if _LAZY_MODULE in modules:
        return "a lazy translation or another lazy object", "convert it with str()"
    if isinstance(value, Set):
        return name, "convert it with list() or sorted()"
    if isinstance(value, Iterable):
        return name, "convert it with list()"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return name, "convert it with dataclasses.asdict()"
    if isinstance(value, enum.Enum):
        return name, "send its value or its name"
    if not _WRITTEN_AS_TEXT.isdisjoint(modules):
        return name, "convert it, for example with str()"
    return name, "send what the receiver needs of it: strings, numbers, lists, dicts"


def _make_crypter(keys: Sequence[str | bytes]) -> Any:
    """Return a MultiFernet; the keys are hashed as channels_redis does, so they stay valid."""
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise exceptions.ConfigurationError(
            problem="symmetric_encryption_keys needs cryptography: pip install channels_mpx[crypto]"
        ) from error
    raw = [key.encode() if isinstance(key, str) else key for key in keys]
    return MultiFernet(
        [Fernet(base64.urlsafe_b64encode(hashlib.sha256(key).digest())) for key in raw]
    )


def _mark(place: bytes) -> bytes:
    """Return what stands before an encrypted message, inside of what is encrypted.

    Fernet authenticates nothing beside what it encrypts. It needs no key: nobody can see it.
    """
    return hashlib.blake2b(place, digest_size=PLACE_SIZE).digest()
