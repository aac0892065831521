from channels.testing import WebsocketCommunicator
from chat.consumers import ChatConsumer


async def test_chat_survives_an_outage(mpx_layer, mpx_broker):
    ada = WebsocketCommunicator(ChatConsumer.as_asgi(), "/ws/")
    assert (await ada.connect())[0]
    with mpx_broker.freeze():
        await ada.send_json_to({"text": "hello"})
        assert await ada.receive_nothing()
        mpx_broker.kill_connections()
        assert "Perhaps not sent" in (await ada.receive_json_from())["notice"]
    assert "Lines may be missing" in (await ada.receive_json_from())["notice"]

    await ada.send_json_to({"text": "hello again"})
    assert await ada.receive_json_from() == {"text": "hello again"}
    await ada.disconnect()
