"""For tests of consumers: a broker without a server, virtual processes, and faults on demand.

The layers that a `Broker` makes run the very code that runs in production, down to the link; only
the socket and the server behind it are replaced. Each layer is one virtual process.

    with Broker() as broker:
        here, there = broker.layer(), broker.layer()
        name = await here.new_channel()
        await here.group_add("room", name)
        await there.group_send("room", {"type": "hello"})
        assert await here.receive(name) == {"type": "hello"}
        assert broker.outbox.to_group("room") == [{"type": "hello"}]
        broker.kill_connections()

With pytest the fixtures ``mpx_layer``, ``mpx_other_process``, ``mpx_outbox`` and ``mpx_broker`` do
that, and are there without an import; for Django's test cases there is `ChannelLayerTestMixin`.
"""

from .broker import Broker
from .cases import ChannelLayerTestMixin
from .outbox import Outbox, Sent

__all__ = ["Broker", "ChannelLayerTestMixin", "Outbox", "Sent"]
