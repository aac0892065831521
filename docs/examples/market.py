from channels.generic.websocket import AsyncJsonWebsocketConsumer

from channels_mpx import NotAuthorized
from channels_mpx.consumers import ChannelSubscriptionMixin, PatternSubscriptionMixin


class PriceConsumer(ChannelSubscriptionMixin, AsyncJsonWebsocketConsumer):
    channels = ("market.state",)
    payload = "json"

    async def authorize_subscription(self, kind, name):
        return kind == "channel" and name.startswith(b"price.")

    async def receive_json(self, content):
        name = f"{content['kind']}.{content['of']}"
        try:
            await self.subscribe(name)
        except NotAuthorized:
            await self.send_json({"refused": name})
        else:
            await self.send_json({"hears": [name.decode() for name in self.subscribed_channels]})

    async def on_channel_message(self, channel, message):
        await self.send_json({"channel": channel.decode(), "message": message})

    async def on_bad_payload(self, channel, payload, error):
        await self.send_json({"channel": channel.decode(), "unreadable": len(payload)})

    async def on_gap(self, gap):
        await self.send_json({"missed": gap.reason})


class BoardConsumer(PatternSubscriptionMixin, AsyncJsonWebsocketConsumer):
    patterns = ("price.*",)
    payload = "json"
    gap_policy = "close"

    async def on_pattern_message(self, pattern, channel, message):
        await self.send_json({"channel": channel.decode(), "message": message})
