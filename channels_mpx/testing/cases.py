"""For test cases of Django and `unittest`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar

from channels_mpx.layer import MultiplexedChannelLayer

from .broker import Broker
from .outbox import Outbox

__all__ = ["ChannelLayerTestMixin"]

if TYPE_CHECKING:
    from unittest import TestCase
else:
    TestCase = object


class ChannelLayerTestMixin(TestCase):
    """Gives each test a channel layer without a server, which consumers and views use.

    For Django's ``SimpleTestCase``, ``TransactionTestCase`` and ``TestCase``, and for those of
    `unittest`; it comes before them among the base classes. Tests may be synchronous, with
    ``self.layer.sync``, or asynchronous. A test case with a ``setUp`` of its own calls
    ``super().setUp()``.

    Attributes:
        channel_layer_alias: The alias in ``CHANNEL_LAYERS``.
        channel_layer_config: Settings that win over those of ``CHANNEL_LAYERS``.
        broker: The test's broker.
        layer: The layer that `get_channel_layer` returns.
        outbox: What was sent, in order.
    """

    channel_layer_alias: ClassVar[str] = "default"
    channel_layer_config: ClassVar[dict[str, Any]] = {}

    broker: Broker
    layer: MultiplexedChannelLayer
    outbox: Outbox

    def setUp(self) -> None:
        """Begin with an empty broker; all of it ends with the test."""
        alias = self.channel_layer_alias
        resources = contextlib.ExitStack()
        self.addCleanup(resources.close)
        broker = Broker.of_settings(alias, **self.channel_layer_config)
        self.broker = resources.enter_context(broker)
        self.layer = resources.enter_context(broker.installed(alias))
        self.outbox = broker.outbox
        super().setUp()

    def other_process(self) -> MultiplexedChannelLayer:
        """Return a new layer on the same broker: what another process would have."""
        return self.broker.layer()
