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
from channels_mpx.weighing import CHUNK, CONTAINER_WEIGHT, LEAST_WEIGHT, Allowance
from tests.helpers import eventually
from tests.layers import QUICK, receive
from tests.unit.codecs import BOTH, NUMBERS, TEXT, messages


def weigh(value: Any) -> int:
    """Return what a value counts, with all that is in it; keys are values."""
    if isinstance(value, dict):
        return CONTAINER_WEIGHT + len(value) + sum(map(weigh, value.values()))
    if isinstance(value, (list, tuple)):
        return CONTAINER_WEIGHT + sum(map(weigh, value))
    return 1


def count_empty(value: Any) -> int:
    """Return how many lists and dicts are empty."""
    if isinstance(value, (dict, list, tuple)):
        items = value.values() if isinstance(value, dict) else value
        return sum(map(count_empty, items)) if value else 1
    return 0


def allowance(weight: int) -> Allowance:
    """Return one that is smaller than any of a setting."""
    made = Allowance(0)
    made.weight = weight
    return made


ENCODERS = msgspec.msgpack.encode, msgspec.json.encode
TRICKY = st.sampled_from(['"', "\\", '\\"', "[[[", "{{{", ",,,", ":::", '"]', "\x80\x90"]) | TEXT


@given(messages(NUMBERS | TRICKY | st.text(min_size=30, max_size=300)), st.integers(1, 3))
@settings(max_examples=300)
def test_count_what_is_there(message: Any, less: int) -> None:
    """What holds just as much as is allowed passes; with less allowed it does not."""
    weight, packed, text = weigh(message), *(encode(message) for encode in ENCODERS)
    assert allowance(weight).admits_msgpack(packed)
    assert not allowance(weight - less).admits_msgpack(packed)
    # In JSON all have a comma or colon before them but what is first in its list or dict: of each
    # that is not empty one value is missed, but each, beside the message, is taken for a value too.
    weight += count_empty(message) - 1
    assert allowance(weight).admits_json(text)
    assert not allowance(weight - less).admits_json(text)


@pytest.mark.parametrize("shift", range(4))
def test_count_json_across_chunks(shift: int) -> None:
    """Strings and escapes that lie across the border are still strings."""
    message = {"a": "x" * (CHUNK - 9 + shift) + '\\"[[[', "b": ["[" * CHUNK, [], {}]}
    exact = 4 * CONTAINER_WEIGHT + 5
    assert allowance(exact).admits_json(msgspec.json.encode(message))
    assert not allowance(exact - 1).admits_json(msgspec.json.encode(message))


MOST = LEAST_WEIGHT // CONTAINER_WEIGHT


@BOTH
@pytest.mark.parametrize(
    "value",
    [
        [[]] * MOST,
        [{}] * MOST,
        ["a"] * LEAST_WEIGHT,
        [["a"] * 15] * (LEAST_WEIGHT // (CONTAINER_WEIGHT + 14)),
        [{"a": "b"}] * (LEAST_WEIGHT // (CONTAINER_WEIGHT + 2)),
    ],
    ids=["lists", "dicts", "values", "lists of values", "dicts of values"],
)
def test_refuse_more_than_is_allowed(serializer: Any, value: Any) -> None:
    """The sender is told, and a stranger's is refused before it is decoded."""
    small, large = Codec(serializer, max_size=1024), Codec(serializer, max_size=2**26)
    says = f"holds more than {LEAST_WEIGHT} values, of which each list or dict counts as 32"
    with pytest.raises(EncodingError, match=says):
        small.encode({"a": value})
    body = large.encode({"a": value})
    with pytest.raises(DecodingError, match=says):
        small.decode(body, False)
    assert large.decode(body, False) == {"a": value}
    fits = {"a": value[: len(value) * 9 // 10]}
    assert small.decode(small.encode(fits), False) == fits


@BOTH
def test_small_body_is_not_looked_at(serializer: Any) -> None:
    """It is too small to hold too much, whatever is in it."""
    codec = Codec(serializer)
    message = {"a": [[]] * (MOST // 4)}
    codec._admits = None  # type: ignore[assignment]
    assert codec.decode(codec.encode(message), False) == message


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
