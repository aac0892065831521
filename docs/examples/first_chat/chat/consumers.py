from channels.generic.websocket import AsyncJsonWebsocketConsumer


class ChatConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self):
        await self.channel_layer.group_add("lobby", self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard("lobby", self.channel_name)

    async def receive_json(self, content):
        message = {"type": "chat.message", "text": str(content["text"])}
        await self.channel_layer.group_send("lobby", message)

    async def chat_message(self, event):
        await self.send_json({"text": event["text"]})
