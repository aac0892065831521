"""Serializers: what the two of ours can write, and how others are found."""

from __future__ import annotations

import math
from typing import Any

import pytest

from channels_mpx import exceptions, serializers
from channels_mpx.serializers import (
    SCALARS,
    JSONSerializer,
    Message,
    MsgPackSerializer,
    find_serializer,
    register_serializer,
)


class Plain:
    """A serializer as a user might write it."""

    def serialize(self, message: Message) -> bytes:
        return repr(message).encode()

    def deserialize(self, data: bytes) -> Message:
        return {"read": data}


SAMPLES = ["text", b"bytes", 1, -(2**63), 2**64 - 1, 2.5, True, None]


@pytest.mark.parametrize("value", SAMPLES, ids=repr)
@pytest.mark.parametrize("kind", [MsgPackSerializer, JSONSerializer])
def test_write_what_has_no_problem(kind: Any, value: Any) -> None:
    """What a serializer has no objection to arrives unchanged."""
    one = kind()
    assert type(value) in SCALARS
    if one.problem(value) is None:
        assert one.deserialize(one.serialize({"a": value})) == {"a": value}
    else:
        assert (kind, type(value)) == (JSONSerializer, bytes)


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (MsgPackSerializer, 2**64, "the integer does not fit into 64 bits"),
        (MsgPackSerializer, -(2**63) - 1, "the integer does not fit into 64 bits"),
        (JSONSerializer, 2**64, "the integer does not fit into 64 bits"),
        (JSONSerializer, -(2**63) - 1, "the integer does not fit into 64 bits"),
        (JSONSerializer, b"", "JSON has no byte strings; use serializer_format 'msgpack'"),
        (JSONSerializer, math.inf, "JSON has no inf; use serializer_format 'msgpack'"),
        (JSONSerializer, math.nan, "JSON has no nan; use serializer_format 'msgpack'"),
    ],
)
def test_name_the_problem_of_a_scalar(kind: Any, value: Any, problem: str) -> None:
    """The sentence says what to do, where something can be done."""
    assert kind().problem(value) == problem


def test_msgpack_has_no_problem_with_nan() -> None:
    """msgpack writes every float."""
    assert MsgPackSerializer().problem(math.nan) is None


def test_find_serializer_by_registered_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both built-in names are known, and a class that is registered is found by its name."""
    monkeypatch.setattr(serializers, "_registry", dict(serializers._registry))
    assert find_serializer("msgpack") is MsgPackSerializer
    assert find_serializer("json") is JSONSerializer
    register_serializer("plain", Plain)
    assert find_serializer("plain") is Plain
    register_serializer("json", Plain)
    assert find_serializer("json") is Plain


@pytest.mark.parametrize("kind", [Plain, MsgPackSerializer, JSONSerializer])
def test_find_serializer_by_class_and_by_path(kind: Any) -> None:
    """A class stands for itself, and a dotted path for the class that it leads to."""
    assert find_serializer(kind) is kind
    assert find_serializer(f"{kind.__module__}.{kind.__name__}") is kind


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ("mesgpack", "'mesgpack' is unknown; did you mean 'msgpack'?"),
        ("avro", "'avro' is unknown; known are ['json', 'msgpack']"),
        ("nowhere.Avro", "'nowhere.Avro' cannot be imported: No module named 'nowhere'"),
        ("json.Avro", "'json.Avro' cannot be imported: module 'json' has no attribute 'Avro'"),
        ("json.loads", "serializer_format json.loads needs the methods serialize"),
        (dict, "serializer_format <class 'dict'> needs the methods serialize"),
        (None, "serializer_format None needs the methods serialize"),
        (".Avro", "'.Avro' is unknown"),
    ],
    ids=repr,
)
def test_refuse_a_serializer(form: Any, problem: str) -> None:
    """What is no serializer is refused with the reason and the nearest known name."""
    with pytest.raises(exceptions.ConfigurationError) as caught:
        find_serializer(form)
    assert problem in str(caught.value)


def test_refuse_to_register_what_is_no_serializer() -> None:
    """A class without the two methods is not registered."""
    with pytest.raises(exceptions.ConfigurationError, match="serializer_format half needs"):
        register_serializer("half", dict)  # type: ignore[arg-type]
    assert "half" not in serializers._registry
