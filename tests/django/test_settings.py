"""Settings, loops and management commands, as a Django project meets them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import InvalidChannelLayerError
from channels.layers import channel_layers, get_channel_layer
from django.core.management import BaseCommand, call_command
from django.test import override_settings

from channels_mpx import ConfigurationError, MultiplexedChannelLayer
from tests.layers import receive, run_script
from tests.servers import RedisServer

BACKEND = "channels_mpx.MultiplexedChannelLayer"


def layers(**configs: dict[str, Any]) -> dict[str, Any]:
    """Return a CHANNEL_LAYERS setting."""
    return {name: {"BACKEND": BACKEND, "CONFIG": config} for name, config in configs.items()}


def test_override_settings_swaps_the_layer() -> None:
    """`override_settings(CHANNEL_LAYERS=…)` takes effect at once, and ends with the block."""
    before = get_channel_layer()
    with override_settings(CHANNEL_LAYERS=layers(default={"hosts": ["memory://x"], "capacity": 7})):
        layer = get_channel_layer()
        assert layer is get_channel_layer()
        assert layer.capacity == 7
    assert get_channel_layer() is not layer
    assert get_channel_layer().capacity == before.capacity == 100


async def test_several_layers_are_independent() -> None:
    """Two aliases are two layers, also on one broker if their prefixes differ."""
    setting = layers(
        default={"hosts": ["memory://y"]}, other={"hosts": ["memory://y"], "prefix": "other"}
    )
    with override_settings(CHANNEL_LAYERS=setting):
        one, two = get_channel_layer(), get_channel_layer("other")
        await one.send("work", {"from": "one"})
        await two.send("work", {"from": "two"})
        assert await receive(one, "work") == {"from": "one"}
        assert await receive(two, "work") == {"from": "two"}
        await one.aclose()
        await two.aclose()


def test_wrong_settings_are_reported_when_the_layer_is_asked_for() -> None:
    """A typo in CONFIG is an error that names it, not a silent default."""
    with override_settings(CHANNEL_LAYERS=layers(default={"capcity": 5})):
        with pytest.raises(ConfigurationError, match="did you mean 'capacity'"):
            get_channel_layer()
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "channels_mpx.Nothing"}}):
        with pytest.raises(InvalidChannelLayerError):
            get_channel_layer()


def test_layer_may_be_set_for_a_test() -> None:
    """`channel_layers.set` replaces the layer, as Channels' documentation has it."""
    mine = MultiplexedChannelLayer(hosts=["memory://z"])
    old = channel_layers.set("default", mine)
    assert get_channel_layer() is mine
    if old is None:
        channel_layers.backends.clear()
    else:
        channel_layers.set("default", old)


def test_one_layer_serves_test_after_test(layer: MultiplexedChannelLayer) -> None:
    """The layer of the process works on one event loop after the other, as pytest makes them."""

    async def talk() -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}

    for _ in range(20):
        asyncio.run(talk())
        async_to_sync(talk)()
    assert layer.statistics().channels == 0


class Announce(BaseCommand):
    """Speaks to a room."""

    def add_arguments(self, parser: Any) -> None:
        """Room and text."""
        parser.add_argument("room")
        parser.add_argument("text")

    def handle(self, *args: Any, **options: Any) -> None:
        """Send without any event loop."""
        message = {"type": "said", "text": options["text"]}
        get_channel_layer().sync.group_send(options["room"], message)


async def test_management_command_reaches_a_consumer(layer: MultiplexedChannelLayer) -> None:
    """A management command speaks to a group through `layer.sync`."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await asyncio.to_thread(call_command, Announce(), "room", "hello")
    assert await receive(layer, channel) == {"type": "said", "text": "hello"}


MANAGE = """
    import sys
    import django
    from django.conf import settings
    from django.core.management import BaseCommand, call_command

    settings.configure(
        SECRET_KEY="x",
        INSTALLED_APPS=["channels"],
        CHANNEL_LAYERS={
            "default": {
                "BACKEND": "channels_mpx.MultiplexedChannelLayer",
                "CONFIG": {"hosts": [sys.argv[1]]},
            }
        },
    )
    django.setup()
    from tests.django.test_settings import Announce

    call_command(Announce(), "room", "hello")
"""


async def test_management_command_in_its_own_process(redis_server: RedisServer) -> None:
    """The command's process ends by itself, without a word on stderr."""
    layer = MultiplexedChannelLayer(hosts=[redis_server.url])
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await asyncio.to_thread(run_script, MANAGE, redis_server.url, strict=False)
    assert await receive(layer, channel) == {"type": "said", "text": "hello"}
    await layer.aclose()
