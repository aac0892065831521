import asyncio

from channels_mpx import Gap, Multiplexer


class Board:
    """Shows what rooms say, and what has happened to the connection."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def on_message(self, channel: bytes, payload: bytes) -> None:
        self.lines.append(f"{channel.decode()}: {payload.decode()}")

    def on_alarm(self, channel: bytes, payload: bytes) -> None:
        self.lines.append(f"ALARM: {payload.decode()}")

    def on_disconnect(self, error: Exception) -> None:
        self.lines.append("the connection is lost")

    def on_gap(self, gap: Gap) -> None:
        # Everything comes again. What was said in between has to be fetched where it is kept.
        self.lines.append(f"back again, connection {gap.epoch}")


async def watch(mpx: Multiplexer, board: Board, until: asyncio.Event) -> None:
    rooms = mpx.new_channel_subscription(
        board.on_message, board.on_disconnect, on_gap=board.on_gap, overflow="drop_oldest"
    )
    async with rooms:
        rooms.add("hall")
        rooms.add("kitchen")
        rooms.add("alarms", board.on_alarm)
        await rooms.activated(timeout=5)
        await until.wait()


async def follow(mpx: Multiplexer, count: int) -> list[str]:
    """Return the next messages whose channel matches a pattern."""
    lines: list[str] = []
    async with mpx.new_pattern_subscription("room.*") as rooms:
        async for message in rooms:
            lines.append(f"{message.channel.decode()}: {message.payload.decode()}")
            if len(lines) == count:
                break
    return lines


def poll(mpx: Multiplexer, seconds: float) -> list[bytes]:
    """Do the same from code without an event loop, until nothing has come for a while."""
    news = mpx.new_channel_subscription()
    news.add("news")
    news.sync.activated(timeout=5)
    mpx.sync.publish("news", "hello")
    found = []
    while message := news.sync.get_message(timeout=seconds):
        found.append(message.payload)
    news.close()
    return found
