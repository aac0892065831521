"""What subscriptions tell their callbacks, written down."""

from __future__ import annotations

from typing import Any

from channels_mpx import ChannelSubscription, Gap, Multiplexer
from tests.helpers import eventually


class Notes:
    """Callbacks that write down what they are told."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self.gaps: list[Gap] = []

    def on_message(self, channel: bytes, payload: bytes) -> None:
        self.lines.append((channel, payload))

    def on_disconnect(self, error: Exception) -> None:
        self.lines.append(("disconnect", type(error)))

    def on_activation(self, name: bytes) -> None:
        self.lines.append(("active", name))

    def on_gap(self, gap: Gap) -> None:
        self.lines.append(("gap",))
        self.gaps.append(gap)

    def channels(self, mux: Multiplexer) -> ChannelSubscription:
        """Return a subscription with all of RedisMPX's callbacks."""
        return mux.new_channel_subscription(self.on_message, self.on_disconnect, self.on_activation)

    def watchful(self, mux: Multiplexer, *channels: str) -> ChannelSubscription:
        """Return a subscription that hears of gaps too."""
        subscription = mux.new_channel_subscription(
            self.on_message, self.on_disconnect, self.on_activation, on_gap=self.on_gap
        )
        for channel in channels:
            subscription.add(channel)
        return subscription

    async def until(self, *lines: tuple[Any, ...]) -> None:
        """Wait until exactly this has been written down."""
        await eventually(lambda: len(self.lines) >= len(lines))
        assert self.lines == list(lines)
