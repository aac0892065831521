"""How much a body holds is known before any of it is made, and never said to be less than it is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels_mpx import DecodingError, EncodingError
from channels_mpx.body import COPIED_FROM, Body
from channels_mpx.codec import Codec
from channels_mpx.serializers import JSONSerializer, MsgPackSerializer
from channels_mpx.testing import Broker
from channels_mpx.weighing import CHUNK, LEAST_CONTAINERS, LEAST_VALUES, Allowance
from tests.helpers import eventually
from tests.layers import QUICK, receive
from tests.unit.codecs import BOTH, NUMBERS, TEXT, messages


def count(value: Any) -> tuple[int, int]:
    """Return how many lists and dicts, and how many values, there are; keys are values."""
    if isinstance(value, dict):
        parts = [count(item) for item in value.values()]
        own = 1 + len(value)
    elif isinstance(value, (list, tuple)):
        parts, own = [count(item) for item in value], 1
    else:
        return 0, 1
    return 1 + sum(each[0] for each in parts), own + sum(each[1] for each in parts)


def allowance(containers: int, values: int) -> Allowance:
    """Return one that is smaller than any of a setting."""
    made = Allowance(0)
    made.containers, made.values = containers, values
    return made


TRICKY = st.sampled_from(['"', "\\", '\\"', "[[[", "{{{", ",,,", ":::", '"]', "\x80\x90"]) | TEXT


@given(messages(NUMBERS | TRICKY | st.text(min_size=30, max_size=300)), st.integers(0, 3))
@settings(max_examples=300)
def test_count_what_is_there(message: Any, less: int) -> None:
    """What holds just as much as is allowed passes; with fewer lists allowed it does not."""
    containers, values = count(message)
    packed, text = msgspec.msgpack.encode(message), msgspec.json.encode(message)
    exact = allowance(containers, values)
    assert exact.admits_msgpack(packed)
    # Of JSON the values are counted by their commas, of which empty lists have none.
    assert allowance(containers, values + containers).admits_json(text)
    if less:
        fewer = allowance(containers - less, 2 * values)
        assert not fewer.admits_msgpack(packed)
        assert not fewer.admits_json(text)
        assert not allowance(containers, values - less).admits_msgpack(packed)


@pytest.mark.parametrize("shift", range(4))
def test_count_json_across_chunks(shift: int) -> None:
    """Strings and escapes that lie across the border are still strings."""
    message = {"a": "x" * (CHUNK - 9 + shift) + '\\"[[[', "b": ["[" * CHUNK, [], {}]}
    assert allowance(4, 100).admits_json(msgspec.json.encode(message))
    assert not allowance(3, 100).admits_json(msgspec.json.encode(message))


@BOTH
@pytest.mark.parametrize(
    "value",
    [[[]] * (LEAST_CONTAINERS + 1), [{}] * (LEAST_CONTAINERS + 1), ["a"] * (LEAST_VALUES + 1)],
    ids=["lists", "dicts", "values"],
)
def test_refuse_more_than_is_allowed(serializer: Any, value: Any) -> None:
    """The sender is told, and a stranger's is refused before it is decoded."""
    small, large = Codec(serializer, max_size=1024), Codec(serializer, max_size=2**26)
    with pytest.raises(EncodingError, match="holds more than 16384 lists and dicts"):
        small.encode({"a": value})
    body = large.encode({"a": value})
    with pytest.raises(DecodingError, match="or more than 131072 values"):
        small.decode(body, False)
    assert large.decode(body, False) == {"a": value}


@BOTH
def test_text_holds_nothing(serializer: Any) -> None:
    """Bytes of text that look like lists are none."""
    codec, message = Codec(serializer, max_size=1024), {"a": ["\u4e2d[{,:" * 100_000]}
    assert codec.decode(codec.encode(message), False) == message


@pytest.mark.parametrize("serializer", [MsgPackSerializer, JSONSerializer])
@pytest.mark.parametrize("keys", [(), ("secret",)], ids=["clear", "encrypted"])
@pytest.mark.parametrize("size", [1, COPIED_FROM], ids=["decoded again", "copied"])
def test_every_receiver_has_its_own(serializer: Any, keys: Any, size: int) -> None:
    """Whatever one does to its message, at any depth, no other sees it."""
    codec = Codec(serializer, keys)
    message = {"a": [1, {"b": [2, {}]}], "c": {"d": "x" * size}, "e": [[], [[3]]]}
    body = Body(codec, codec.encode(message), 0, codec.encrypts, 0.0)
    for _ in range(4):
        mine = body.open()
        assert mine == message
        mine["a"][1]["b"][1]["z"] = 1
        mine["a"][1]["b"].append(4)
        mine["e"][1][0].clear()
        mine["e"][0].append(5)
        mine["c"].clear()
        mine["f"] = 6
        del mine["a"][0]


@pytest.mark.parametrize("where", ["group", "direct", "worker"])
async def test_limit_holds_on_arrival(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """What a sender with a larger limit sends is dropped, counted and logged; the rest comes."""
    broker = Broker()
    sender = broker.layer(**QUICK)
    receiver = broker.layer(max_message_size=2000, **QUICK)
    channel = await receiver.new_channel()
    await receiver.group_add("room", channel)
    target = "jobs" if where == "worker" else channel

    async def send(text: str) -> None:
        message = {"type": "x", "text": text}
        if where == "group":
            await sender.group_send("room", message)
        else:
            await sender.send(target, message)

    await send("x" * 3000)
    await send("fits")
    assert (await receive(receiver, target))["text"] == "fits"
    await eventually(lambda: receiver.statistics().dropped["malformed"] == 1)
    assert "larger than max_message_size (2000) here" in caplog.text
    for layer in (sender, receiver):
        await layer.aclose()
