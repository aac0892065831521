"""Direct channels of loops that have gone, and processes that do not do what they are asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from channels_mpx import MembershipFailed, Multiplexer, NotConfirmed
from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK, open_layer
from tests.servers import RedisServer


async def test_channels_of_a_closed_loop_are_dropped() -> None:
    """Their names may be held for ever; nobody can read there any more."""
    layer = Broker().layer(**QUICK, expiry=0.2)
    mine = await layer.new_channel()
    name = await asyncio.to_thread(lambda: asyncio.run(layer.new_channel()))
    await eventually(lambda: layer.statistics().channels == 1)
    assert name != mine
    await layer.aclose()


async def test_unread_channel_of_another_loop_goes_dormant() -> None:
    """It leaves its groups; what it holds is left to its own thread."""
    layer = Broker().layer(**QUICK, expiry=0.2)
    mine = await layer.new_channel()
    over, names = threading.Event(), list[str]()

    async def live() -> None:
        names.append(await layer.new_channel())
        await layer.group_add("room", names[0])
        await layer.send(names[0], {"type": "a"})
        await asyncio.to_thread(over.wait)

    thread = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(live())))
    await eventually(lambda: layer.statistics().waiting == 1)
    await eventually(lambda: layer.statistics().groups == 0)
    assert layer.statistics().channels == 2
    over.set()
    await thread
    assert mine
    await layer.aclose()


async def test_owner_that_does_not_answer_is_an_error_at_the_deadline(
    redis_server: RedisServer,
) -> None:
    """Somebody listens on the inbox, and nobody says that it was done."""
    process = "a" * 16
    async with (
        Multiplexer(redis_server.url, prefix="elsewhere") as mux,
        open_layer(redis_server, timeout=0.3) as layer,
    ):
        mux.new_channel_subscription(lambda channel, payload: None).add(f"mpx:inbox:{process}")
        await eventually(lambda: mux.statistics().active == 1)
        with pytest.raises(NotConfirmed, match="group_add"):
            await layer.group_add("room", f"specific.{process}!1")


async def test_owner_that_may_not_subscribe_says_so(
    make_redis: Callable[..., RedisServer],
) -> None:
    """What Redis refuses to the owner is told to whoever asked."""
    server = make_redis(users=["alice on >secret ~* resetchannels &mpx:inbox:* +@all"])
    async with (
        open_layer([server.url_for("alice", "secret")], **QUICK) as owner,
        open_layer(server, **QUICK) as layer,
    ):
        channel = await owner.new_channel()
        with pytest.raises(MembershipFailed, match="NOPERM"):
            await layer.group_add("room", channel)


async def test_owner_that_may_not_answer_logs_it(
    make_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that cannot be sent is the owner's business, and the asker's deadline."""
    caplog.set_level("INFO", "channels_mpx.layer")
    server = make_redis(users=["alice on >secret ~* &* +@all -publish"])
    async with (
        open_layer([server.url_for("alice", "secret")], **QUICK) as owner,
        open_layer(server, timeout=0.3) as layer,
    ):
        channel = await owner.new_channel()
        with pytest.raises(NotConfirmed):
            await layer.group_add("room", channel)
        assert "could not answer process" in caplog.text
        assert owner.statistics().groups == 1
