"""What a sender accepts, every receiver gets unchanged: all serializers, with and without a server."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channels_mpx import EncodingError
from channels_mpx.serializers import JSONSerializer, MsgPackSerializer
from tests.layers import open_layer, receive
from tests.unit.codecs import NUMBERS, TEXT, messages

#: Far more than travels: the sender's check is what this is about.
ANYTHING = messages(
    NUMBERS | TEXT | st.text(max_size=3) | st.binary(max_size=3) | st.floats() | st.integers()
)
EDGES: list[dict[str, Any]] = [
    {"n": number + more}
    for number in (2**63, 2**64, -(2**63), 2**53, 10**30)
    for more in (-1, 0, 1)
]


def as_lists(value: Any) -> Any:
    """Return a value with lists in place of tuples."""
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


async def judge(host: Any, serializer: Any, keys: list[str], sent: list[dict[str, Any]]) -> None:
    """Send from one process to a group in another; what was accepted arrives, in order."""
    config: dict[str, Any] = {
        "serializer_format": serializer,
        "symmetric_encryption_keys": keys,
        "capacity": 1000,
    }
    async with open_layer([host], **config) as sender, open_layer([host], **config) as receiver:
        channel = await receiver.new_channel()
        await receiver.group_add("room", channel)
        accepted = []
        for message in sent:
            try:
                await sender.group_send("room", {"type": "x", "message": message})
                accepted.append(message)
            except EncodingError:
                pass
        for message in accepted:
            # NaN is unlike itself; True is not 1 here.
            assert repr((await receive(receiver, channel))["message"]) == repr(as_lists(message))
        assert receiver.statistics().dropped["malformed"] == 0


@pytest.mark.parametrize("serializer", [MsgPackSerializer, JSONSerializer])
@pytest.mark.parametrize("keys", [[], ["secret"]], ids=["clear", "encrypted"])
@pytest.mark.parametrize("place", ["memory", "redis"])
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sent=st.lists(ANYTHING, min_size=5, max_size=25))
def test_what_a_sender_accepts_arrives_unchanged(
    request: pytest.FixtureRequest,
    place: str,
    keys: list[str],
    serializer: Any,
    sent: list[dict[str, Any]],
) -> None:
    """Whatever it is, it arrives as it was, or the sender gets an error."""
    host = "memory://unchanged"
    if place == "redis":
        host = request.getfixturevalue("redis_server").url
    asyncio.run(judge(host, serializer, keys, [*sent, *EDGES, {"n": math.nan}]))
