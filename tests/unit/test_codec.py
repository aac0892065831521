"""Messages arrive as they were sent, or the sender is told what is wrong and where."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import math
import re
import uuid
from typing import Any

import pytest
from django.db.models import TextChoices
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from channels_mpx import exceptions
from channels_mpx.codec import MAX_DEPTH, Codec
from channels_mpx.serializers import JSONSerializer, Message, MsgPackSerializer
from tests.unit.codecs import BOTH, NUMBERS, TEXT, PlainJSON, messages, nested, there_and_back


def as_lists(value: Any) -> Any:
    """Return a value with lists in place of tuples."""
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_lists(item) for item in value]
    return value


def assert_same(arrived: Any, sent: Any) -> None:
    """Equal, and of the same plain types all the way down (``True`` is not ``1`` here)."""
    assert type(arrived) is type(sent)
    assert arrived == sent
    if isinstance(sent, dict):
        assert list(arrived) == list(sent)
        for key, item in sent.items():
            assert type(key) is str
            assert_same(arrived[key], item)
    elif isinstance(sent, list):
        for one, other in zip(arrived, sent, strict=True):
            assert_same(one, other)


class Planet(TextChoices):
    EARTH = "earth", "Our planet"


class Level(enum.IntEnum):
    HIGH = 3


class Loud(str):
    """A string that prints itself differently."""

    def __str__(self) -> str:
        return self.upper() + "!"


# What travels


@given(messages(NUMBERS | TEXT | st.binary(max_size=8) | st.floats(allow_nan=False)))
def test_msgpack_carries_everything_that_channels_allows(message: Message) -> None:
    """Every allowed message arrives unchanged, tuples as lists."""
    assert_same(there_and_back(message, Codec()), as_lists(message))


@given(messages(NUMBERS | TEXT))
def test_json_carries_everything_that_json_can(message: Message) -> None:
    """So does JSON with everything but byte strings, NaN and infinities."""
    assert_same(there_and_back(message, Codec(JSONSerializer)), as_lists(message))


@given(messages(NUMBERS | TEXT))
def test_custom_serializer_carries_messages(message: Message) -> None:
    """A user's serializer gets the message as it is."""
    assert there_and_back(message, Codec(PlainJSON)) == as_lists(message)


def test_msgpack_carries_nan() -> None:
    """NaN is a float, too."""
    arrived = there_and_back({"flat": math.nan, "nested": [math.nan]}, Codec())
    assert math.isnan(arrived["flat"])
    assert math.isnan(arrived["nested"][0])


@BOTH
@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (mark_safe("<b>"), "<b>"),
        (SafeString("<b>"), "<b>"),
        (Planet.EARTH, "earth"),
        (Level.HIGH, 3),
        (Loud("hey"), "hey"),
        (collections.OrderedDict(a=(1,)), {"a": [1]}),
        (collections.defaultdict(list, {"a": []}), {"a": []}),
        (collections.namedtuple("Point", "x y")(1, 2), [1, 2]),
        ({Planet.EARTH: 1, Loud("k"): 2}, {"earth": 1, "k": 2}),
        ({"": ""}, {"": ""}),
    ],
    ids=repr,
)
def test_carry_subclasses_as_their_base(serializer: Any, value: Any, arrives: Any) -> None:
    """A subclass of an allowed type travels as its base, at the top and further down."""
    sent = {"flat": value, "nested": [{"value": value}]}
    arrived = there_and_back(sent, Codec(serializer))
    assert_same(arrived, {"flat": arrives, "nested": [{"value": arrives}]})


@BOTH
def test_carry_subclasses_of_str_as_keys(serializer: Any) -> None:
    """Keys of the message itself may be subclasses of str."""
    message = {Planet.EARTH: 1, Loud("k"): 2}
    assert_same(there_and_back(message, Codec(serializer)), {"earth": 1, "k": 2})


@pytest.mark.parametrize("value", [bytearray(b"ab"), memoryview(b"ab"), memoryview(b"axbx")[::2]])
def test_msgpack_carries_buffers_as_bytes(value: Any) -> None:
    """``bytearray`` and ``memoryview`` arrive as ``bytes``."""
    assert_same(there_and_back({"a": value, "b": [value]}, Codec()), {"a": b"ab", "b": [b"ab"]})


@BOTH
def test_leave_the_senders_message_alone(serializer: Any) -> None:
    """Encoding changes nothing in the message."""
    message = {"a": (Level.HIGH, mark_safe("x")), "b": {"c": (1,)}}
    Codec(serializer).encode(message)
    assert message == {"a": (Level.HIGH, "x"), "b": {"c": (1,)}}
    assert type(message["a"][0]) is Level


@BOTH
@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"k": inner}])
@pytest.mark.parametrize("scalar", ["text", 1, 1.5, Level.HIGH], ids=repr)
def test_carry_what_is_nested_as_deep_as_allowed(serializer: Any, wrap: Any, scalar: Any) -> None:
    """A message holds ``MAX_DEPTH`` levels of lists and dicts, whatever the innermost value is."""
    message = {"a": nested(MAX_DEPTH, scalar, wrap)}
    assert there_and_back(message, Codec(serializer)) == message


# What the sender is told

LOOP: dict[str, Any] = {}
LOOP["again"] = [LOOP]

FORMLESS = [
    uuid.UUID(int=1),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
    datetime.date(2024, 1, 1),
    decimal.Decimal("1.5"),
    {1, 2},
    1j,
    object(),
    Exception("no"),
    enum.Enum("Colour", "RED"),
]


@BOTH
@pytest.mark.parametrize("value", FORMLESS, ids=lambda value: type(value).__name__)
def test_refuse_values_without_a_form(serializer: Any, value: Any) -> None:
    """What is outside the specification is refused, by path and type."""
    name = type(value).__qualname__
    for message, path in [
        ({"a": value}, "message['a']"),
        ({"a": [1, {"b": (value,)}]}, "message['a'][1]['b'][0]"),
    ]:
        with pytest.raises(exceptions.EncodingError) as caught:
            Codec(serializer).encode(message)
        assert caught.value.path == path
        assert f"at {path}: {name} has no form" in str(caught.value)


@dataclasses.dataclass
class Point:
    x: int = 1


class Moment(datetime.datetime):
    """As other packages derive one."""


@BOTH
@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (uuid.UUID(int=1), "UUID has no form on the wire; convert it, for example with str()"),
        (Moment(2024, 1, 1), "Moment .*, for example with str()"),
        (decimal.Decimal(1), "Decimal .*, for example with str()"),
        ({1}, "set has no form on the wire; convert it with list() or sorted()"),
        ({"a": 1}.keys(), "dict_keys .* list() or sorted()"),
        ((n for n in "ab"), "generator has no form on the wire; convert it with list()"),
        (range(3), "range .* with list()"),
        (Point(), "Point has no form on the wire; convert it with dataclasses.asdict()"),
        (enum.Enum("Colour", "RED")["RED"], "Colour .* its value or its name"),
        (gettext_lazy("yes"), "a lazy translation .* convert it with str()"),
        (object(), "object .* send what the receiver needs of it: strings, numbers, lists, dicts"),
    ],
)
def test_say_how_a_value_gets_a_form(serializer: Any, value: Any, advice: str) -> None:
    """What is proposed gives something that the receiver can use."""
    pattern = re.escape(advice).replace(r"\.\*", ".*")
    with pytest.raises(exceptions.EncodingError, match=pattern):
        Codec(serializer).encode({"a": [value]})


class DerivedJSON(JSONSerializer):
    """As a project may derive its own."""


@pytest.mark.parametrize("serializer", [MsgPackSerializer, JSONSerializer, DerivedJSON])
@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**30, 10**400])
@pytest.mark.parametrize("make", [lambda n: n, lambda n: enum.IntEnum("Big", {"N": n}).N])
def test_refuse_integers_over_64_bits(serializer: Any, value: int, make: Any) -> None:
    """An integer that has no form is refused by path, plain or in an enumeration."""
    for message, path in [
        ({"a": make(value)}, "message['a']"),
        ({"a": 1, "b": [1.5, {"c": make(value)}]}, "message['b'][1]['c']"),
    ]:
        with pytest.raises(exceptions.EncodingError, match="64 bits") as caught:
            Codec(serializer).encode(message)
        assert caught.value.path == path


ANYTHING = messages(
    NUMBERS
    | TEXT
    | st.text(max_size=4)
    | st.binary(max_size=4)
    | st.floats()
    | st.integers()
    | st.integers(2**62, 2**66)
    | st.integers(-(2**66), -(2**62))
)


@pytest.mark.parametrize("serializer", [MsgPackSerializer, JSONSerializer, DerivedJSON])
@pytest.mark.parametrize("keys", [(), ("secret",)], ids=["clear", "encrypted"])
@given(message=ANYTHING)
def test_what_a_sender_accepts_a_receiver_gets(
    serializer: Any, keys: tuple[str, ...], message: Message
) -> None:
    """Whatever it is: it arrives unchanged, or the sender is told."""
    codec = Codec(serializer, keys)
    try:
        body = codec.encode(message)
    except exceptions.EncodingError:
        return
    arrived = codec.decode(body, codec.encrypts)
    # NaN is unlike itself.
    assert repr(arrived) == repr(as_lists(message))


def test_json_refuses_integers_that_no_receiver_can_read() -> None:
    """An integer of thousands of digits is refused by the sender, not by the receiver."""
    with pytest.raises(exceptions.EncodingError, match=r"message\['a'\]"):
        Codec(JSONSerializer).encode({"a": 10**5000})
    with pytest.raises(exceptions.EncodingError, match="64 bits"):
        Codec(JSONSerializer).encode({"a": enum.IntEnum("Big", {"N": 2**64}).N})


@pytest.mark.parametrize("value", [b"bytes", bytearray(b"x"), memoryview(b"x")])
def test_json_refuses_byte_strings(value: Any) -> None:
    """The error names the path and the way out."""
    with pytest.raises(exceptions.EncodingError, match=r"message\['a'\]: .*use .*'msgpack'"):
        Codec(JSONSerializer).encode({"a": value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_is_no_finite_number(value: float) -> None:
    """NaN and infinities would arrive as null."""
    with pytest.raises(
        exceptions.EncodingError, match=rf"message\['a'\]\[0\]: JSON has no {value}"
    ):
        Codec(JSONSerializer).encode({"a": [value]})


@BOTH
@pytest.mark.parametrize("key", [1, None, True, b"k", ("k",)])
def test_refuse_keys_that_are_no_strings(serializer: Any, key: Any) -> None:
    """A key of another type is refused with the path to its dict."""
    for message, path in [({key: 1}, "message"), ({"a": [{key: 1}]}, "message['a'][0]")]:
        with pytest.raises(exceptions.EncodingError, match="keys are strings") as caught:
            Codec(serializer).encode(message)
        assert caught.value.path == path


@BOTH
@pytest.mark.parametrize(
    "value",
    [
        LOOP,
        nested(MAX_DEPTH + 1, 1, lambda inner: [inner]),
        nested(9999, 1, lambda inner: (inner,)),
    ],
    ids=["endless", "one too deep", "far too deep"],
)
def test_refuse_what_is_nested_too_deep(serializer: Any, value: Any) -> None:
    """A message that contains itself, or nearly so, is refused; no receiver's stack overflows."""
    with pytest.raises(exceptions.EncodingError, match=f"nested over {MAX_DEPTH} levels") as caught:
        Codec(serializer).encode({"a": value})
    assert str(caught.value.path).startswith("message['a']")


@BOTH
@pytest.mark.parametrize("value", ["\ud800", ["\ud800"]], ids=["flat", "nested"])
def test_refuse_lone_surrogates(serializer: Any, value: Any) -> None:
    """A string that has no UTF-8 is refused by path."""
    with pytest.raises(exceptions.EncodingError, match=r"message\['a'\].*surrogates"):
        Codec(serializer).encode({"a": value})


@BOTH
def test_refuse_keys_with_lone_surrogates(serializer: Any) -> None:
    """So is a key, with the message as its path."""
    with pytest.raises(exceptions.EncodingError, match=r"at message: .*surrogates"):
        Codec(serializer).encode({"\ud800": 1})


@pytest.mark.parametrize("serializer", [MsgPackSerializer, JSONSerializer, PlainJSON])
@pytest.mark.parametrize("message", [None, [], "text", b"bytes", 3, [("type", "a")]], ids=repr)
def test_refuse_a_message_that_is_no_dict(serializer: Any, message: Any) -> None:
    """A message is a dict, whatever the serializer could do."""
    with pytest.raises(exceptions.EncodingError, match=f"not {type(message).__name__}"):
        Codec(serializer).encode(message)


def test_blame_the_value_that_a_custom_serializer_refuses() -> None:
    """A failure of a user's serializer is pinned to the value that fails on its own."""
    with pytest.raises(exceptions.EncodingError, match=r"message\['b'\]\[1\]\['c'\]: .*not JSON"):
        Codec(PlainJSON).encode({"a": 1, "b": (2, {"c": {3}})})


def test_blame_the_message_when_no_value_fails_alone() -> None:
    """A failure that no value has alone is the message's."""
    with pytest.raises(exceptions.EncodingError, match="at message: keys must be") as caught:
        Codec(PlainJSON).encode({"a": 1, "b": [2], ("c",): {"d": 3}})
    assert isinstance(caught.value.__cause__, TypeError)


def test_custom_serializer_fails_on_a_message_that_contains_itself() -> None:
    """A message without end is the sender's error with any serializer."""
    with pytest.raises(exceptions.EncodingError):
        Codec(PlainJSON).encode(LOOP)
