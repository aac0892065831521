from channels_mpx.testing import Broker, Sent


async def test_consumers_hear_of_a_gap():
    broker = Broker()
    layer = broker.layer(on_disconnect="link.lost", on_reconnect="link.back")
    channel = await layer.new_channel()
    await layer.group_add("room", channel)

    broker.kill_connections()

    assert (await layer.receive(channel))["type"] == "link.lost"
    assert (await layer.receive(channel))["type"] == "link.back"
    await layer.group_send("room", {"type": "hello"})
    assert broker.outbox == [Sent("group", "room", {"type": "hello"})]
