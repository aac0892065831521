"""Requests when links, loops, brokers and errors do not behave."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from channels_mpx import (
    CommandRefused,
    LinkLost,
    LinkUnavailable,
    MultiplexedChannelLayer,
    NoListener,
    RemoteError,
    RequestTimeout,
    SyncCallFromAsync,
    envelope,
)
from channels_mpx.correlation import GONE, MAX_TEXT, failure
from channels_mpx.envelope import Form
from channels_mpx.names import RETURN_ADDRESS
from channels_mpx.serializers import Message
from channels_mpx.testing import Broker, Sent
from tests.helpers import eventually
from tests.layers import QUICK, answering, open_layer, receive
from tests.servers import RedisServer

ADDRESS = b"0123456789abcdev!7"


def echo(event: Message) -> Message:
    """Return what a server answers."""
    return {"echo": event["number"]}


class World:
    """Two virtual processes on one broker, the first of which asks the second."""

    def __init__(self, **config: Any) -> None:
        self.broker = Broker()
        self.asker = self.broker.layer(**{**QUICK, **config})
        self.owner = self.broker.layer(**{**QUICK, **config})
        self.channel = ""

    def ask(self, number: int, **options: Any) -> asyncio.Task[Message]:
        """Begin a request; the name is a copy, as that of another process would be."""
        channel = str.__str__(self.channel)
        return asyncio.ensure_future(self.asker.request(channel, {"number": number}, **options))

    async def waiting(self, requests: int) -> None:
        """Return when so many requests wait in the owner's channel."""
        await eventually(lambda: self.owner.statistics().waiting == requests)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Both processes live here: the asker has its inbox, the owner a channel."""
    world = World()
    world.channel, mine = await world.owner.new_channel(), await world.asker.new_channel()
    yield world
    await world.asker.aclose()
    await world.owner.aclose()
    del mine


# The link


async def test_lost_link_fails_who_waits_at_once(world: World) -> None:
    """The reply may be missed; on the next link everything works again."""
    asking = [world.ask(number, timeout=30) for number in range(3)]
    await world.waiting(3)
    world.broker.links[0].call_soon(world.broker.links[0].lose, "pulled")
    world.broker.links[1].call_soon(world.broker.links[1].lose, "pulled")
    for error in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(error, LinkLost)
        assert "pulled" in str(error)
    for number in range(3):
        assert (await receive(world.owner, world.channel))["number"] == number
    for layer in (world.asker, world.owner):
        await eventually(lambda layer=layer: layer.statistics().connection.active == 1)
    async with answering(world.owner, world.channel, echo):
        assert await world.ask(7) == {"echo": 7}


async def test_lost_link_fails_who_waits_for_a_worker(world: World) -> None:
    """The same for what waits in a queue."""
    reader = asyncio.ensure_future(receive(world.owner, "work"))
    await eventually(lambda: world.owner.statistics().connection.active == 2)
    asking = asyncio.ensure_future(world.asker.request("work", {"number": 1}, timeout=30))
    await reader
    world.broker.kill_connections()
    with pytest.raises(LinkLost, match="killed by the test"):
        await asking


async def test_request_waits_for_a_link(world: World) -> None:
    """What is asked while there is none goes out on the next one, if it comes in time."""
    async with answering(world.owner, world.channel, echo):
        with world.broker.down():
            await eventually(lambda: world.asker.statistics().connection.state == "connecting")
            asking = [world.ask(number, timeout=30) for number in range(3)]
            with pytest.raises(LinkUnavailable, match=r"within 0\.1 s.*the broker is down"):
                await world.ask(3, timeout=0.1)
            assert not any(task.done() for task in asking)
            assert world.asker.statistics().requests == 3
        # The owner may still be away when the request has got there.
        for number, result in enumerate(await asyncio.gather(*asking, return_exceptions=True)):
            assert result == {"echo": number} or isinstance(result, NoListener)


async def test_first_link_that_never_comes_is_told(world: World) -> None:
    """At the deadline it is known that nothing was sent, whichever deadline comes first."""
    for options, seconds in (({"timeout": 0.1}, r"0\.1"), ({}, r"0\.3")):
        layer = world.broker.layer(timeout=0.3)
        with world.broker.down(), pytest.raises(LinkUnavailable, match=f"within {seconds} s"):
            await layer.request(world.channel, {"number": 1}, **options)
        assert layer.statistics().requests == 0
        await layer.aclose()


async def test_link_lost_before_the_inbox_is_confirmed_costs_nothing(world: World) -> None:
    """What has not been sent waits for the next link."""
    fresh = world.broker.layer(**QUICK)
    async with answering(world.owner, world.channel, echo):
        await fresh.send(world.channel, {"number": 0, "mpx.reply_to": ADDRESS.decode()})
        with world.broker.freeze():
            asking = asyncio.ensure_future(fresh.request(world.channel, {"number": 1}, timeout=30))
            await eventually(lambda: fresh.statistics().requests == 1)
            link = world.broker.links[-1]
            link.call_soon(link.lose, "pulled")
            await eventually(lambda: fresh.statistics().connection.epoch == 2)
        assert await asking == {"echo": 1}
    await fresh.aclose()


async def test_flush_and_close_fail_who_waits(world: World) -> None:
    """Both end the link on which the reply would have come."""
    for close in (world.asker.flush, lambda: asyncio.to_thread(world.asker.sync.close)):
        asking = world.ask(1, timeout=30)
        await eventually(lambda: world.owner.statistics().waiting)
        await close()
        with pytest.raises(LinkLost, match="closed"):
            await asking
        await receive(world.owner, world.channel)


async def test_inbox_that_is_refused_is_told(make_redis: Callable[..., RedisServer]) -> None:
    """Who may not listen to his inbox can ask nothing."""
    server = make_redis(users=["alice on >secret ~* resetchannels &mpx:group:* +@all"])
    async with open_layer([server.url_for("alice", "secret")], **QUICK) as layer:
        with pytest.raises(CommandRefused, match="NOPERM"):
            await layer.request("specific.0123456789abcdev!1", {"number": 1})
        assert layer.statistics().requests == 0


async def test_owner_that_may_not_publish_sends_nothing_back(
    make_redis: Callable[..., RedisServer],
) -> None:
    """Then the deadline tells, and nothing of it is left in anybody's log."""
    server = make_redis(users=["alice on >secret ~* &* +@all -publish"])
    async with (
        open_layer([server.url_for("alice", "secret")], **QUICK) as owner,
        open_layer(server, **QUICK) as asker,
    ):
        channel = await owner.new_channel()
        with pytest.raises(RequestTimeout):
            await asker.request(f"{channel}9", {"number": 1}, timeout=0.2)
        assert owner.statistics().dropped["unknown"] == 1
    gc.collect()


# Brokers and bytes


async def test_request_that_is_lost_on_its_way_ends_at_its_deadline(world: World) -> None:
    """Redis has taken it, so nobody knows more."""
    with world.broker.drop(1.0):
        for channel in (world.channel, "work"):
            expected = NoListener if channel == "work" else RequestTimeout
            with pytest.raises(expected):
                await world.asker.request(channel, {"number": 1}, timeout=0.1)


async def test_outbox_notes_requests_as_messages(world: World) -> None:
    """As they were given; replies are not in it."""
    async with answering(world.owner, world.channel, echo):
        await world.ask(1)
    with pytest.raises(NoListener):
        await world.asker.request("work", {"number": 2})
    local = world.channel.partition("!")[2]
    assert world.broker.outbox == [
        Sent("direct", local, {"number": 1}),
        Sent("worker", "work", {"number": 2}),
    ]


async def test_tokens_cannot_be_told_from_one_another(world: World) -> None:
    """Whoever gets requests learns nothing about the tokens of the requests to come."""
    correlation = world.asker._process.correlation
    tokens = [int(correlation.new_address().token) for _ in range(1000)]
    assert len(set(tokens)) == 1000
    assert all(RETURN_ADDRESS.fullmatch(bytes(correlation.new_address())) for _ in range(1000))
    # Of random numbers each bit is set in about half, and no difference comes twice.
    assert all(350 < sum(token >> bit & 1 for token in tokens) < 650 for bit in range(64))
    differences = {later - earlier for earlier, later in itertools.pairwise(tokens)}
    assert len(differences) == 999


async def test_reply_to_a_guessed_token_is_dropped(world: World) -> None:
    """The tokens that a count would have given are nobody's."""
    asking = world.ask(1)
    event = await receive(world.owner, world.channel)
    process = event["mpx.reply_to"].partition("!")[0]
    body = world.owner.codec.encode({"echo": "forged"})
    for guess in range(1, 50):
        payload = envelope.wrap(Form.REPLY, body, False, b"%d" % guess)
        world.broker.publish(b"mpx:inbox:" + process.encode(), payload)
    await eventually(lambda: world.asker.statistics().dropped["late"] == 49)
    await world.owner.reply(event, {"echo": 1})
    assert await asking == {"echo": 1}


@pytest.mark.parametrize("form", [Form.REPLY, Form.FAILURE])
async def test_garbage_is_no_reply(world: World, form: Form) -> None:
    """A body that cannot be read is counted; the request waits for its reply."""
    asking = world.ask(1)
    event = await receive(world.owner, world.channel)
    process, _, token = event["mpx.reply_to"].partition("!")
    garbage = envelope.wrap(form, b"\xff", False, token.encode())
    for count in (1, 2):
        world.broker.publish(b"mpx:inbox:" + process.encode(), garbage)
        await eventually(lambda count=count: world.asker.statistics().dropped["malformed"] == count)
    await world.owner.reply(event, {"echo": 1})
    assert await asking == {"echo": 1}


@pytest.mark.parametrize(
    ("body", "text"), [({}, "None: None"), ({"type": 5, "text": [1]}, r"5: \[1\]")]
)
async def test_strange_failure_is_an_error_all_the_same(
    world: World, body: Message, text: str
) -> None:
    """Whatever it says, there will be no reply."""
    asking = world.ask(1)
    event = await receive(world.owner, world.channel)
    process, _, token = event["mpx.reply_to"].partition("!")
    payload = envelope.wrap(Form.FAILURE, world.owner.codec.encode(body), False, token.encode())
    world.broker.publish(b"mpx:inbox:" + process.encode(), payload)
    with pytest.raises(RemoteError, match=text):
        await asking


class Choosy:
    """A serializer of a user's own that takes nothing but what has a number."""

    def serialize(self, message: Message) -> bytes:
        """Return it as JSON."""
        return json.dumps({"number": message["number"]}).encode()

    def deserialize(self, data: bytes) -> Message:
        """Return it from JSON."""
        message: Message = json.loads(data)
        return message


async def test_serializer_without_a_form_for_errors_leaves_it_to_the_deadline() -> None:
    """The layer works; a request is not sent back."""
    world = World(serializer_format=Choosy)
    world.channel = await world.owner.new_channel()
    with pytest.raises(RequestTimeout):
        await world.asker.request(f"{world.channel}9", {"number": 1}, timeout=0.1)
    async with answering(world.owner, world.channel, lambda event: {"number": 2}):
        assert await world.ask(1) == {"number": 2}
    await world.asker.aclose()
    await world.owner.aclose()


async def test_bounce_without_a_home_is_left_undone() -> None:
    """There is no link to send it on; whoever asked has a deadline."""
    layer = Broker().layer(**QUICK)
    layer._process.correlation.bounce(ADDRESS, GONE)
    assert layer.statistics().connection.state == "idle"
    assert repr(layer._process.correlation).endswith("pending=0>")


async def test_bounce_without_a_link_waits_for_one(world: World) -> None:
    """A consumer that dies during an outage sends its requests back afterwards."""
    asking = world.ask(1, timeout=30)
    await world.waiting(1)
    owners = world.owner._hub.life
    assert owners is not None
    owners.traffic.lose("pulled")
    world.channel = ""
    gc.collect()
    with pytest.raises(NoListener):
        await asking


# Errors of the receiver


class Mute(Exception):
    """An error that cannot even say what it is."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def test_failure_tells_class_and_text_and_nothing_else() -> None:
    """Whatever an error says can travel, and is no burden."""
    assert failure(KeyError("a")) == {"type": "KeyError", "text": "'a'"}
    assert failure(Mute()) == {"type": "Mute", "text": ""}
    assert failure(ValueError("\ud800")) == {"type": "ValueError", "text": "\\ud800"}
    assert failure(ValueError("x" * 2 * MAX_TEXT))["text"] == "x" * MAX_TEXT


# Loops and threads


async def test_sync_request_and_reply(world: World) -> None:
    """From threads without a loop, on both sides."""
    asking = asyncio.gather(
        *(
            asyncio.to_thread(world.asker.sync.request, world.channel, {"number": number})
            for number in range(3)
        )
    )
    for _ in range(3):
        event = await receive(world.owner, world.channel)
        await asyncio.to_thread(world.owner.sync.reply, event, echo(event))
    assert await asking == [{"echo": number} for number in range(3)]
    with pytest.raises(RequestTimeout):
        await asyncio.to_thread(world.asker.sync.request, world.channel, {"number": 3}, 0.05)
    with pytest.raises(SyncCallFromAsync, match=r"request\(\).*await"):
        world.asker.sync.request(world.channel, {"number": 4})
    with pytest.raises(SyncCallFromAsync, match=r"reply\(\)"):
        world.asker.sync.reply({"mpx.reply_to": ADDRESS.decode()}, {})


async def test_sync_request_may_take_longer_than_other_verbs() -> None:
    """Its own deadline counts, however short the option ``timeout`` is."""
    world = World(timeout=0.1)
    world.channel = await world.owner.new_channel()
    asking = asyncio.create_task(
        asyncio.to_thread(world.asker.sync.request, world.channel, {"number": 1}, 20)
    )
    event = await receive(world.owner, world.channel)
    await asyncio.sleep(0.3)  # longer than any other verb is given
    await world.owner.reply(event, {"echo": 1})
    assert await asking == {"echo": 1}
    await world.asker.aclose()
    await world.owner.aclose()


async def test_requests_from_many_loops(world: World) -> None:
    """A request made on any loop gets its own reply, there."""

    async def ask(first: int) -> list[Message]:
        asking = (
            world.asker.request(world.channel, {"number": number})
            for number in range(first, first + 20)
        )
        return await asyncio.gather(*asking)

    async with answering(world.owner, world.channel, echo):
        here = asyncio.ensure_future(ask(0))
        there = [
            asyncio.ensure_future(asyncio.to_thread(lambda n=n: asyncio.run(ask(n))))
            for n in (100, 200, 300)
        ]
        for first, asking in zip((0, 100, 200, 300), (here, *there), strict=True):
            assert await asking == [{"echo": number} for number in range(first, first + 20)]


async def test_request_cancelled_on_another_loop_is_forgotten(world: World) -> None:
    """The cancellation is carried to where the request waits."""

    async def ask() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(world.asker.request(world.channel, {"number": 1}), 0.1)

    await asyncio.to_thread(lambda: asyncio.run(ask()))
    await eventually(lambda: world.asker.statistics().requests == 0)


@pytest.mark.parametrize("is_closed", [True, False])
def test_requests_of_a_loop_that_stops_are_forgotten(is_closed: bool) -> None:
    """A loop that ends without ending its tasks; one that goes on finds the link lost."""
    broker = Broker()
    layer = broker.layer(**QUICK)
    loop = asyncio.new_event_loop()

    async def ask() -> MultiplexedChannelLayer:
        channel = await layer.new_channel()
        task = asyncio.ensure_future(layer.request(channel, {"number": 1}, timeout=30))
        await eventually(lambda: layer.statistics().waiting == 1)
        return task

    task = loop.run_until_complete(ask())
    if is_closed:
        loop.close()
    with pytest.raises(NoListener):
        layer.sync.request("work", {"number": 2})  # life goes on in the background
    assert layer.statistics().requests == 0
    if not is_closed:
        with pytest.raises(LinkLost, match="its event loop ended"):
            loop.run_until_complete(task)
        loop.close()
    layer.sync.close()
    del task
    gc.collect()


async def test_request_on_a_home_that_ends_fails(world: World) -> None:
    """Whoever asks from another thread learns that the loop with the connection has ended."""
    over = threading.Event()
    layer = world.broker.layer(**QUICK)

    async def live() -> None:
        mine = await layer.new_channel()
        await asyncio.to_thread(over.wait)
        del mine

    home = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(live())))
    await eventually(lambda: layer.statistics().channels == 1)
    asking = asyncio.ensure_future(layer.request(world.channel, {"number": 1}, timeout=30))
    await world.waiting(1)
    over.set()
    with pytest.raises(LinkLost):  # at its deadline it would be another error
        await asking
    await home
    await layer.aclose()
