"""For test cases of Django and `unittest`."""

from __future__ import annotations

import contextlib
import functools
import unittest
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from channels_mpx.exceptions import ConfigurationError
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

    Raises:
        ConfigurationError: The mixin comes after the test case among the base classes, where it
            would do nothing; or, when a test begins, ``setUp`` has not called ``super().setUp()``.
    """

    channel_layer_alias: ClassVar[str] = "default"
    channel_layer_config: ClassVar[dict[str, Any]] = {}

    broker: Broker
    layer: MultiplexedChannelLayer
    outbox: Outbox

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        before = cls.__mro__[: cls.__mro__.index(ChannelLayerTestMixin)]
        if unittest.TestCase in before:
            raise ConfigurationError(
                problem=f"{cls.__name__} must have ChannelLayerTestMixin before its test case, "
                "as its first base class"
            )
        if cls.setUp is not ChannelLayerTestMixin.setUp and not getattr(
            cls.setUp, "is_checked", False
        ):
            cls.setUp = _checked(cls.setUp)  # type: ignore[method-assign, assignment]

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


def _checked(set_up: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a ``setUp`` after which the test has its layer, or fails."""

    @functools.wraps(set_up)
    def checked(self: ChannelLayerTestMixin) -> None:
        set_up(self)
        if "broker" not in vars(self):
            raise ConfigurationError(
                problem=f"setUp() of {type(self).__name__} must call super().setUp(): without "
                "that its tests would use the layer of CHANNEL_LAYERS"
            )

    checked.is_checked = True  # type: ignore[attr-defined]
    return checked
