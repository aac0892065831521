from channels.testing import WebsocketCommunicator
from pay.consumers import PayConsumer


async def open_page():
    page = WebsocketCommunicator(PayConsumer.as_asgi(), "/ws/pay/")
    assert (await page.connect())[0]
    return page


async def pay(page):
    await page.send_json_to({})
    return (await page.receive_json_from())["order"]


async def test_the_bank_answers(mpx_other_process):
    page = await open_page()
    order = await pay(page)
    assert await mpx_other_process.multiplexer.publish(f"payment.{order}", "approved") == 1
    assert await page.receive_json_from() == {"order": order, "outcome": "approved"}
    await page.disconnect()


async def test_the_bank_does_not_answer(mpx_layer, monkeypatch):
    monkeypatch.setattr(PayConsumer, "patience", 0.01)
    page = await open_page()
    order = await pay(page)
    outcome = "no answer within 0.01 s"
    assert await page.receive_json_from() == {"order": order, "outcome": outcome}
    await page.disconnect()


async def test_the_connection_is_lost(mpx_layer, mpx_broker):
    page = await open_page()
    await pay(page)
    mpx_broker.kill_connections()
    assert (await page.receive_json_from())["outcome"].startswith("unknown")
    await page.disconnect()


async def test_the_page_is_closed(mpx_layer):
    page = await open_page()
    await pay(page)
    await page.disconnect()
    assert mpx_layer.statistics().channels == 0
