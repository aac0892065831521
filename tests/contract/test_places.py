"""With keys a message belongs where it was sent: whoever has none cannot take it elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from channels_mpx import MultiplexedChannelLayer, Multiplexer, NotConfirmed, envelope
from channels_mpx.codec import Codec
from channels_mpx.envelope import Form
from channels_mpx.management.messages import Arrival, look_at
from channels_mpx.names import Namespace, parse_direct
from channels_mpx.sealing import enclose
from tests.contract.conftest import MakeLayer
from tests.helpers import eventually
from tests.layers import receive

KEYS: Any = {"symmetric_encryption_keys": ["ours"]}

GROUP_A, GROUP_B = b"mpx:group:a", b"mpx:group:b"


@dataclasses.dataclass
class Stranger:
    """Somebody without keys who may read and publish whatever is under the prefix."""

    mux: Multiplexer
    seen: list[tuple[bytes, bytes]] = dataclasses.field(default_factory=list)

    async def read(self, *names: bytes) -> None:
        """Read along on these channels."""
        before = self.mux.statistics().active
        subscription = self.mux.new_channel_subscription(
            lambda channel, payload: self.seen.append((channel, payload))
        )
        for name in names:
            subscription.add(name)
        await eventually(lambda: self.mux.statistics().active == before + len(names))

    async def find(self, form: Form) -> bytes:
        """Return the newest payload of a form, when there is one."""

        def look() -> bytes | None:
            return next((p for _, p in reversed(self.seen) if p[1] & 15 == form), None)

        found = await eventually(look)
        assert found is not None
        return found


@contextlib.asynccontextmanager
async def stranger_beside(layer: MultiplexedChannelLayer) -> AsyncIterator[Stranger]:
    """Yield a stranger on the server of a layer."""
    async with Multiplexer(layer.options.hosts, prefix="elsewhere") as mux:
        yield Stranger(mux)


def malformed(layer: MultiplexedChannelLayer) -> int:
    """Return how many pieces of garbage a layer has counted."""
    return layer.statistics().dropped["malformed"]


def inbox_of(layer: MultiplexedChannelLayer) -> bytes:
    """Return the name of a process's inbox."""
    return bytes(layer._hub.inbox.name)


def local_of(channel: str) -> bytes:
    """Return what stands behind the ``!``."""
    address = parse_direct(channel)
    assert address is not None
    return address.local


def moved(payload: bytes, form: Form, target: bytes | None = None, address: bytes = b"") -> bytes:
    """Return an envelope of another kind around the body of one; the time stays."""
    body = payload[envelope.unwrap(payload)[3] :]
    if address:
        made = envelope.wrap_request(form, body, True, target, address)
    else:
        made = envelope.wrap(form, body, True, target)
    return made[:2] + payload[2:10] + made[10:]


async def test_message_is_refused_in_another_group(make_layer: MakeLayer) -> None:
    """What was said to one group is not heard in another; said again to its own, it is."""
    owner, sender = await make_layer(**KEYS), await make_layer(**KEYS)
    channel = await owner.new_channel()
    await owner.group_add("b", channel)
    async with stranger_beside(owner) as stranger:
        await stranger.read(GROUP_A)
        await sender.group_send("a", {"type": "for.a"})
        payload = await stranger.find(Form.GROUP)
        await stranger.mux.publish(GROUP_B, payload)
        await sender.group_send("b", {"type": "for.b"})
        assert await receive(owner, channel) == {"type": "for.b"}
        assert malformed(owner) == 1
        # Nobody can tell the second time from the first.
        await owner.group_add("a", channel)
        for _ in range(2):
            await stranger.mux.publish(GROUP_A, payload)
            assert await receive(owner, channel) == {"type": "for.a"}
        assert malformed(owner) == 1


async def test_message_is_refused_in_another_channel(make_layer: MakeLayer) -> None:
    """A group's message, or another consumer's, or one for a namesake in another process."""
    owner, sender = await make_layer(**KEYS), await make_layer(**KEYS)
    first, second, namesake = [await owner.new_channel() for _ in range(2)] + [
        await sender.new_channel()
    ]
    assert local_of(first) == local_of(namesake)
    async with stranger_beside(owner) as stranger:
        await stranger.read(GROUP_A, inbox_of(owner))
        await sender.group_send("a", {"type": "for.a"})
        await sender.send(first, {"type": "for.first"})
        assert await receive(owner, first) == {"type": "for.first"}
        direct, group = await stranger.find(Form.DIRECT), await stranger.find(Form.GROUP)
        publish = stranger.mux.publish
        await publish(inbox_of(owner), moved(group, Form.DIRECT, local_of(second)))
        await publish(inbox_of(owner), moved(direct, Form.DIRECT, local_of(second)))
        await publish(inbox_of(sender), direct)
        for layer, channel, count in ((owner, second, 2), (sender, namesake, 1)):
            await owner.send(channel, {"type": "last"})
            assert await receive(layer, channel) == {"type": "last"}
            assert malformed(layer) == count
        # And no direct message is a group's.
        await owner.group_add("a", first)
        await publish(GROUP_A, moved(direct, Form.GROUP))
        await sender.group_send("a", {"type": "last"})
        assert await receive(owner, first) == {"type": "last"}
        assert malformed(owner) == 3


@pytest.mark.parametrize("change", ["address", "time", "no request"])
async def test_request_with_another_header_is_refused(make_layer: MakeLayer, change: str) -> None:
    """Who gets the reply, and when it was sent, is authenticated with the body."""
    owner, asker, thief = [await make_layer(**KEYS) for _ in range(3)]
    channel = await owner.new_channel()
    async with stranger_beside(owner) as stranger:
        await stranger.read(inbox_of(owner))
        asking = asyncio.ensure_future(asker.request(str.__str__(channel), {"number": 1}))
        event = await receive(owner, channel)
        seen = await stranger.find(Form.DIRECT)
        address = event["mpx.reply_to"].encode()
        if change == "address":
            other = b"%b!%b" % (thief._hub.process.encode(), address.partition(b"!")[2])
            forged = moved(seen, Form.DIRECT, local_of(channel), other)
        elif change == "time":
            forged = seen[:9] + bytes([seen[9] ^ 1]) + seen[10:]
        else:
            forged = moved(seen, Form.DIRECT, local_of(channel))
        await stranger.mux.publish(inbox_of(owner), forged)
        await asker.send(channel, {"type": "last"})
        assert await receive(owner, channel) == {"type": "last"}
        assert malformed(owner) == 1
        await owner.reply(event, {"echo": 1})
        assert await asking == {"echo": 1}


async def test_reply_to_another_request_is_refused(make_layer: MakeLayer) -> None:
    """An old reply does not answer a new request; the right one still does."""
    owner, asker = await make_layer(**KEYS), await make_layer(**KEYS)
    channel = await owner.new_channel()
    name = str.__str__(channel)
    await asker.new_channel()
    async with stranger_beside(owner) as stranger:
        await stranger.read(inbox_of(asker))
        asking = asyncio.ensure_future(asker.request(name, {"number": 1}))
        await owner.reply(await receive(owner, channel), {"echo": 1})
        assert await asking == {"echo": 1}
        old = await stranger.find(Form.REPLY)
        asking = asyncio.ensure_future(asker.request(name, {"number": 2}))
        event = await receive(owner, channel)
        token = event["mpx.reply_to"].encode().partition(b"!")[2]
        for count, form in enumerate((Form.REPLY, Form.FAILURE), 1):
            await stranger.mux.publish(inbox_of(asker), moved(old, form, token))
            await eventually(lambda count=count: malformed(asker) == count)
        await owner.reply(event, {"echo": 2})
        assert await asking == {"echo": 2}


async def test_job_is_refused_in_another_queue(make_layer: MakeLayer) -> None:
    """What was put into one queue is not done by the workers of another."""
    worker, sender, stranger = [await make_layer(**config) for config in (KEYS, KEYS, {})]
    await sender.send("work", {"type": "for.work"})
    entry = await stranger._hub.call(stranger._process.workers.pop, "work")
    payload = entry[13:]
    for queue in ("other", "work"):
        push = stranger._process.workers.push
        assert await stranger._hub.call(push, queue, payload, 100, 60) >= 0
    await sender.send("other", {"type": "for.other"})
    assert await receive(worker, "other") == {"type": "for.other"}
    assert await receive(worker, "work") == {"type": "for.work"}
    assert malformed(worker) == 1


async def test_request_between_processes_is_refused_elsewhere(make_layer: MakeLayer) -> None:
    """Neither another process, nor one that is told another return address, does it."""
    owner, asker, other = [await make_layer(**KEYS) for _ in range(3)]
    channel, _ = await owner.new_channel(), await other.new_channel()
    async with stranger_beside(owner) as stranger:
        await stranger.read(inbox_of(owner))
        await asker.group_add("a", channel)
        await owner.group_discard("a", channel)
        seen = await stranger.find(Form.CONTROL)
        address = b"%b!7" % other._hub.process.encode()
        await stranger.mux.publish(inbox_of(other), seen)
        await stranger.mux.publish(inbox_of(owner), moved(seen, Form.CONTROL, None, address))
        for layer in (other, owner):
            await eventually(lambda layer=layer: malformed(layer) == 1)
        assert owner.statistics().groups == 0


async def test_bounced_requests_are_encrypted_for_their_asker(make_layer: MakeLayer) -> None:
    """The news that nobody is there comes through, and belongs to one request."""
    owner, asker = await make_layer(**KEYS), await make_layer(**{**KEYS, "timeout": 0.5})
    channel = await owner.new_channel()
    await asker.new_channel()
    async with stranger_beside(owner) as stranger:
        await stranger.read(inbox_of(asker))
        with pytest.raises(Exception, match="Nobody is there"):
            await asker.request(f"{channel}99", {"number": 1})
        bounced = await stranger.find(Form.FAILURE)
        owner._process._delegation.handlers["group_add"] = lambda group, name: asyncio.sleep(60)
        adding = asyncio.ensure_future(asker.group_add("a", str.__str__(channel)))
        await eventually(lambda: asker.statistics().requests == 1)
        token = next(iter(asker._process.correlation._pending))
        await stranger.mux.publish(inbox_of(asker), moved(bounced, Form.FAILURE, token))
        with pytest.raises(NotConfirmed):
            await adding
        assert malformed(asker) == 1


def test_tail_shows_what_is_not_in_its_place() -> None:
    """The command that reads along says the same as the processes that get it."""
    codec, names = Codec(keys=["ours"]), Namespace("mpx")
    payload = enclose(codec, Form.GROUP, codec.serialize({"type": "for.a"}), GROUP_A)
    here, there = (
        look_at(Arrival(0.0, name, payload), names, codec) for name in (GROUP_A, GROUP_B)
    )
    assert (here.message, here.problem) == ({"type": "for.a"}, None)
    assert (there.message, there.problem) == (None, "it was sent to another place")


def test_nothing_changes_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys an envelope is, byte for byte, what any program can write."""
    monkeypatch.setattr(envelope.time, "time_ns", lambda: 0x0102030405060708 * 1000)
    codec, message = Codec(), {"type": "x"}
    body, time = codec.serialize(message), bytes(range(1, 9))
    assert body == msgspec.msgpack.encode(message)
    assert enclose(codec, Form.GROUP, body, GROUP_A) == b"\x01\x01" + time + body
    assert enclose(codec, Form.DIRECT, body, GROUP_A, b"7") == b"\x01\x02" + time + b"\x017" + body
    address = b"0123456789abcdev!42"
    made = enclose(codec, Form.CONTROL, body, GROUP_A, address=address)
    assert made == b"\x01\x44" + time + b"\x13" + address + body
