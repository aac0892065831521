"""The faults, each a coroutine function that spoils something for a while and sets it right."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.layers import clients
from tests.proxy import Proxy
from tests.servers import RedisServer

USER = "site"

#: What the user may hear and say while its rights are cut: neither room1 nor room2.
LESS = ("&mpx:inbox:*", "&mpx:bell:*", "&mpx:group:room0", "&soak:*")


@dataclass
class World:
    """What can be spoiled.

    Attributes:
        server: The server.
        proxy: What stands between it and the members.
        dice: All random choices.
        block: Blocks the event loop of a random member for so many seconds.
        restarts: When the server lost its data, in seconds of a monotonic clock.
    """

    server: RedisServer
    proxy: Proxy
    dice: random.Random
    block: Callable[[float], Awaitable[None]]
    restarts: list[float] = field(default_factory=list)

    async def pause(self, least: float, most: float) -> None:
        """Let some time pass."""
        await asyncio.sleep(self.dice.uniform(least, most))


Fault = Callable[[World], Awaitable[None]]


async def kill(world: World) -> None:
    """SIGKILL, and a new server after a while."""
    world.server.kill()
    await _start_again(world)


async def shut_down(world: World) -> None:
    """A clean shutdown, and a new server after a while."""
    world.server.stop()
    await _start_again(world)


async def _start_again(world: World) -> None:
    world.restarts.append(time.monotonic())
    await world.pause(0.1, 2.0)
    world.server.start()


async def freeze(world: World) -> None:
    """SIGSTOP and SIGCONT: for longer than a silence may last, or not."""
    world.server.freeze()
    await world.pause(0.2, 2.5)
    world.server.thaw()


async def kill_all_clients(world: World) -> None:
    """CLIENT KILL of everybody."""
    for row in clients(world.server):
        world.server.command("CLIENT", "KILL", "ID", row["id"])


async def kill_a_client(world: World) -> None:
    """CLIENT KILL of one, three times."""
    for _ in range(3):
        rows = clients(world.server)
        if rows:
            world.server.command("CLIENT", "KILL", "ID", world.dice.choice(rows)["id"])
        await world.pause(0.0, 0.3)


async def black_hole(world: World) -> None:
    """Bytes vanish, connections stay open."""
    world.proxy.swallow()
    await world.pause(0.2, 2.0)
    world.proxy.resume()


async def stall(world: World) -> None:
    """Bytes are held back, and come later."""
    world.proxy.stall()
    await world.pause(0.2, 2.0)
    world.proxy.resume()


async def reset(world: World) -> None:
    """RST on all connections."""
    world.proxy.cut()


async def end_in_the_middle(world: World) -> None:
    """FIN after some bytes more, in the middle of whatever it is."""
    world.proxy.end_after(world.dice.randrange(1, 5000))


async def delay(world: World) -> None:
    """A slow network."""
    world.proxy.delay(world.dice.uniform(0.01, 0.2))
    await world.pause(0.5, 2.0)
    world.proxy.delay(0)


async def split(world: World) -> None:
    """Bytes come in small pieces."""
    world.proxy.split(world.dice.randrange(1, 100))
    await world.pause(0.5, 1.5)
    world.proxy.split(None)


async def cut_rights(world: World) -> None:
    """An ACL that is wrong for a while: two of three groups are refused."""
    world.server.command("ACL", "SETUSER", USER, "resetchannels", *LESS)
    await world.pause(0.5, 2.0)
    world.server.command("ACL", "SETUSER", USER, "allchannels")


async def block(world: World) -> None:
    """A member's event loop is blocked."""
    await world.block(world.dice.uniform(0.5, 2.5))


FAULTS: tuple[Fault, ...] = (
    kill,
    shut_down,
    freeze,
    kill_all_clients,
    kill_a_client,
    black_hole,
    stall,
    reset,
    end_in_the_middle,
    delay,
    split,
    cut_rights,
    block,
)
