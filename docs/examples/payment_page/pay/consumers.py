import secrets

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from channels_mpx import PromiseCancelled, PromiseInterrupted, PromiseTimeout
from channels_mpx.consumers import PromiseMixin


class PayConsumer(PromiseMixin, AsyncJsonWebsocketConsumer):
    payload = "text"
    patience = 60  # seconds

    async def receive_json(self, content):
        order = secrets.token_hex(4)
        promise = await self.promise_created("payment.", order, self.patience)
        await self.send_json({"order": order})
        try:
            outcome = await promise
        except PromiseTimeout:
            outcome = f"no answer within {self.patience} s"
        except PromiseCancelled:
            raise  # the page was closed: nobody is left to tell
        except PromiseInterrupted:
            outcome = "unknown: the bank may have answered while the connection was lost"
        await self.send_json({"order": order, "outcome": outcome})
