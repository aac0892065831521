from channels.testing import WebsocketCommunicator
from market import BoardConsumer, PriceConsumer


async def test_prices(mpx_layer):
    page = WebsocketCommunicator(PriceConsumer.as_asgi(), "/")
    assert (await page.connect())[0]

    await page.send_json_to({"kind": "price", "of": "tea"})
    assert await page.receive_json_from() == {"hears": ["market.state", "price.tea"]}
    await page.send_json_to({"kind": "salary", "of": "ada"})
    assert await page.receive_json_from() == {"refused": "salary.ada"}

    await mpx_layer.multiplexer.publish("price.tea", "3.2")
    assert await page.receive_json_from() == {"channel": "price.tea", "message": 3.2}
    await mpx_layer.multiplexer.publish("price.tea", "three")
    assert await page.receive_json_from() == {"channel": "price.tea", "unreadable": 5}
    await page.disconnect()


async def test_a_gap(mpx_layer, mpx_broker):
    page = WebsocketCommunicator(PriceConsumer.as_asgi(), "/")
    board = WebsocketCommunicator(BoardConsumer.as_asgi(), "/")
    assert (await page.connect())[0]
    assert (await board.connect())[0]

    mpx_broker.kill_connections()

    assert await page.receive_json_from() == {"missed": "killed by the test"}
    assert await board.receive_output() == {"type": "websocket.close", "code": 1012}
    await mpx_layer.multiplexer.publish("market.state", '"open"')
    assert await page.receive_json_from() == {"channel": "market.state", "message": "open"}
    await page.disconnect()
    await board.disconnect()
