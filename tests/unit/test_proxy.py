"""The proxy that fault tests rely on does what it says."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.helpers import eventually
from tests.proxy import Proxy
from tests.servers import RedisServer, free_port


async def ping(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect through the proxy and exchange a PING."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"PING\r\n")
    assert await reader.readline() == b"+PONG\r\n"
    return reader, writer


async def test_forwards_and_counts(proxy: Proxy) -> None:
    _, writer = await ping(proxy)
    assert (proxy.accepted, proxy.open) == (1, 1)
    assert (proxy.bytes_up, proxy.bytes_down) == (6, 7)
    writer.close()
    await eventually(lambda: proxy.open == 0)
    assert proxy.accepted == 1


async def test_cut_resets_and_lets_new_connections_in(proxy: Proxy) -> None:
    reader, writer = await ping(proxy)
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    _, writer = await ping(proxy)
    writer.close()


async def test_close_ends_in_order(proxy: Proxy) -> None:
    reader, writer = await ping(proxy)
    proxy.close()
    assert await reader.read() == b""
    writer.close()
    await eventually(lambda: proxy.open == 0)


async def test_stall_holds_back_until_resume(proxy: Proxy) -> None:
    reader, writer = await ping(proxy)
    proxy.stall()
    writer.write(b"PING\r\n")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(line := asyncio.create_task(reader.readline())), 0.05)
    second = asyncio.create_task(ping(proxy))
    await eventually(lambda: proxy.accepted == 2)
    assert proxy.bytes_up == 6
    proxy.resume()
    assert await line == b"+PONG\r\n"
    writer.close()
    (await second)[1].close()


async def test_stall_swallows_little(proxy: Proxy) -> None:
    _, writer = await ping(proxy)
    proxy.stall()
    writer.write(bytes(32 * 2**20))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(writer.drain(), 0.2)
    writer.transport.abort()


async def test_delay_holds_each_way_but_not_throughput(proxy: Proxy) -> None:
    reader, writer = await ping(proxy)
    proxy.delay(0.05)

    async def took(count: int) -> float:
        start = time.monotonic()
        for _ in range(count):
            writer.write(b"PING\r\n")
            await asyncio.sleep(0.01)  # so that each is a piece of its own
        assert await reader.readexactly(7 * count) == b"+PONG\r\n" * count
        return time.monotonic() - start

    alone = await took(1)
    assert alone >= 0.1
    assert await took(30) < 30 * alone / 2
    writer.close()


async def test_split_sends_piece_by_piece(proxy: Proxy) -> None:
    received: list[bytes] = []

    class Recorder(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            received.append(data)

    proxy.split(3)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(Recorder, "127.0.0.1", proxy.port)
    transport.write(b"PING\r\n")
    await eventually(lambda: len(received) == 3)
    assert received == [b"+PO", b"NG\r", b"\n"]
    transport.close()


async def test_dead_server_is_a_reset_and_a_live_one_is_found_again() -> None:
    port = free_port()
    async with Proxy("127.0.0.1", port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        with RedisServer(port=port) as server:
            _, writer = await ping(proxy)
            server.kill()
            await eventually(lambda: proxy.open == 0)
            writer.close()


async def test_swallow_drops_bytes_and_keeps_connections(proxy: Proxy) -> None:
    """Nothing comes and nothing ends; afterwards old connections stay dead and new ones work."""
    reader, writer = await ping(proxy)
    proxy.swallow()
    line = asyncio.create_task(reader.readline())
    other_reader, other_writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    other_line = asyncio.create_task(other_reader.readline())
    for end in (writer, other_writer):
        end.write(b"PING\r\n")
    await asyncio.wait([line, other_line], timeout=0.1)
    proxy.resume()
    _, third = await ping(proxy)
    writer.write(b"PING\r\n")
    await asyncio.wait([line, other_line], timeout=0.1)
    for end, waiting in ((writer, line), (other_writer, other_line)):
        assert not waiting.done()
        waiting.cancel()
        end.close()
    third.close()


async def test_end_after_closes_in_the_middle(proxy: Proxy) -> None:
    """So many bytes come, and then the end."""
    reader, writer = await ping(proxy)
    proxy.end_after(3)
    writer.write(b"PING\r\n")
    assert await reader.read() == b"+PO"
    writer.close()
    _, writer = await ping(proxy)
    writer.close()


async def test_pieces_may_change_their_size_in_the_middle(proxy: Proxy) -> None:
    """No byte is lost or comes twice when it does."""
    reader, writer = await ping(proxy)
    proxy.split(3)
    for _ in range(20):
        writer.write(b"ECHO 0123456789012345678901234567890123456789\r\n")
        await asyncio.sleep(0.001)
        proxy.split(None)
        await asyncio.sleep(0.001)
        proxy.split(3)
    expected = b"$40\r\n0123456789012345678901234567890123456789\r\n" * 20
    assert await reader.readexactly(len(expected)) == expected
    writer.close()
