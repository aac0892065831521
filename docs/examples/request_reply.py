from channels.consumer import AsyncConsumer
from channels.layers import get_channel_layer
from django.http import JsonResponse

from channels_mpx import NoListener, RequestTimeout

PRICES = {"apple": 3, "pear": 4}


class Prices(AsyncConsumer):
    """Reads the worker channel ``prices``: ``python manage.py runworker prices``."""

    async def price_of(self, event):
        price = PRICES.get(event["fruit"])
        await self.channel_layer.reply(event, {"price": price})


async def price(request, fruit):
    """A view that asks whichever worker is free."""
    question = {"type": "price.of", "fruit": fruit}
    try:
        answer = await get_channel_layer().request("prices", question, timeout=2)
    except (NoListener, RequestTimeout):
        return JsonResponse({"error": "nobody is at the market"}, status=503)
    return JsonResponse(answer)
