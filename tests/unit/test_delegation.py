"""Memberships of other processes' channels, when their owners cannot or will not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from channels_mpx import LinkLost, MembershipFailed, Multiplexer, NotConfirmed
from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK, open_layer
from tests.servers import RedisServer


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


async def test_lost_link_fails_who_waits_for_an_owner() -> None:
    """The answer may be missed; whoever asks again is told the truth."""
    world = Broker()
    asker, owner = world.layer(**QUICK), world.layer(**QUICK)
    mine, channel = await asker.new_channel(), await owner.new_channel()
    with world.freeze():
        adding = asyncio.ensure_future(asker.group_add("room", channel))
        await eventually(lambda: asker.statistics().requests == 1)
        world.kill_connections()
        with pytest.raises(LinkLost):
            await adding
    for layer in (asker, owner):
        await eventually(lambda layer=layer: layer.statistics().connection.active >= 1)
    await asker.group_add("room", channel)
    assert owner.statistics().groups == 1
    assert repr(asker._process._delegation).endswith("under_way=0>")
    for layer in (asker, owner):
        await layer.aclose()
    del mine
