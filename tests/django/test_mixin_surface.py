"""What mixins add to a consumer's own names: what users call and override, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer

from channels_mpx.consumers import (
    ChannelSubscriptionMixin,
    MultiplexedConsumerMixin,
    PatternSubscriptionMixin,
    PromiseMixin,
)
from tests.django.client import Client

BASE = {
    "gap_close_code",
    "gap_policy",
    "on_activation",
    "on_disconnect",
    "on_gap",
    "on_link_error",
    "read_ahead",
    "reply",
    "unavailable_close_code",
}
NAMES = BASE | {
    "authorize_subscription",
    "bad_payloads",
    "on_bad_payload",
    "payload",
}


@pytest.mark.parametrize(
    ("mixin", "names"),
    [
        (MultiplexedConsumerMixin, BASE),
        (
            ChannelSubscriptionMixin,
            NAMES
            | {"channels", "on_channel_message", "subscribe", "subscribed_channels", "unsubscribe"},
        ),
        (
            PatternSubscriptionMixin,
            NAMES
            | {
                "on_pattern_message",
                "patterns",
                "psubscribe",
                "punsubscribe",
                "subscribed_patterns",
            },
        ),
        (PromiseMixin, NAMES | {"promise", "promise_created"}),
    ],
)
async def test_mixins_show_what_users_can_use(mixin: Any, names: set[str], layer: Any) -> None:
    """While the consumer runs, too; what Channels itself gives a consumer is not counted."""
    consumer = type("Chat", (mixin, AsyncWebsocketConsumer), {})
    plain = await Client(AsyncWebsocketConsumer).connect()
    ours = await Client(consumer).connect()
    assert surface(ours.instance) - surface(plain.instance) == names
    assert surface(consumer) - surface(AsyncWebsocketConsumer) == names
    await plain.leave()
    await ours.leave()


@pytest.mark.parametrize("kind", ["hear.message", "hear.notice", "begin", "end"])
async def test_messages_cannot_call_what_is_not_shown(kind: str, layer: Any) -> None:
    """A sender chooses the type of a message, and so a method: none of ours."""
    consumer = type("Job", (ChannelSubscriptionMixin, AsyncConsumer), {})
    client = Client(consumer, {"type": "channel", "channel": "work"})
    client.give(kind)
    with pytest.raises(ValueError, match="No handler for message type"):
        await client.end()


def surface(value: object) -> set[str]:
    """Return what tab completion offers."""
    return {name for name in dir(value) if not name.startswith("_")}
