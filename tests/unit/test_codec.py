"""Messages arrive as they were sent, or the sender is told what is wrong and where."""

from __future__ import annotations

import base64
import collections
import datetime
import decimal
import enum
import hashlib
import itertools
import json
import math
import sys
import tracemalloc
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.fernet import Fernet
from django.db.models import TextChoices
from django.utils.safestring import SafeString, mark_safe
from hypothesis import given, settings
from hypothesis import strategies as st

from channels_mpx import exceptions
from channels_mpx.body import Body
from channels_mpx.codec import MAX_DEPTH, PLACE_SIZE, Codec
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


def as_lists(value: Any) -> Any:
    """Return a value with lists in place of tuples."""
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_lists(item) for item in value]
    return value


def there_and_back(message: Message, *codecs: Codec) -> Message:
    """Encode with the first codec and decode with the last."""
    return codecs[-1].decode(codecs[0].encode(message), codecs[-1].encrypts)


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


class PlainJSON:
    """A serializer as a user might write it."""

    decoded = 0

    def serialize(self, message: Message) -> bytes:
        return json.dumps(message).encode()

    def deserialize(self, data: bytes) -> Message:
        type(self).decoded += 1
        message: Message = json.loads(data)
        return message


class Mute(PlainJSON):
    """A serializer whose errors say nothing."""

    def deserialize(self, data: bytes) -> Message:
        raise ValueError


BOTH = pytest.mark.parametrize("serializer", [MsgPackSerializer, JSONSerializer])


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


def nested(levels: int, inner: Any, wrap: Callable[[Any], Any]) -> Any:
    """Return ``inner`` in so many lists or dicts."""
    for _ in range(levels):
        inner = wrap(inner)
    return inner


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


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**400])
@pytest.mark.parametrize("make", [lambda n: n, lambda n: enum.IntEnum("Big", {"N": n}).N])
def test_msgpack_refuses_integers_over_64_bits(value: int, make: Any) -> None:
    """An integer that has no form is refused by path, plain or in an enumeration."""
    for message, path in [
        ({"a": make(value)}, "message['a']"),
        ({"a": [make(value)]}, "message['a'][0]"),
    ]:
        with pytest.raises(exceptions.EncodingError, match=r"ints|64 bits") as caught:
            Codec().encode(message)
        assert caught.value.path == path


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


# What is no message


@given(st.binary(max_size=60))
@settings(max_examples=200)
def test_decode_random_bytes(data: bytes) -> None:
    """Random bytes are a message or a DecodingError, in every serializer."""
    for one in (Codec(), Codec(JSONSerializer), Codec(PlainJSON)):
        try:
            assert isinstance(one.decode(data, False), dict)
        except exceptions.DecodingError:
            pass


@given(messages(NUMBERS | TEXT), st.data())
def test_decode_damaged_messages(message: Message, data: st.DataObject) -> None:
    """So are real messages with bits flipped, cut anywhere."""
    for one in (Codec(), Codec(JSONSerializer)):
        damaged = bytearray(one.encode(message))
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(0, 255))
        try:
            one.decode(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]), False)
        except exceptions.DecodingError:
            pass


BOMBS = {
    "array of 4 G": (MsgPackSerializer, b"\x81\xa1a\xdd\xff\xff\xff\xff"),
    "array of 4 G begun": (MsgPackSerializer, b"\x81\xa1a\xdd\xff\xff\xff\xff" + b"\xc0" * 1000),
    "map of 4 G": (MsgPackSerializer, b"\xdf\xff\xff\xff\xff"),
    "bytes of 4 G": (MsgPackSerializer, b"\x81\xa1a\xc6\xff\xff\xff\xff"),
    "text of 4 G": (MsgPackSerializer, b"\x81\xa1a\xdb\xff\xff\xff\xff"),
    "extension of 4 G": (MsgPackSerializer, b"\x81\xa1a\xc9\xff\xff\xff\xff\x01"),
    "nested arrays": (MsgPackSerializer, b"\x81\xa1a" + b"\x91" * 200_000),
    "nested maps": (MsgPackSerializer, b"\x81\xa1a" * 200_000),
    "nested JSON arrays": (JSONSerializer, b'{"a":' + b"[" * 200_000),
    "nested JSON objects": (JSONSerializer, b'{"a":' * 200_000),
    "huge JSON number": (JSONSerializer, b'{"a":' + b"9" * 200_000 + b"}"),
    "huge JSON exponent": (JSONSerializer, b'{"a":1e999999999}'),
}


@pytest.mark.parametrize(("serializer", "data"), BOMBS.values(), ids=BOMBS)
def test_decode_a_bomb_without_its_memory(serializer: Any, data: bytes) -> None:
    """A bomb is refused before the memory that it asks for is taken."""
    one = Codec(serializer)
    tracemalloc.start()
    try:
        with pytest.raises(exceptions.DecodingError):
            one.decode(data, False)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("serializer", [MsgPackSerializer, JSONSerializer, PlainJSON])
def test_refuse_a_body_that_is_no_dict(serializer: Any) -> None:
    """A list is well-formed and no message."""
    with pytest.raises(exceptions.DecodingError):
        Codec(serializer).decode(b"\x90" if serializer is MsgPackSerializer else b"[]", False)


@pytest.mark.parametrize("before", [b"", b"\x91", b"\x92\x90", b"\x81\xa1b"], ids=repr)
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"\xd6\xff\x00\x00\x00\x00", id="timestamp"),
        pytest.param(b"\xd4\x05a", id="extension"),
    ],
)
def test_refuse_what_channels_does_not_allow(before: bytes, value: bytes) -> None:
    """A value that no sender of ours can have sent is garbage, wherever it stands."""
    with pytest.raises(exceptions.DecodingError):
        Codec().decode(b"\x81\xa1a" + before + value, False)


class Lenient(MsgPackSerializer):
    """A serializer derived from ours that decodes what ours refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.deserialize = msgspec.msgpack.Decoder(dict).decode


@pytest.mark.parametrize("serializer", [MsgPackSerializer, Lenient])
@pytest.mark.parametrize("key", [1, None, True, b"k", 1.5, (1,)], ids=repr)
def test_refuse_keys_that_no_sender_can_have_sent(serializer: Any, key: Any) -> None:
    """A stranger's key that is no string is garbage, at any depth, in whatever dict."""
    for message in (
        {key: 1},
        {"a": {key: 1}},
        {"a": {"b": 1, key: 2}},
        {"a": [1, {"b": {}}, [{key: 1}]]},
        {"a": {"b": {"c": [{}, {key: [1]}]}}},
        {"a": nested(MAX_DEPTH - 1, {key: 1}, lambda inner: [inner])},
        {"a": {key: {"b": 1}}, "c": {"d": 1}},
    ):
        with pytest.raises(exceptions.DecodingError):
            Codec(serializer).decode(msgspec.msgpack.encode(message), False)
        with pytest.raises(exceptions.EncodingError):
            Codec(serializer).encode(message)


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "9" * 300])
@pytest.mark.parametrize("place", ['{"a":%s}', '{"a":[1,{"b":%s}]}', '{"a":{"b":[[%s]]}}'])
def test_refuse_json_integers_that_no_sender_can_have_sent(number: str, place: str) -> None:
    """JSON knows no end of integers, senders do."""
    data = (place % number).encode()
    with pytest.raises(exceptions.DecodingError, match="64 bits"):
        Codec(JSONSerializer).decode(data, False)


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63)])
@BOTH
def test_carry_the_largest_integers(serializer: Any, number: int) -> None:
    """What fits arrives, as a value and deep down."""
    message = {"a": number, "b": [{"c": number}]}
    assert there_and_back(message, Codec(serializer)) == message


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 200, 900, 20_000])
@BOTH
def test_decode_what_is_nested_deeper_than_we_send(serializer: Any, levels: int) -> None:
    """A stranger's deep message is a message or a DecodingError, whatever the stack allows."""
    if serializer is MsgPackSerializer:
        data = b"\x81\xa1a" + b"\x91" * levels + b"\xc0"
    else:
        data = b'{"a":' + b"[" * levels + b"]" * levels + b"}"
    try:
        assert Codec(serializer).decode(data, False)
    except exceptions.DecodingError:
        pass


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"k": inner}])
@BOTH
def test_depth_that_arrives_is_the_depth_that_is_sent(serializer: Any, wrap: Any) -> None:
    """One level more than a sender may use is one level too many on arrival."""
    one = Codec(serializer)
    write = serializer().serialize
    deepest = {"a": nested(MAX_DEPTH, 1, wrap)}
    assert one.decode(write(deepest), False) == deepest
    with pytest.raises(exceptions.DecodingError):
        one.decode(write({"a": nested(MAX_DEPTH + 1, 1, wrap)}), False)


def test_say_which_error_when_it_has_no_text() -> None:
    """A silent error of a user's serializer is not blamed on keys that nobody configured."""
    with pytest.raises(exceptions.DecodingError, match="ValueError") as caught:
        Codec(Mute).decode(b"", False)
    assert "key" not in str(caught.value)


# Encryption


@BOTH
def test_encrypted_message_is_not_readable(serializer: Any) -> None:
    """The body says nothing, and two bodies of one message differ."""
    one = Codec(serializer, ["key"])
    bodies = {one.encode({"secret": "word"}) for _ in range(2)}
    assert len(bodies) == 2
    assert not any(b"secret" in body or b"word" in body for body in bodies)
    assert all(one.decode(body, True) == {"secret": "word"} for body in bodies)


def test_rotate_keys_without_losing_a_message() -> None:
    """The first key encrypts, all decrypt: each step of a rotation reads the one before."""
    steps = [["old"], ["old", "new"], ["new", "old"], ["new"]]
    for sender, receiver in itertools.pairwise(steps):
        for one, other in ((sender, receiver), (receiver, sender)):
            assert there_and_back({"a": 1}, Codec(keys=one), Codec(keys=other)) == {"a": 1}
    with pytest.raises(exceptions.DecodingError):
        there_and_back({"a": 1}, Codec(keys=["old", "new"]), Codec(keys=["new"]))


def test_keys_are_bytes_or_text_of_any_length() -> None:
    """A key as text is the key of its UTF-8 bytes."""
    assert there_and_back({"a": 1}, Codec(keys=["schlüssel"]), Codec(keys=["schlüssel".encode()]))


def test_hash_keys_as_channels_redis_does() -> None:
    """A key is the SHA-256 of what was configured, so whoever migrates keeps the keys."""
    theirs = Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"key").digest()))
    ours = Codec(keys=["key"]).encode({"a": 1}, b"place")
    assert theirs.decrypt(ours)[PLACE_SIZE:] == Codec().encode({"a": 1})


@BOTH
def test_encrypted_message_belongs_to_one_place(serializer: Any) -> None:
    """Elsewhere it is garbage, and so is what was encrypted for no place at all."""
    one = Codec(serializer, ["key"])
    body = one.encode({"a": 1}, b"mpx:group:a\x01\x81")
    assert one.decode(body, True, b"mpx:group:a\x01\x81") == {"a": 1}
    for place in (b"mpx:group:b\x01\x81", b"mpx:group:a\x01\x82", b"mpx:group:a", b""):
        with pytest.raises(exceptions.DecodingError, match="another place"):
            one.decode(body, True, place)
    key = base64.urlsafe_b64encode(hashlib.sha256(b"key").digest())
    bare = Fernet(key).encrypt(Codec(serializer).encode({"a": 1}))
    with pytest.raises(exceptions.DecodingError, match="another place"):
        one.decode(bare, True, b"")


@BOTH
def test_message_in_the_clear_belongs_nowhere(serializer: Any) -> None:
    """Without keys the place changes nothing, byte for byte."""
    one = Codec(serializer)
    assert (
        one.encode({"a": 1}, b"place") == one.encode({"a": 1}) == serializer().serialize({"a": 1})
    )
    assert one.decode(one.encode({"a": 1}, b"place"), False, b"another") == {"a": 1}


@pytest.mark.parametrize("damage", [lambda body: body[:-1], lambda body: b"", lambda body: b"\x80"])
def test_refuse_what_no_key_opens(damage: Any) -> None:
    """A body that was damaged, cut or never encrypted is refused."""
    one = Codec(keys=["key"])
    with pytest.raises(exceptions.DecodingError, match="no key fits"):
        one.decode(damage(one.encode({"a": 1})), True)


def test_wrong_key_error_tells_no_key() -> None:
    """No error in the chain holds the text of a key."""
    body = Codec(keys=["first-secret"]).encode({"a": 1})
    with pytest.raises(exceptions.DecodingError, match="no key fits") as caught:
        Codec(keys=["second-secret"]).decode(body, True)
    error: BaseException | None = caught.value
    while error is not None:
        assert "secret" not in f"{error} {error!r} {vars(error)}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("keys", "encrypted", "problem"),
    [((), True, "no key is configured"), (["key"], False, "only encrypted messages are taken")],
)
def test_refuse_the_other_kind_of_body(keys: Any, encrypted: bool, problem: str) -> None:
    """With keys nothing in the clear is taken, without keys nothing encrypted."""
    one = Codec(keys=keys)
    assert one.encrypts is not encrypted
    with pytest.raises(exceptions.DecodingError, match=problem):
        one.decode(one.encode({"a": 1}), encrypted)


def test_keys_without_cryptography_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install; without keys the package is not needed."""
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(exceptions.ConfigurationError, match=r"channels_mpx\[crypto\]"):
        Codec(keys=["key"])
    assert Codec().encrypts is False


# Bodies


@pytest.fixture
def counting() -> type[PlainJSON]:
    """A serializer class that counts how often it decodes."""
    return type("Counting", (PlainJSON,), {"decoded": 0})


def body_of(one: Codec, message: Message) -> Body:
    payload = b"header" + one.encode(message, b"nameheader")
    return Body(one, payload, 6, one.encrypts, 1.5, name=b"name")


def test_open_a_flat_body_decodes_once(counting: type[PlainJSON]) -> None:
    """A message of scalars is decoded for the first receiver and copied for the others."""
    body = body_of(Codec(counting), {"a": 1, "b": "x", "c": None})
    first, second = body.open(), body.open()
    assert first == second == {"a": 1, "b": "x", "c": None}
    assert counting.decoded == 1
    first["a"] = 2
    second.clear()
    assert body.open() == {"a": 1, "b": "x", "c": None}


def test_open_a_nested_body_decodes_for_each(counting: type[PlainJSON]) -> None:
    """A message with something nested is decoded anew, so no change is shared."""
    body = body_of(Codec(counting), {"a": [1]})
    first, second = body.open(), body.open()
    first["a"].append(2)
    assert second == body.open() == {"a": [1]}
    assert counting.decoded == 3


def test_open_an_encrypted_body() -> None:
    """A body knows whether it is encrypted, and where it was found."""
    one = Codec(keys=["key"])
    assert body_of(one, {"a": [1]}).open() == {"a": [1]}
    payload = b"header" + one.encode({"a": [1]}, b"nameheader")
    for moved in (
        Body(one, payload, 6, True, 1.5, name=b"other"),
        Body(one, b"reader" + payload[6:], 6, True, 1.5, name=b"name"),
    ):
        with pytest.raises(exceptions.DecodingError, match="another place"):
            moved.open()


@pytest.mark.parametrize("message", [{"a": 1}, {"a": [1]}], ids=["flat", "nested"])
def test_open_the_body_of_a_request(message: Message) -> None:
    """Each receiver finds the return address in a message of its own."""
    one = Codec()
    body = Body(one, one.encode(message), 0, False, 0.0, b"0123456789abcdev!42")
    for _ in range(2):
        opened = body.open()
        assert opened == {**message, "mpx.reply_to": "0123456789abcdev!42"}
        opened.clear()


def test_body_knows_size_and_arrival() -> None:
    """A mailbox counts the bytes of the whole payload."""
    body = body_of(Codec(), {})
    assert (body.size, body.arrived) == (7, 1.5)


def test_open_a_bad_body_fails_for_each(counting: type[PlainJSON]) -> None:
    """Every receiver gets the error, and the bytes are looked at once."""
    body = Body(Codec(counting), b"[", 0, False, 0.0)
    for _ in range(3):
        with pytest.raises(exceptions.DecodingError):
            body.open()
    assert counting.decoded == 1


def test_open_a_bad_body_many_times_keeps_tracebacks_short() -> None:
    """A group of a thousand does not make a traceback of two thousand frames."""
    body = Body(Codec(), b"\xff", 0, False, 0.0)
    for _ in range(10):
        with pytest.raises(exceptions.DecodingError) as caught:
            body.open()
    assert len(caught.traceback) <= 3


def test_open_a_body_that_was_never_on_the_wire() -> None:
    """A body made of a message gives each receiver a copy of its own."""
    body = Body.made(Codec(), {"type": "link.lost"}, 2.5)
    body.open().clear()
    assert body.open() == {"type": "link.lost"}
    assert (body.size, body.arrived, body.is_reported) == (0, 2.5, False)
