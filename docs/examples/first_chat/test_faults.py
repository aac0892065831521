import asyncio

import pytest
from channels.testing import WebsocketCommunicator
from chat.consumers import ChatConsumer


async def test_chat_survives_a_lost_connection(mpx_broker, mpx_other_process):
    ada = WebsocketCommunicator(ChatConsumer.as_asgi(), "/ws/")
    assert (await ada.connect())[0]

    mpx_broker.kill_connections()
    await mpx_broker.recovered()

    await mpx_other_process.group_send("lobby", {"type": "chat.message", "text": "hello"})
    assert await ada.receive_json_from() == {"text": "hello"}
    await ada.disconnect()


async def test_lost_message_is_not_waited_for(mpx_broker, mpx_other_process):
    ada = WebsocketCommunicator(ChatConsumer.as_asgi(), "/ws/")
    assert (await ada.connect())[0]

    with mpx_broker.drop(1.0):
        await mpx_other_process.group_send("lobby", {"type": "chat.message", "text": "lost"})
    assert await ada.receive_nothing()
    await ada.disconnect()


async def test_slow_redis(mpx_broker, mpx_layer):
    message = {"type": "chat.message", "text": "hello"}
    with mpx_broker.delay(5), pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(mpx_layer.group_send("lobby", message), 0.1)


@pytest.mark.mpx(on_disconnect="link.lost", on_reconnect="link.back")
async def test_consumers_hear_of_a_gap(mpx_broker, mpx_layer):
    channel = await mpx_layer.new_channel()
    mpx_broker.kill_connections()
    assert (await mpx_layer.receive(channel))["type"] == "link.lost"
    assert (await mpx_layer.receive(channel))["type"] == "link.back"
