from channels_mpx import Multiplexer


async def listen(host: str) -> bytes:
    async with Multiplexer(host) as mpx, mpx.new_channel_subscription() as weather:
        weather.add("weather")
        await weather.activated(timeout=5)
        await mpx.publish("weather", b"sunny")
        async for message in weather:
            return message.payload
    raise ConnectionError("closed by somebody else")
