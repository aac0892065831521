from channels.generic.websocket import AsyncJsonWebsocketConsumer

from channels_mpx import LinkError
from channels_mpx.consumers import MultiplexedConsumerMixin


class ChatConsumer(MultiplexedConsumerMixin, AsyncJsonWebsocketConsumer):
    groups = ["lobby"]

    async def receive_json(self, content):
        text = str(content["text"])
        try:
            message = {"type": "chat.message", "text": text}
            await self.channel_layer.group_send("lobby", message)
        except LinkError:
            await self.send_json({"notice": f"Perhaps not sent, Redis is away: {text}"})

    async def chat_message(self, event):
        await self.send_json({"text": event["text"]})

    async def on_gap(self, gap):
        notice = f"Redis was away for {gap.seconds:.1f} s. Lines may be missing here."
        await self.send_json({"notice": notice})
