"""One consumer for each open checkout: a handler that waits for the bank."""

import logging
import secrets
from typing import Any

from home.consumers import PageConsumer
from home.rules import Refused

from channels_mpx import PromiseCancelled, PromiseInterrupted, PromiseTimeout
from channels_mpx.consumers import PromiseMixin
from channels_mpx.gap import Gap

PATIENCE = (5, 30, 120)  # seconds that a person may choose from

logger = logging.getLogger(__name__)


class CheckoutConsumer(PromiseMixin, PageConsumer):
    """Somebody who pays.

    The page sends `{"type": "pay", "id", "seconds"}`. It gets `waiting` with the order's number,
    and then one `outcome`: `approved`, `declined`, `timeout` or `interrupted`.
    """

    async def do(self, request: dict[str, Any]) -> None:
        """Make an order and wait for what the bank says about it."""
        seconds = request.get("seconds")
        if request.get("type") != "pay" or seconds not in PATIENCE:
            raise Refused(f"The type is `pay`, and seconds are one of {PATIENCE}.")
        order = secrets.token_hex(4)
        promise = await self.promise_created("payment.", order, timeout=seconds)
        # The page hears of the order only now, when the promise exists. So no answer is too early.
        # Where nobody can be too early, `await self.promise("payment.", order, …)` is all it takes.
        await self.send_json({"type": "waiting", "order": order, "seconds": seconds})
        logger.info("Order %s waits for the bank, %s s at most.", order, seconds)
        try:
            answer = (await promise).decode(errors="replace")
        except PromiseTimeout:
            await self.finish(order, "timeout")
        except PromiseCancelled:  # the page was closed: nobody is left to tell
            logger.info("Order %s is given up: the page was closed.", order)
        except PromiseInterrupted as error:  # the bank may have answered while nobody listened
            await self.finish(order, "interrupted", error.reason)
        else:
            await self.finish(order, "approved" if answer == "approved" else "declined", answer)

    async def finish(self, order: str, outcome: str, detail: str = "") -> None:
        """Tell the page how it ended."""
        logger.info("Order %s: %s.", order, outcome)
        ended = {"type": "outcome", "order": order, "outcome": outcome, "detail": detail[:200]}
        await self.send_json(ended)

    async def on_disconnect(self, error: Exception) -> None:
        """The connection to Redis is lost; the page says so."""
        await self.send_json({"type": "interrupted"})

    async def on_gap(self, gap: Gap) -> None:
        """Everything is back."""
        await self.send_json({"type": "gap", "seconds": gap.seconds})
