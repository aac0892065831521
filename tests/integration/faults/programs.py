"""Programs that send as fast as they are told to, until SIGTERM."""

from __future__ import annotations

import textwrap

#: Messages a second, at the least; and how many are offered, so that as many are answered.
RATE, OFFERED = 5000, 6000

#: A sender of so many messages a second. Says what became of each, and how many a second were answered.
BUSY = """
    import asyncio, time
    from channels_mpx import LinkError, LinkLost

    class Busy:
        def __init__(self, layer):
            self.layer, self.tasks, self.outcomes = layer, [], []

        async def send(self, number):
            self.outcomes.append("never answered")
            try:
                await self.layer.group_send("room", {"type": "a", "number": number})
                self.outcomes[number] = "taken"
            except LinkLost:
                self.outcomes[number] = "unknown"
            except LinkError:
                self.outcomes[number] = "unsent"

        def send_more(self, count):
            first = len(self.tasks)
            self.tasks += [asyncio.ensure_future(self.send(first + at)) for at in range(count)]

        async def send_until(self, stop, offered):
            start = time.monotonic()
            while not stop.is_set():
                self.send_more(int((time.monotonic() - start) * offered) - len(self.tasks))
                await asyncio.sleep(0.005)
            self.rate = self.outcomes.count("taken") / (time.monotonic() - start)

        async def account(self):
            await asyncio.gather(*self.tasks)
            return {"outcomes": self.outcomes, "rate": self.rate}
"""

#: Sends until SIGTERM. The last hundreds have been sent at the moment that the layer is closed.
SCRIPT = """
    import asyncio, json, signal, sys
    from channels_mpx import MultiplexedChannelLayer, supervisor

    supervisor.DRAIN = float(sys.argv[2])

    async def main():
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        layer = MultiplexedChannelLayer(hosts=[sys.argv[1]])
        await layer.new_channel()
        busy = Busy(layer)
        await busy.send_until(stop, int(sys.argv[3]))
        busy.send_more(500)
        await asyncio.sleep(0)
        await layer.aclose()
        print(json.dumps(await busy.account()), flush=True)

    asyncio.run(main())
"""

#: The same in a consumer of a web server: it begins with the connection and ends with it.
SERVED = """
    import asyncio, json, sys
    import django, uvicorn
    from channels_mpx import supervisor
    from django.conf import settings

    supervisor.DRAIN = float(sys.argv[2])

    layers = {"default": {
        "BACKEND": "channels_mpx.MultiplexedChannelLayer", "CONFIG": {"hosts": [sys.argv[1]]},
    }}
    settings.configure(CHANNEL_LAYERS=layers, INSTALLED_APPS=["channels", "channels_mpx"])
    django.setup()

    from channels.generic.websocket import AsyncWebsocketConsumer

    class Consumer(AsyncWebsocketConsumer):
        groups = ["audience"]

        async def connect(self):
            await self.accept()
            self.stop, self.busy = asyncio.Event(), Busy(self.channel_layer)
            sending = self.busy.send_until(self.stop, int(sys.argv[3]))
            self.sending = asyncio.ensure_future(sending)

        async def disconnect(self, code):
            self.stop.set()
            await self.sending
            self.busy.send_more(500)
            print(json.dumps(await self.busy.account()), flush=True)

    port = int(sys.argv[4])
    uvicorn.run(Consumer.as_asgi(), port=port, log_level="critical", lifespan="off")
"""


def program(*parts: str) -> str:
    """Return the source of a program in several parts."""
    return "".join(map(textwrap.dedent, parts))
