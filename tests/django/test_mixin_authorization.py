"""Which names a consumer may have, and what cannot be a name, a payload or a consumer at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
)
from channels.layers import channel_layers
from django.test import override_settings

from channels_mpx import ConfigurationError, InvalidName, InvalidTimeout, ReservedName
from channels_mpx.consumers import (
    ChannelSubscriptionMixin,
    MultiplexedConsumerMixin,
    PatternSubscriptionMixin,
    PromiseMixin,
)
from tests.django.client import Client, quiet
from tests.django.talk import Obedient, Place, default, open_talker, place
from tests.helpers import eventually
from tests.layers import open_layer
from tests.servers import RedisServer

__all__ = ["default", "place", "quiet"]


class Heedless:
    """Does nothing with what it hears."""

    async def on_channel_message(self, channel: bytes, message: Any) -> None:
        """Do nothing."""

    async def on_pattern_message(self, pattern: bytes, channel: bytes, message: Any) -> None:
        """Do nothing."""


class Everything(
    Obedient,
    ChannelSubscriptionMixin,
    PatternSubscriptionMixin,
    PromiseMixin,
    AsyncJsonWebsocketConsumer,
):
    """All mixins, with class attributes."""

    channels = ["news"]  # noqa: RUF012
    patterns = ["all.*"]  # noqa: RUF012


class Guarded(Everything):
    """Allows what begins with ``my``, and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    async def authorize_subscription(self, kind: str, name: bytes) -> bool:
        """Allow what begins with ``my``."""
        self.asked.append((kind, name))
        return name.startswith(b"my")


class Generous(Everything):
    """Allows everything."""

    async def authorize_subscription(self, kind: str, name: bytes) -> bool:
        """Allow it."""
        return True


# Authorisation


async def test_every_name_is_asked_for_but_class_attributes(layer: Any, place: Place) -> None:
    """Each time, and all of a batch before any of it is wanted."""
    talker = await open_talker(Guarded)
    asked = talker.instance.asked
    assert asked == []
    assert await talker.ask("subscribe", "my.1", "my.2") is None
    assert await talker.ask("subscribe", "my.1") is None
    assert await talker.ask("psubscribe", "my*") is None
    assert await talker.ask("promise", "my.", "1", 0) == "PromiseTimeout"
    assert await talker.ask("promise", "my.", "2", 0) == "PromiseTimeout"
    assert asked == [
        *(("channel", name) for name in (b"my.1", b"my.2", b"my.1")),
        ("pattern", b"my*"),
        *(("promise", name) for name in (b"my.1", b"my.2")),
    ]
    wanted = layer.statistics().connection.wanted
    assert await talker.ask("subscribe", "my.3", "yours", "my.4") == "NotAuthorized"
    assert await talker.ask("psubscribe", "my.?", "*") == "NotAuthorized"
    assert await talker.ask("promise", "yours.", "1", 10) == "NotAuthorized"
    assert layer.statistics().connection.wanted == wanted
    assert await talker.ask("both") == [["news", "my.1", "my.2"], ["all.*", "my*"]]
    await talker.leave()


async def test_what_the_error_says(layer: Any) -> None:
    """It names the consumer, the kind and the name."""
    talker = await open_talker(Guarded)
    with pytest.raises(PermissionError) as caught:
        await talker.instance.psubscribe(b"no \xff")
    assert str(caught.value) == (
        "Guarded does not allow the pattern 'no \\\\xff': its authorize_subscription() said no."
    )
    await talker.leave()


@pytest.mark.parametrize("pattern", ["*", "m*", "[m]px:*", "mp?:*", "?px:*", "[^a]*", "\\mpx:*"])
async def test_a_client_asks_for_everything(layer: Any, place: Place, pattern: str) -> None:
    """By default it gets no pattern that may match what the layer sends."""
    talker = await open_talker(Everything)
    assert await talker.ask("psubscribe", pattern) == "NotAuthorized"
    assert await talker.ask("psubscribe", "harmless.*", pattern) == "NotAuthorized"
    assert await talker.ask("both") == [["news"], ["all.*"]]
    assert place.numpat() == 1
    assert await talker.ask("subscribe", pattern) is None  # it is a plain channel's name there
    assert await talker.ask("psubscribe", "harmless.*") is None
    await talker.leave()


@pytest.mark.parametrize("consumer", [Everything, Generous, Guarded])
async def test_names_of_the_layer_are_refused(layer: Any, place: Place, consumer: type) -> None:
    """Whatever `authorize_subscription` says, and without asking it."""
    talker = await open_talker(consumer)
    reserved = ["mpx:", "mpx:group:room", f"mpx:inbox:{layer._hub.process}"]
    for name in reserved:
        for verb in ("subscribe", "psubscribe"):
            assert await talker.ask(verb, name) == "ReservedName"
            assert await talker.ask(verb, "my.own", name) == "ReservedName"
        assert await talker.ask("promise", name, "x", 10) == "ReservedName"
        assert await talker.ask("promise", name[:2], name[2:], 10) == "ReservedName"
    assert await talker.ask("psubscribe", "mpx:*") == "ReservedName"
    assert getattr(talker.instance, "asked", []) == []
    assert await talker.ask("both") == [["news"], ["all.*"]]
    assert place.numpat() == 1
    await talker.leave()


async def test_who_may_have_everything_does_not_get_the_layers_messages(
    layer: Any, place: Place
) -> None:
    """Patterns may cover the prefix; what is under it is not delivered."""
    talker = await open_talker(Generous)
    for pattern in ("*", "[m]px:*"):
        assert await talker.ask("psubscribe", pattern) is None
    await layer.group_send("room", {"type": "secret"})
    await layer.send(talker.instance.channel_name, {"type": "said", "text": "direct"})
    place.publish("mpx:group:room", "secret")
    place.publish("mine", "open")
    assert await talker.next() == ["layer", "direct"]
    assert await talker.next() == ["pattern", "*", "mine", "open"]
    assert await talker.ask("promise", "m", "px:x", 10) == "ReservedName"
    assert await talker.ask("promise", "m", "ine", 0) == "PromiseTimeout"
    await talker.leave()


async def test_a_promise_whose_pattern_may_match_the_prefix(layer: Any, place: Place) -> None:
    """That is a question of its own, once for each prefix; by default it is refused."""
    talker = await open_talker(Everything)
    assert await talker.ask("promise", "mp", "1", 10) == "NotAuthorized"
    assert place.numpat() == 1
    await talker.leave()

    class Noting(Guarded):
        async def authorize_subscription(self, kind: str, name: bytes) -> bool:
            await super().authorize_subscription(kind, name)
            return True

    talker = await open_talker(Noting)
    for suffix in ("1", "2"):
        assert await talker.ask("promise", "mp", suffix, 0) == "PromiseTimeout"
    assert await talker.ask("promise", "m*", "1", 0) == "PromiseTimeout"  # a plain star
    assert talker.instance.asked == [
        *(("promise", b"mp1"), ("pattern", b"mp*"), ("promise", b"mp2"), ("promise", b"m*1"))
    ]
    await talker.leave()


async def test_class_attributes_under_the_prefix(layer: Any) -> None:
    """The consumer ends before its first event."""

    class Nosy(ChannelSubscriptionMixin, AsyncWebsocketConsumer):
        channels = ["news", "mpx:group:room"]  # noqa: RUF012

        async def on_channel_message(self, channel: bytes, message: Any) -> None:
            """Do nothing."""

    with pytest.raises(ReservedName):
        await Client(Nosy).end()


# Bad input


@pytest.mark.parametrize("name", [None, "", b"", 3, ["a"], ("a",), object(), bytearray(b"a")])
async def test_what_is_no_name(layer: Any, name: Any) -> None:
    """It is refused wherever a name is taken, and nothing else of the batch is done."""
    talker = await open_talker(Everything)
    consumer = talker.instance
    for verb in (
        *(consumer.subscribe, consumer.unsubscribe, consumer.psubscribe, consumer.punsubscribe),
    ):
        with pytest.raises(InvalidName):
            await verb("news", "fine", name, "all.*")
    for prefix, suffix in ((name, "a"), ("a", name)):
        with pytest.raises(InvalidName):
            await consumer.promise(prefix, suffix, 1)
    assert await talker.ask("both") == [["news"], ["all.*"]]
    await talker.leave()


@pytest.mark.parametrize("timeout", [None, -1, -0.1, math.nan, math.inf, "1", True, [1]])
async def test_what_is_no_timeout(layer: Any, place: Place, timeout: Any) -> None:
    """Nothing is subscribed for such a promise."""
    talker = await open_talker(Guarded)
    for make in (talker.instance.promise, talker.instance.promise_created):
        with pytest.raises(InvalidTimeout):
            await make("my.", "1", timeout)
    assert place.numpat() == 1
    assert talker.instance.asked == []
    await talker.leave()


@pytest.mark.parametrize(
    ("mixin", "attributes", "problem"),
    [
        (ChannelSubscriptionMixin, {"channels": "news"}, "channels of Bad must be a list of names"),
        (ChannelSubscriptionMixin, {"channels": b"news"}, "channels of Bad must be a list of"),
        (ChannelSubscriptionMixin, {"channels": None}, "channels of Bad must be a list of names"),
        (ChannelSubscriptionMixin, {"channels": [""]}, "channels of Bad: '' is not a name that"),
        (PatternSubscriptionMixin, {"patterns": "a*"}, "patterns of Bad must be a list of names"),
        (PatternSubscriptionMixin, {"patterns": (1,)}, "patterns of Bad: 1 is not a name that"),
        (PatternSubscriptionMixin, {"payload": "xml"}, "payload of Bad must be one of 'bytes', 't"),
        (PromiseMixin, {"payload": None}, "payload of Bad must be one of 'bytes', 'text', 'json'"),
        (PromiseMixin, {"gap_policy": "panic"}, "gap_policy of Bad must be one of 'notify', 'clo"),
        (MultiplexedConsumerMixin, {"gap_policy": None}, "gap_policy of Bad must be one of 'noti"),
    ],
)
@pytest.mark.parametrize("bases", [(AsyncWebsocketConsumer,), (AsyncConsumer,), ()])
def test_a_class_that_cannot_be(
    mixin: type, attributes: dict[str, Any], problem: str, bases: tuple[type, ...]
) -> None:
    """It is told when it is defined, mixins of the user's own too, and names the class."""
    with pytest.raises(ConfigurationError) as caught:
        type("Bad", (mixin, *bases), attributes)
    assert problem in str(caught.value)
    names = {"channels": {"a"}, "patterns": frozenset({"a"})}
    type("Good", (Heedless, mixin, *bases), names)


async def test_a_consumer_that_cannot_be(layer: Any) -> None:
    """What its instances say is told before anything is handled."""

    class Late(Heedless, ChannelSubscriptionMixin, AsyncWebsocketConsumer):
        def __init__(self, **attributes: Any) -> None:
            super().__init__()
            vars(self).update(attributes)

    for attributes, problem in (
        ({"channels": "news"}, "channels of Late must be a list of names, not 'news'"),
        ({"gap_policy": "panic"}, "gap_policy of Late must be one of "),
        ({"payload": "xml"}, "payload of Late must be one of "),
    ):
        with pytest.raises(ConfigurationError, match=problem):
            await Client(lambda a=attributes: Late(**a)).end()  # type: ignore[misc]
    await eventually(lambda: layer.statistics().channels == 0)


@pytest.mark.parametrize("base", [SyncConsumer, JsonWebsocketConsumer])
@pytest.mark.parametrize(
    "mixin", [ChannelSubscriptionMixin, PatternSubscriptionMixin, PromiseMixin]
)
def test_sync_consumers_are_refused(mixin: type, base: type) -> None:
    """When the class is defined; the plain mixin takes them."""
    with pytest.raises(ConfigurationError, match="Sync is a synchronous consumer; subscriptions"):
        type("Sync", (mixin, base), {})
    with pytest.raises(ConfigurationError, match="must have MultiplexedConsumerMixin before"):
        type("Sync", (base, mixin), {})
    type("Sync", (MultiplexedConsumerMixin, base), {})


IN_MEMORY = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


@pytest.mark.parametrize(
    "mixin", [ChannelSubscriptionMixin, PatternSubscriptionMixin, PromiseMixin]
)
@pytest.mark.parametrize(
    ("layers", "what"), [(IN_MEMORY, "InMemoryChannelLayer"), ({}, "not configured")]
)
async def test_another_layer(mixin: type, layers: dict[str, Any], what: str) -> None:
    """The error names the consumer and the layer."""
    lost = type("Lost", (mixin, AsyncWebsocketConsumer), {})
    with override_settings(CHANNEL_LAYERS=layers):
        channel_layers.backends.clear()
        with pytest.raises(ConfigurationError, match=f"Lost needs a Multi.*'default' is.* {what}"):
            await Client(lost).end()
    channel_layers.backends.clear()


async def test_a_user_who_may_not_use_patterns(
    make_redis: Callable[..., RedisServer], default: Any
) -> None:
    """A promise that Redis refuses raises Redis's error, each time anew, and leaves nothing."""
    server = make_redis(users=["ada on >ada ~mpx:* &mpx:* &ok.* &news &all.* +@all"])
    async with open_layer([server.url_for("ada", "ada")]) as layer:
        default(layer)
        talker = await open_talker(Everything)
        for _ in range(2):
            assert await talker.ask("promise", "no.", "1", 10) == "CommandRefused"
        assert server.command("PUBSUB", "NUMPAT") == 1
        assert await talker.ask("promise", "ok.", "1", 0) == "PromiseTimeout"
        await talker.leave()
        await eventually(lambda: server.command("PUBSUB", "NUMPAT") == 0)
