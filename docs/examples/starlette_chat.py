"""A chat with channels, after the WebSocket example of RedisMPX."""

import contextlib
import os

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from channels_mpx import Multiplexer

# No connection is made before the first use, so this may stand at the top of a module.
mpx = Multiplexer(os.environ.get("REDIS_URL", "redis://localhost"))


async def handle_ws(ws):
    await ws.accept()

    # Sends messages to this websocket. A slow client delays nobody else.
    async def on_message(channel: bytes, message: bytes):
        await ws.send_text(f"ch: [{channel.decode()}] msg: [{message.decode()}]\n")

    # A subscription for this websocket.
    sub = mpx.new_channel_subscription(
        on_message,
        lambda e: print(f"Network Error: {type(e)}: {e}"),
        lambda s: print(f"Subscription now active: {s}"),
    )

    await ws.send_text("# Use +channel to join a channel, -channel to leave.")
    await ws.send_text("# Sending !channel will send the next message to said channel.")
    await ws.send_text("# To see a message sent to a channel, you must have joined it before.")

    try:
        while True:
            text = await ws.receive_text()
            prefix, channel = text[:1], text[1:]
            if not channel:
                continue
            if prefix == "+":
                sub.add(channel)
            elif prefix == "-":
                sub.remove(channel)
            elif prefix == "!":
                await mpx.publish(channel, await ws.receive_text())
    except WebSocketDisconnect:
        print("ws disconnected")
    finally:
        sub.close()


@contextlib.asynccontextmanager
async def lifespan(app):
    async with mpx:
        yield


app = Starlette(routes=[WebSocketRoute("/ws", endpoint=handle_ws)], lifespan=lifespan)
