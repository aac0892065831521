import secrets

from channels_mpx import Multiplexer, PromiseInterrupted, PromiseSubscription, PromiseTimeout


async def pay(mpx: Multiplexer, payments: PromiseSubscription, seconds: float) -> str:
    """Have somebody pay, and return what came of it."""
    token = secrets.token_urlsafe()
    # From here on a message on "payment-<token>" is not missed.
    paid = await payments.wait_for_new_promise(token, seconds)
    # Only now tell whoever will publish it: a web page, another service, redis-cli.
    await mpx.publish("cash-desk", token)
    try:
        receipt = await paid
    except PromiseTimeout:
        return "nobody has paid"
    except PromiseInterrupted as error:
        # The message may have been missed: ask whoever keeps the books.
        return f"unknown: {error.reason}"
    return receipt.decode()


async def main(host: str) -> str:
    async with Multiplexer(host) as mpx, mpx.new_promise_subscription("payment-") as payments:
        return await pay(mpx, payments, seconds=30)
