"""Garbage on any channel is counted, logged once and dropped; nobody dies."""

from __future__ import annotations

import asyncio
import logging
import os
import struct

import pytest

from channels_mpx import MultiplexedChannelLayer
from tests.helpers import eventually
from tests.layers import open_layer, receive
from tests.servers import RedisServer

BOMB = b"\x91" * 100_000  # lists in lists in lists, as msgpack


def envelope(form: int, body: bytes, version: int = 1, flags: int = 0) -> bytes:
    """Return a payload in our envelope."""
    return struct.pack(">BBQ", version, form | flags, 0) + body


ADD = b"\xa4verb\xa9group_add\xa5group\xa4room\xa7channel\xa1x"


def request(form: int, body: bytes, target: bytes = b"") -> bytes:
    """Return a payload of ours that asks for a reply to a process that does not exist."""
    return envelope(form, target + b"\x130123456789abcdev!42" + body, flags=0x40)


GARBAGE = {
    "empty": b"",
    "text": b"hello",
    "random": bytes(range(256)) * 4,
    "version": envelope(1, b"\x80", version=99),
    "form": envelope(9, b"\x80"),
    "flags": envelope(1, b"\x80", flags=0x40),
    "no body": envelope(1, b""),
    "cut body": envelope(1, b"\x81\xa4typ"),
    "no dict": envelope(1, b"\x01"),
    "bomb": envelope(1, BOMB),
    "huge length": envelope(1, b"\xdd\xff\xff\xff\xff"),
    "encrypted": envelope(1, os.urandom(64), flags=0x80),
    "direct in a group": envelope(2, b"\x011\x80"),
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_on_a_group_is_counted_and_logged_once(
    layer: MultiplexedChannelLayer,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """Garbage is counted, logged once in an episode, and nobody's reader dies of it."""
    first, second = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", first)
    await layer.group_add("room", second)
    with caplog.at_level(logging.INFO, "channels_mpx"):
        for _ in range(5):
            redis_server.command("PUBLISH", "mpx:group:room", GARBAGE[kind])
        await layer.group_send("room", {"type": "a"})
        for channel in (first, second):
            assert await receive(layer, channel) == {"type": "a"}
    assert layer.statistics().dropped["malformed"] == 5
    assert len(caplog.records) == 1
    assert "dropped" in caplog.records[0].message
    assert layer.statistics().connection.epoch == 1


INBOX_GARBAGE = {
    **{kind: payload for kind, payload in GARBAGE.items() if kind != "direct in a group"},
    "group in an inbox": envelope(1, b"\x80"),
    "direct cut": envelope(2, b"\xff1"),
    "direct without a name": envelope(2, b""),
    "direct body": envelope(2, b"\x011\xff\xff"),
    "control": envelope(4, b"\xff"),
    "control dict": envelope(4, b"\x80"),
    "control verb": envelope(4, b"\x83\xa4verb\xa3die\xa5token\x01\xa4from\xa1x"),
    "control without an address": envelope(4, b"\x83" + ADD),
    "control body": request(4, b"\xff"),
    "control of nothing": request(4, b"\x80"),
    "control of another verb": request(4, b"\x81\xa4verb\xa3die"),
    "control of a verb that is none": request(4, b"\x81\xa4verb\x90"),
    "control add": request(4, b"\x81\xa4verb\xa9group_add"),
    "control types": request(4, b"\x83\xa4verb\xa9group_add\xa5group\x05\xa7channel\x90"),
    "request without an address": envelope(2, b"\x011", flags=0x40),
    "request with a bad address": envelope(2, b"\x011\x03a!1\x80", flags=0x40),
    "request body": request(2, b"\xff", b"\x011"),
    "reply without a token": envelope(6, b""),
    "reply to nobody": envelope(6, b"\x011\x80"),
    "failure of nothing": envelope(7, b"\x011\xff"),
    "reply with an address": envelope(6, b"\x011\x80", flags=0x40),
}


@pytest.mark.parametrize("kind", INBOX_GARBAGE)
async def test_garbage_on_the_inbox_hurts_nobody(
    layer: MultiplexedChannelLayer,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """Whatever is published on a process's inbox, its channels and requests go on working."""
    channel = await layer.new_channel()
    inbox = f"mpx:inbox:{layer.statistics().connection.process}"
    reader = asyncio.ensure_future(receive(layer, channel))
    with caplog.at_level(logging.INFO, "channels_mpx"):
        for _ in range(5):
            redis_server.command("PUBLISH", inbox, INBOX_GARBAGE[kind])
        await layer.send(channel, {"type": "a"})
        assert await reader == {"type": "a"}
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(caplog.records) <= 1
    async with open_layer(redis_server) as other:
        await other.group_add("room", channel)
    assert layer.statistics().connection.epoch == 1
    assert layer.statistics().groups == 1


async def test_message_with_a_wrong_key_is_dropped(redis_server: RedisServer) -> None:
    """Without the right key a message is counted and dropped; so is one in the clear."""
    async with (
        open_layer(redis_server, symmetric_encryption_keys=["ours"]) as owner,
        open_layer(redis_server, symmetric_encryption_keys=["theirs"]) as stranger,
        open_layer(redis_server) as plain,
        open_layer(redis_server, symmetric_encryption_keys=["ours"]) as friend,
    ):
        channel = await owner.new_channel()
        await owner.group_add("room", channel)
        for sender in (stranger, plain, friend):
            await sender.send(channel, {"is_friend": sender is friend})
            await sender.group_send("room", {"is_friend": sender is friend})
        for _ in range(2):
            assert await receive(owner, channel) == {"is_friend": True}
        assert owner.statistics().dropped["malformed"] == 4
        open_channel = await plain.new_channel()
        await friend.send(open_channel, {"type": "secret"})
        await plain.send(open_channel, {"type": "open"})
        assert await receive(plain, open_channel) == {"type": "open"}
        await eventually(lambda: plain.statistics().dropped["malformed"] == 1)
