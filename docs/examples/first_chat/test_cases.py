from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from chat.consumers import ChatConsumer
from django.test import SimpleTestCase

from channels_mpx.testing import ChannelLayerTestMixin


class ChatTests(ChannelLayerTestMixin, SimpleTestCase):
    def test_plain_code(self):
        get_channel_layer().sync.group_send("lobby", {"type": "chat.message", "text": "hello"})
        sent = [{"type": "chat.message", "text": "hello"}]
        assert self.outbox.to_group("lobby") == sent

    async def test_lost_connection(self):
        ada = WebsocketCommunicator(ChatConsumer.as_asgi(), "/ws/")
        assert (await ada.connect())[0]
        self.broker.kill_connections()
        await self.broker.recovered()
        await self.layer.group_send("lobby", {"type": "chat.message", "text": "hello"})
        assert await ada.receive_json_from() == {"text": "hello"}
        await ada.disconnect()
