"""Mixins for the consumers of Channels: each is the first base class of a consumer."""

from __future__ import annotations

from .mixin import MultiplexedConsumerMixin
from .promising import PromiseMixin
from .subscribing import ChannelSubscriptionMixin, PatternSubscriptionMixin

__all__ = [
    "ChannelSubscriptionMixin",
    "MultiplexedConsumerMixin",
    "PatternSubscriptionMixin",
    "PromiseMixin",
]
