"""What a sender is told before anything is sent."""

from __future__ import annotations

import pytest

from channels_mpx.testing import Broker
from tests.layers import QUICK, receive


async def test_message_without_a_type_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Consumers would end of it, who calls `receive` may want it: it is sent, and one line says so."""
    layer = Broker().layer(**QUICK)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "x"})
    assert "without a 'type'" not in caplog.text
    for _ in range(3):
        await layer.group_send("room", {"text": "x"})
        await layer.send(channel, {"text": "x"})
    assert await receive(layer, channel) == {"type": "x"}
    assert await receive(layer, channel) == {"text": "x"}
    (line,) = [text for text in caplog.messages if "without a 'type'" in text]
    assert line.startswith("channels_mpx: a message without a 'type' was sent to mpx:group:room: ")
    await layer.aclose()
