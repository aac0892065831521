"""The payment: a handler that waits for a promise, and everything that may become of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.helpers import eventually
from tests.servers import RedisServer

from .example import ExampleProcess, Page


async def order(page: Page, seconds: int = 30) -> str:
    """Begin to pay, and return the order's number."""
    await page.send(type="pay", seconds=seconds)
    waiting = await page.hear("waiting")
    assert waiting["seconds"] == seconds
    return str(waiting["order"])


async def hear_outcome(page: Page, number: str) -> tuple[str, str]:
    """Return outcome and detail of an order."""
    message = await page.hear("outcome")
    assert message["order"] == number
    return message["outcome"], message["detail"]


async def test_the_bank_of_another_process_keeps_the_promise(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    async with (
        ExampleProcess(tmp_path / "one", redis_server.url) as one,
        ExampleProcess(tmp_path / "two", redis_server.url) as two,
        one.page("payments") as ada,
        two.page("payments") as bob,
    ):
        hers, his = await order(ada), await order(bob)
        assert redis_server.command("PUBSUB", "NUMPAT") == 1
        status, answer = await two.post(f"/payments/bank/{hers}/", answer="approved")
        assert (status, "published to 2 processes" in answer) == (200, True)
        assert await hear_outcome(ada, hers) == ("approved", "approved")
        await one.post(f"/payments/bank/{his}/", answer="declined")
        assert await hear_outcome(bob, his) == ("declined", "declined")

        again = await order(ada)  # the same page pays again
        assert redis_server.command("PUBLISH", f"payment.{again}", "approved") == 2
        assert await hear_outcome(ada, again) == ("approved", "approved")
        again = await order(ada)
        redis_server.command("PUBLISH", f"payment.{again}", b"perhaps \xff")
        assert await hear_outcome(ada, again) == ("declined", "perhaps \ufffd")


async def test_the_bank_says_nothing(tmp_path: Path, redis_server: RedisServer) -> None:
    async with (
        ExampleProcess(tmp_path / "one", redis_server.url) as one,
        one.page("payments") as ada,
    ):
        number = await order(ada, seconds=5)
        assert await hear_outcome(ada, number) == ("timeout", "")
        await ada.socket.close()
        await eventually(lambda: redis_server.command("PUBSUB", "NUMPAT") == 0)
        _, answer = await one.post(f"/payments/bank/{number}/", answer="approved")
        assert "Nobody listens any more" in answer


async def test_a_lost_link_interrupts_the_payment(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    async with (
        ExampleProcess(tmp_path / "one", redis_server.url) as one,
        one.page("payments") as ada,
    ):
        number = await order(ada)
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        outcome, reason = await hear_outcome(ada, number)
        assert outcome == "interrupted"
        assert reason
        number = await order(ada)  # which waits until there is a link again
        redis_server.command("PUBLISH", f"payment.{number}", "approved")
        assert await hear_outcome(ada, number) == ("approved", "approved")


async def test_who_closes_the_page_releases_the_handler(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    async with ExampleProcess(tmp_path / "one", redis_server.url) as one:
        async with one.page("payments") as ada:
            number = await order(ada, seconds=120)
            assert f"Order {number} waits" in one.errors
            assert "given up" not in one.errors
            assert redis_server.command("PUBSUB", "NUMPAT") == 1
        await eventually(lambda: f"Order {number} is given up" in one.errors)
        await eventually(lambda: redis_server.command("PUBSUB", "NUMPAT") == 0)


async def test_without_redis_nothing_is_ordered(
    tmp_path: Path, make_redis: Callable[..., RedisServer]
) -> None:
    server = make_redis()
    async with (
        ExampleProcess(tmp_path / "one", server.url) as one,
        one.page("payments") as ada,
    ):
        await order(ada)
        server.kill()
        assert (await ada.hear("outcome"))["outcome"] == "interrupted"
        await ada.send(type="pay", seconds=30)
        error = await ada.hear("error", timeout=20)
        assert (error["retry"], "Not done" in error["text"]) == (True, True)
        status, answer = await one.post("/payments/bank/01234567/", answer="approved")
        assert (status, "The shop was not told" in answer) == (503, True)
        server.start()
        number = await order(ada)
        server.command("PUBLISH", f"payment.{number}", "approved")
        assert await hear_outcome(ada, number) == ("approved", "approved")


async def test_bad_requests_are_refused(tmp_path: Path) -> None:
    async with ExampleProcess(tmp_path / "one") as one, one.page("payments") as ada:
        for bad in ({"type": "pay"}, {"type": "pay", "seconds": 31}, {"type": "x", "seconds": 5}):
            await ada.send(**bad)
            assert (await ada.hear("error"))["retry"] is False
        number = await order(ada)  # on memory:// the bank is a page of the same process
        await one.post(f"/payments/bank/{number}/", answer="approved")
        assert await hear_outcome(ada, number) == ("approved", "approved")

        assert (await one.fetch("/payments/bank/not-a-number/"))[0] == 404
        assert (await one.post(f"/payments/bank/{number}/", answer="maybe"))[0] == 404
        forged = await one.post(
            f"/payments/bank/{number}/", answer="approved", csrfmiddlewaretoken="x" * 64
        )
        assert forged[0] == 403
