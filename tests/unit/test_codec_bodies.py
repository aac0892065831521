"""What comes over the wire is opened, or refused: damaged, strange, encrypted, many times."""

from __future__ import annotations

import base64
import hashlib
import itertools
import sys
import tracemalloc
from typing import Any

import msgspec
import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from channels_mpx import exceptions
from channels_mpx.body import Body
from channels_mpx.codec import MAX_DEPTH, PLACE_SIZE, Codec
from channels_mpx.serializers import JSONSerializer, Message, MsgPackSerializer
from tests.unit.codecs import BOTH, NUMBERS, TEXT, PlainJSON, messages, nested, there_and_back


class Mute(PlainJSON):
    """A serializer whose errors say nothing."""

    def deserialize(self, data: bytes) -> Message:
        raise ValueError


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
