"""Messages of every kind, and serializers of users."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

from channels_mpx.codec import Codec
from channels_mpx.serializers import JSONSerializer, Message, MsgPackSerializer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)


def messages(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    """Return everything that Channels allows, made of these scalars."""
    values = st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(TEXT, inner, max_size=4)
        ),
        max_leaves=12,
    )
    return st.dictionaries(TEXT, values, max_size=5)


def there_and_back(message: Message, *codecs: Codec) -> Message:
    """Encode with the first codec and decode with the last."""
    return codecs[-1].decode(codecs[0].encode(message), codecs[-1].encrypts)


class PlainJSON:
    """A serializer as a user might write it."""

    decoded = 0

    def serialize(self, message: Message) -> bytes:
        return json.dumps(message).encode()

    def deserialize(self, data: bytes) -> Message:
        type(self).decoded += 1
        message: Message = json.loads(data)
        return message


BOTH = pytest.mark.parametrize("serializer", [MsgPackSerializer, JSONSerializer])


def nested(levels: int, inner: Any, wrap: Callable[[Any], Any]) -> Any:
    """Return ``inner`` in so many lists or dicts."""
    for _ in range(levels):
        inner = wrap(inner)
    return inner
