from channels.testing import WebsocketCommunicator
from chat.consumers import ChatConsumer


async def test_what_one_says_the_other_hears(mpx_outbox):
    ada = WebsocketCommunicator(ChatConsumer.as_asgi(), "/ws/")
    bob = WebsocketCommunicator(ChatConsumer.as_asgi(), "/ws/")
    assert (await ada.connect())[0]
    assert (await bob.connect())[0]

    await ada.send_json_to({"text": "hello"})
    assert await bob.receive_json_from() == {"text": "hello"}
    assert mpx_outbox.to_group("lobby") == [{"type": "chat.message", "text": "hello"}]

    await ada.disconnect()
    await bob.disconnect()


async def test_what_another_process_says_is_heard(mpx_other_process):
    ada = WebsocketCommunicator(ChatConsumer.as_asgi(), "/ws/")
    assert (await ada.connect())[0]

    await mpx_other_process.group_send("lobby", {"type": "chat.message", "text": "hello"})
    assert await ada.receive_json_from() == {"text": "hello"}

    await ada.disconnect()
