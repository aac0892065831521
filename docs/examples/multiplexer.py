import asyncio

from channels_mpx import Multiplexer


async def listen(host: str) -> bytes:
    heard = asyncio.get_running_loop().create_future()
    active = asyncio.Event()

    def on_message(channel: bytes, payload: bytes) -> None:
        heard.set_result(payload)

    def on_activation(channel: bytes) -> None:
        active.set()

    async with Multiplexer(host) as multiplexer:
        subscription = multiplexer.new_channel_subscription(on_message, on_activation=on_activation)
        subscription.add("weather")
        await active.wait()
        await multiplexer.publish("weather", b"sunny")
        return await heard
