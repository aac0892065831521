"""The broker in memory does what Redis does, for links of any loop and thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from channels_mpx import Multiplexer, exceptions, memory
from channels_mpx.memory import MemoryBroker, MemoryDialer, MemoryLink, broker
from channels_mpx.names import Kind, Topic
from channels_mpx.scripts import DEADLINE_DIGITS, POP, PUSH, UNPOP
from tests.helpers import eventually
from tests.sites import Site

CHANNEL, PATTERN = Kind.CHANNEL, Kind.PATTERN


class Diary:
    """Writes down what a link tells."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []

    def message(self, channel: bytes, payload: bytes) -> None:
        self.lines.append(("message", channel, payload))

    def pattern_message(self, pattern: bytes, channel: bytes, payload: bytes) -> None:
        self.lines.append(("pattern", pattern, channel, payload))

    def acknowledged(self, topic: Topic, subscribed: bool) -> None:
        self.lines.append(("acknowledged", topic, subscribed))

    def refused(self, topic: Topic, error: Exception) -> None:
        self.lines.append(("refused", topic, error))

    def lost(self, link: Any, reason: str, unsent: Sequence[Any]) -> None:
        self.lines.append(("lost", link, reason, unsent))

    def payloads(self) -> list[bytes]:
        return [line[-1] for line in self.lines if line[0] in ("message", "pattern")]


async def dial(broker: MemoryBroker) -> tuple[MemoryLink, Diary]:
    diary = Diary()
    link = await MemoryDialer(broker, "memory://test").dial(diary)
    assert isinstance(link, MemoryLink)
    return link, diary


def ask(link: MemoryLink, *command: bytes | int) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    link.send(command, future)
    return future


async def ping(link: MemoryLink) -> None:
    """Wait until everything that the link was told so far has arrived."""
    assert await ask(link, b"PING") == b"PONG"


@pytest.fixture
def redis() -> MemoryBroker:
    return MemoryBroker()


# Globs, as Redis 7.0 matches them


# Publish and subscribe


async def test_publish_reaches_who_is_subscribed(redis: MemoryBroker) -> None:
    """A message reaches each subscription that fits at that moment, and the reply counts them."""
    link, diary = await dial(redis)
    other, others = await dial(redis)
    assert await ask(link, b"PUBLISH", b"news", b"0") == 0
    link.subscribe(CHANNEL, [b"news"])
    other.subscribe(CHANNEL, [b"news", b"chat"])
    assert await ask(link, b"PUBLISH", b"news", b"1") == 2
    assert await ask(link, b"PUBLISH", b"chat", b"2") == 1
    other.unsubscribe(CHANNEL, [b"news"])
    assert await ask(link, b"PUBLISH", b"news", b"3") == 1
    await ping(other)
    assert (diary.payloads(), others.payloads()) == ([b"1", b"3"], [b"1", b"2"])


async def test_publish_through_patterns(redis: MemoryBroker) -> None:
    """A pattern gets a copy of its own, beside that of the exact channel."""
    link, diary = await dial(redis)
    link.subscribe(CHANNEL, [b"a.b"])
    link.subscribe(PATTERN, [b"a.*", rb"a\.b", b"x*"])
    assert await ask(link, b"PUBLISH", b"a.b", b"1") == 3
    copies = diary.lines[4:]
    assert copies[0] == ("message", b"a.b", b"1")
    assert {*copies[1:]} == {
        ("pattern", b"a.*", b"a.b", b"1"),
        ("pattern", rb"a\.b", b"a.b", b"1"),
    }
    assert await ask(link, b"PUBLISH", b"a.c", b"2") == 1


async def test_acknowledge_each_name(redis: MemoryBroker) -> None:
    """Every name is confirmed, in the order of the commands, and never inside the call."""
    link, diary = await dial(redis)
    link.subscribe(CHANNEL, [b"a", b"b"])
    link.subscribe(PATTERN, [b"a"])
    link.unsubscribe(CHANNEL, [b"a", b"never"])
    assert diary.lines == []
    await ping(link)
    assert diary.lines == [
        ("acknowledged", Topic(CHANNEL, b"a"), True),
        ("acknowledged", Topic(CHANNEL, b"b"), True),
        ("acknowledged", Topic(PATTERN, b"a"), True),
        ("acknowledged", Topic(CHANNEL, b"a"), False),
        ("acknowledged", Topic(CHANNEL, b"never"), False),
    ]


async def test_deliver_before_the_reply(redis: MemoryBroker) -> None:
    """Messages and replies come in the order in which the server made them."""
    link, diary = await dial(redis)
    link.subscribe(CHANNEL, [b"a"])
    first, second = ask(link, b"PUBLISH", b"a", b"1"), ask(link, b"PUBLISH", b"a", b"2")
    first.add_done_callback(lambda _: diary.lines.append(("reply", 1)))
    assert link.in_flight == 2
    await second
    assert diary.payloads() == [b"1", b"2"]
    assert link.in_flight == 0


async def test_count_nothing_for_a_cancelled_reply(redis: MemoryBroker) -> None:
    """Whoever does not wait any more is not told."""
    link, _ = await dial(redis)
    future = ask(link, b"PING")
    future.cancel()
    await ping(link)
    assert link.in_flight == 0


@pytest.mark.parametrize("command", [(b"FLUSHALL",), (b"SET", b"a", b"b"), (3,)], ids=repr)
async def test_refuse_an_unknown_command(redis: MemoryBroker, command: Any) -> None:
    """A command that the layer does not need is an error of its caller's, as with Redis."""
    link, _ = await dial(redis)
    with pytest.raises(exceptions.CommandRefused, match="unknown command") as caught:
        await ask(link, *command)
    assert caught.value.code == "ERR"
    await ping(link)


async def test_be_a_master(redis: MemoryBroker) -> None:
    """The probe asks for the role."""
    link, _ = await dial(redis)
    assert (await ask(link, b"ROLE"))[0] == b"master"


async def test_tell_about_a_link(redis: MemoryBroker) -> None:
    """A link in memory is never silent, and a fork has nothing to let go of."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    link, _ = await dial(redis)
    assert began <= link.last_read <= loop.time()
    assert repr(link) == "<MemoryLink memory://test alive>"
    link.disown()
    await ping(link)


# Queues

KEY, BELL = b"q", b"bell"


async def push(
    link: MemoryLink,
    payload: bytes,
    capacity: int = 3,
    wait: int = 60_000,
    is_request: bool = False,
) -> Any:
    heard, _ = await link.run(PUSH, [KEY], [BELL, payload, capacity, wait, int(is_request)])
    return heard


async def pop(link: MemoryLink) -> bytes | None:
    """Return a message without its deadline."""
    entry: bytes | None
    entry, _ = await link.run(POP, [KEY], [])
    return None if entry is None else entry[DEADLINE_DIGITS:]


async def test_queue_is_first_in_first_out(redis: MemoryBroker) -> None:
    """Messages come in the order of their sending; then there is none, and no key."""
    link, _ = await dial(redis)
    for payload in (b"1", b"2", b"3"):
        assert await push(link, payload) == 0
    assert await ask(link, b"LLEN", KEY) == 3
    assert [await pop(link) for _ in range(4)] == [b"1", b"2", b"3", None]
    assert await ask(link, b"LLEN", KEY) == 0
    assert await ask(link, b"SCAN", b"0", b"MATCH", b"*", b"COUNT", 10) == [b"0", []]


async def test_queue_refuses_over_its_capacity(redis: MemoryBroker) -> None:
    """The sender hears -1, the bell stays silent."""
    link, diary = await dial(redis)
    link.subscribe(CHANNEL, [BELL])
    assert [await push(link, b"x", capacity=2) for _ in range(3)] == [1, 1, -1]
    assert diary.payloads() == [b"", b""]
    await pop(link)
    assert await push(link, b"x", capacity=2) == 1


async def test_queue_takes_a_request_only_if_somebody_listens(redis: MemoryBroker) -> None:
    """Otherwise nothing is left behind, and what was there stays."""
    link, diary = await dial(redis)
    assert await push(link, b"1", is_request=True) == 0
    assert not redis.queues
    assert await push(link, b"2") == 0
    assert await push(link, b"3", is_request=True) == 0
    link.subscribe(CHANNEL, [BELL])
    assert await push(link, b"4", is_request=True) == 1
    assert diary.payloads() == [b""]
    assert [await pop(link) for _ in range(3)] == [b"2", b"4", None]
    assert [await push(link, b"x", 2, is_request=True) for _ in range(3)] == [1, 1, -1]


async def test_queue_forgets_what_has_expired(redis: MemoryBroker) -> None:
    """What waited too long makes room, and is not returned."""
    link, _ = await dial(redis)
    for payload in (b"1", b"2"):
        await push(link, payload, capacity=2, wait=-1)
    assert await push(link, b"3", capacity=2) == 0
    await push(link, b"4", wait=-1)
    assert [await pop(link) for _ in range(2)] == [b"3", None]


async def test_entry_begins_with_its_deadline(redis: MemoryBroker) -> None:
    """Thirteen digits of milliseconds, then the message."""
    link, _ = await dial(redis)
    began = time.time()
    await push(link, b"body", wait=5000)
    pushed = time.time()
    entry, _ = await link.run(POP, [KEY], [])
    assert entry[DEADLINE_DIGITS:] == b"body"
    assert began - 0.01 <= int(entry[:DEADLINE_DIGITS]) / 1000 - 5 <= pushed + 0.01


async def test_unpop_gives_back_to_the_front(redis: MemoryBroker) -> None:
    """An entry whose reader went away is the next one, and the bell rings for it."""
    link, diary = await dial(redis)
    await push(link, b"1")
    await push(link, b"2")
    entry, _ = await link.run(POP, [KEY], [])
    link.subscribe(CHANNEL, [BELL])
    assert await link.run(UNPOP, [KEY], [BELL, entry]) == 1
    assert diary.payloads() == [b""]
    assert [await pop(link) for _ in range(2)] == [b"1", b"2"]


async def test_unpop_drops_what_has_expired(redis: MemoryBroker) -> None:
    """There is no use in giving back what nobody may get."""
    link, _ = await dial(redis)
    entry = b"%0*d" % (DEADLINE_DIGITS, 1) + b"body"
    assert await link.run(UNPOP, [KEY], [BELL, entry]) == -1
    assert await pop(link) is None


async def test_find_and_delete_queues(redis: MemoryBroker) -> None:
    """SCAN finds keys by pattern, UNLINK counts what it deleted."""
    link, _ = await dial(redis)
    for key in (b"a:1", b"a:2", b"b:1"):
        await link.run(PUSH, [key], [BELL, b"x", 1, 60_000, 0])
    cursor, keys = await ask(link, b"SCAN", b"0", b"MATCH", b"a:*", b"COUNT", 1)
    assert (cursor, {*keys}) == (b"0", {b"a:1", b"a:2"})
    assert await ask(link, b"UNLINK", b"a:1", b"a:2", b"never") == 2
    assert await ask(link, b"LLEN", b"a:1") == 0
    assert await ask(link, b"LLEN", b"b:1") == 1


# Losing a link


async def test_lose_fails_what_is_awaited(redis: MemoryBroker) -> None:
    """Every reply that is awaited fails with the reason, and the receiver is told once."""
    link, diary = await dial(redis)
    link.subscribe(CHANNEL, [b"a"])
    futures = [ask(link, b"PING"), ask(link, b"PING")]
    futures[1].cancel()
    link.lose("pulled")
    link.lose("again")
    with pytest.raises(exceptions.LinkLost, match=r"memory://test .*pulled"):
        await futures[0]
    assert futures[1].cancelled()
    assert diary.lines == [("lost", link, "pulled", [])]
    assert repr(link) == "<MemoryLink memory://test lost>"
    assert link.in_flight == 0


async def test_lose_ends_subscriptions(redis: MemoryBroker) -> None:
    """Nothing reaches a lost link, neither what is under way nor what comes later."""
    link, diary = await dial(redis)
    other, _ = await dial(redis)
    link.subscribe(CHANNEL, [b"a"])
    redis.publish(b"a", b"under way")
    link.lose("pulled")
    assert await ask(other, b"PUBLISH", b"a", b"later") == 0
    await ping(other)
    assert diary.lines == [("lost", link, "pulled", [])]
    assert redis.links == [other]


async def test_lose_while_delivering(redis: MemoryBroker) -> None:
    """A receiver that loses its link in a callback hears nothing more."""
    link, diary = await dial(redis)
    other, _ = await dial(redis)
    diary.acknowledged = lambda topic, subscribed: link.lose("enough")  # type: ignore[method-assign]
    link.subscribe(CHANNEL, [b"a"])
    future = ask(link, b"PING")
    redis.publish(b"a", b"1")
    with pytest.raises(exceptions.LinkLost):
        await future
    await ping(other)
    assert diary.lines == [("lost", link, "enough", [])]


async def test_send_on_a_lost_link(redis: MemoryBroker) -> None:
    """A command that comes too late fails at once, and is not carried out."""
    link, _ = await dial(redis)
    link.lose("pulled")
    with pytest.raises(exceptions.LinkError):
        await asyncio.wait_for(ask(link, b"PING"), 20)


# Threads


async def test_links_of_two_threads_share_a_broker(redis: MemoryBroker) -> None:
    """A message crosses from one loop and thread to another, both ways, in order."""
    subscribed: Future[None] = Future()
    answered: Future[list[bytes]] = Future()

    async def other_thread() -> None:
        link, diary = await dial(redis)
        link.subscribe(CHANNEL, [b"ask"])
        await ping(link)
        subscribed.set_result(None)
        await eventually(lambda: len(diary.payloads()) == 100)
        assert await ask(link, b"PUBLISH", b"answer", b"done") == 1
        link.lose("end")
        answered.set_result(diary.payloads())

    thread = threading.Thread(target=asyncio.run, args=(other_thread(),))
    link, diary = await dial(redis)
    link.subscribe(CHANNEL, [b"answer"])
    await ping(link)
    thread.start()
    await asyncio.wrap_future(subscribed)
    sent = [b"%d" % number for number in range(100)]
    assert (
        await asyncio.gather(*(ask(link, b"PUBLISH", b"ask", text) for text in sent)) == [1] * 100
    )
    await eventually(lambda: diary.payloads() == [b"done"])
    await asyncio.to_thread(thread.join)
    assert answered.result() == sent
    assert redis.links == [link]


async def test_publish_to_a_link_whose_loop_has_ended(redis: MemoryBroker) -> None:
    """A loop that ended without a word harms nobody who publishes."""

    async def subscribe() -> MemoryLink:
        link, _ = await dial(redis)
        link.subscribe(CHANNEL, [b"a"])
        await ping(link)
        return link

    await asyncio.to_thread(lambda: asyncio.run(subscribe()))
    link, _ = await dial(redis)
    await ask(link, b"PUBLISH", b"a", b"1")
    await ask(link, b"PUBLISH", b"a", b"2")
    await ping(link)


async def test_every_link_sees_one_order(redis: MemoryBroker) -> None:
    """Whoever publishes from whatever thread: all subscribers see the same order."""
    links = [await dial(redis) for _ in range(3)]
    for link, _ in links:
        link.subscribe(CHANNEL, [b"a"])
    texts = [[b"%d.%d" % (thread, number) for number in range(50)] for thread in range(4)]
    await asyncio.gather(
        *(
            asyncio.to_thread(lambda part=part: [redis.publish(b"a", text) for text in part])
            for part in texts
        )
    )
    for link, _ in links:
        await ping(link)
    first = links[0][1].payloads()
    assert all(diary.payloads() == first for _, diary in links)
    for part in texts:
        assert [text for text in first if text in part] == part


# Introspection, the same of memory and of Redis


async def test_pubsub_tells_who_is_subscribed(site: Site, mux: Multiplexer) -> None:
    """Channels without patterns, connections for each channel, distinct patterns."""
    async with Multiplexer(site.url) as other:
        assert await mux.pubsub_channels("odd*") == []
        assert await mux.pubsub_numsub() == {}
        assert await mux.pubsub_numpat() == 0
        for number, multiplexer in enumerate([mux, mux, other]):
            subscription = multiplexer.new_channel_subscription()
            for name in (b"odd.all", b"odd.%d" % number, b"even\xff"):
                subscription.add(name)
            await subscription.activated(5)
            for pattern in ("*", f"{number}*"):
                await multiplexer.new_pattern_subscription(pattern).activated(5)
        names = {b"odd.all", b"odd.0", b"odd.1", b"odd.2", b"even\xff"}
        assert set(await mux.pubsub_channels()) >= names
        assert set(await mux.pubsub_channels("odd.?")) == {b"odd.0", b"odd.1", b"odd.2"}
        assert set(await mux.pubsub_channels(b"odd.[a0]*")) == {b"odd.all", b"odd.0"}
        assert await mux.pubsub_numsub("odd.all", b"odd.1", "nobody", "odd.all", b"even\xff") == {
            b"odd.all": 2,
            b"odd.1": 1,
            b"nobody": 0,
            b"even\xff": 2,
        }
        assert await mux.pubsub_numpat() == 4


# Brokers


async def test_link_that_the_broker_has_forgotten() -> None:
    """Whatever is done with it then, it says that it is lost."""
    redis = MemoryBroker()
    link, diary = await dial(redis)
    redis.links.clear()
    link.lose("forgotten")
    assert diary.lines == [("lost", link, "forgotten", [])]
    with pytest.raises(exceptions.LinkLost, match="it was lost before"):
        await link.run(PUSH, [b"key", b"bell"], [b"payload", 1, 1])


def test_find_a_broker_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """One name is one broker in a process; tests can put one of their own there."""
    monkeypatch.setattr(memory, "_brokers", {})
    assert broker("") is broker("")
    assert broker("a") is not broker("")
    mine = MemoryBroker()
    memory.register("a", mine)
    assert broker("a") is mine
    memory.forget("a")
    memory.forget("a")
    assert broker("a") is not mine


class Strict(MemoryBroker):
    """A broker that takes one link and keeps back what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Any, ...]] = []

    def accept(self) -> None:
        if self.links:
            raise exceptions.LinkUnavailable(address="memory://", seconds=0, reason="one is enough")

    def hold(self, link: MemoryLink, what: tuple[Any, ...]) -> bool:
        if b"secret" in what:
            self.kept.append(what)
            return True
        return False


async def test_broker_may_refuse_links_and_keep_back_messages() -> None:
    """The two hooks that `channels_mpx.testing` needs for faults."""
    strict = Strict()
    link, diary = await dial(strict)
    with pytest.raises(exceptions.LinkUnavailable, match="one is enough"):
        await dial(strict)
    link.subscribe(CHANNEL, [b"a"])
    strict.publish(b"a", b"secret")
    strict.publish(b"a", b"news")
    await ping(link)
    assert diary.payloads() == [b"news"]
    (what, *arguments) = strict.kept[0]
    link.call_soon(what, *arguments)
    await ping(link)
    assert diary.payloads() == [b"news", b"secret"]
