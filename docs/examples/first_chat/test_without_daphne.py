from asgiref.testing import ApplicationCommunicator
from chat.consumers import ChatConsumer


async def test_message_is_shown(mpx_other_process):
    ada = ApplicationCommunicator(ChatConsumer.as_asgi(), {"type": "websocket"})
    await ada.send_input({"type": "websocket.connect"})
    assert (await ada.receive_output())["type"] == "websocket.accept"

    await mpx_other_process.group_send("lobby", {"type": "chat.message", "text": "hello"})
    assert (await ada.receive_output())["text"] == '{"text": "hello"}'

    await ada.send_input({"type": "websocket.disconnect", "code": 1000})
    await ada.wait()
