"""What the pages about the multiplexer show does what they say."""

from __future__ import annotations

import asyncio

import pytest

from channels_mpx import Multiplexer
from tests.helpers import eventually
from tests.layers import QUICK, kill_clients
from tests.pages import EXAMPLES, load
from tests.servers import RedisServer


async def test_board_of_rooms(redis_server: RedisServer) -> None:
    """Callbacks for messages, for one channel, and for both ends of a gap."""
    example = load(EXAMPLES / "subscriptions.py")
    board, until = example.Board(), asyncio.Event()
    async with Multiplexer(redis_server.url, **QUICK) as mpx:
        watching = asyncio.create_task(example.watch(mpx, board, until))
        await eventually(lambda: mpx.statistics().active == 3)
        for channel, payload in [("hall", "hello"), ("alarms", "fire"), ("kitchen", "tea")]:
            assert await mpx.publish(channel, payload) == 1
        lines = ["hall: hello", "ALARM: fire", "kitchen: tea"]
        await eventually(lambda: board.lines == lines)
        kill_clients(redis_server)
        lines += ["the connection is lost", "back again, connection 2"]
        await eventually(lambda: board.lines == lines)
        until.set()
        await asyncio.wait_for(watching, 10)
        await eventually(lambda: mpx.statistics().active == 0)


async def test_follow_a_pattern(redis_server: RedisServer) -> None:
    """As many as were asked for, in order."""
    async with Multiplexer(redis_server.url) as mpx:
        following = asyncio.create_task(load(EXAMPLES / "subscriptions.py").follow(mpx, 2))
        await eventually(lambda: mpx.statistics().active == 1)
        for channel in ("hall", "room.1", "room.2", "room.3"):
            await mpx.publish(channel, "hello")
        assert await asyncio.wait_for(following, 10) == ["room.1: hello", "room.2: hello"]


def test_poll_without_a_loop(redis_server: RedisServer) -> None:
    """It hears what it has published itself, and gives up when nothing more comes."""
    mpx = Multiplexer(redis_server.url)
    assert load(EXAMPLES / "subscriptions.py").poll(mpx, 0.05) == [b"hello"]
    mpx.close()


async def test_promise_of_a_payment(redis_server: RedisServer) -> None:
    """Whoever gets the token at the cash desk keeps the promise, from anywhere."""
    example = load(EXAMPLES / "promises.py")
    async with Multiplexer(redis_server.url) as mpx, mpx.new_channel_subscription() as desk:
        desk.add("cash-desk")
        await desk.activated(5)
        paying = asyncio.create_task(example.main(redis_server.url))
        token = await desk.get_message(10)
        assert token is not None
        await mpx.publish(b"payment-" + token.payload, "receipt-7")
        assert await asyncio.wait_for(paying, 10) == "receipt-7"


@pytest.mark.parametrize(
    ("seconds", "outcome"),
    [(0.01, "nobody has paid"), (60, "unknown: Redis closed the connection")],
)
async def test_promise_that_is_not_kept(
    redis_server: RedisServer, seconds: float, outcome: str
) -> None:
    """In time, or because the connection was lost."""
    async with (
        Multiplexer(redis_server.url, **QUICK) as mpx,
        mpx.new_promise_subscription("payment-") as payments,
    ):
        paying = asyncio.create_task(load(EXAMPLES / "promises.py").pay(mpx, payments, seconds))
        if seconds > 1:
            await eventually(lambda: payments.outstanding == 1)
            await mpx.publish("other", "")  # what was published before has been answered
            kill_clients(redis_server)
        assert await asyncio.wait_for(paying, 10) == outcome
