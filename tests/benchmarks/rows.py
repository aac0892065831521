"""The rows: what each is called, who takes part, and what is expected of channels_mpx."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks import (
    measures_bare,
    measures_consumers,
    measures_layer,
    measures_requests,
    measures_sockets,
    measures_sync,
)
from tests.benchmarks.context import LOOPS, Context, Result

BASELINE = "channels_redis.pubsub"
REDIS_PEERS = ("channels_mpx", BASELINE, "channels_redis.core")
LAYER_PEERS = (*REDIS_PEERS, "in-memory")
SYNC_PEERS = ("channels_mpx.sync", *LAYER_PEERS)
CONSUMER_PEERS = ("channels_mpx.mixin", "channels_mpx", BASELINE)
BARE_PEERS = ("channels_mpx", "redis-py listen()", "redis-py get_message()")

LABELS = {
    "channels_mpx.sync": "channels_mpx `layer.sync`",
    "channels_mpx.mixin": "channels_mpx with the mixin",
}
"""Names for the tables, where the peer's own is not clear."""

Measure = Callable[[Context], "Result | Coroutine[Any, Any, Result]"]


@dataclass(frozen=True)
class Row:
    """One row of the benchmark.

    Attributes:
        title: What the tables call it.
        unit: The unit of ``value``.
        how: One sentence on what is measured.
        measure: What measures it, in a fresh process.
        peers: Who takes part.
        baseline: The peer that ratios are against.
        lower_is_better: Whether a ratio is baseline / value instead of value / baseline.
        budgets: The lowest ratio that is expected of a peer.
        loops: The event loops that it is measured on.
    """

    title: str
    unit: str
    how: str
    measure: Measure
    peers: tuple[str, ...] = LAYER_PEERS
    baseline: str = BASELINE
    lower_is_better: bool = False
    budgets: Mapping[str, float] = field(default_factory=dict)
    loops: tuple[str, ...] = LOOPS


ROWS: dict[str, Row] = {
    "latency": Row(
        "send → receive, one at a time, p50",
        "µs",
        "one process; from before `send` until the waiting `receive` has returned",
        measures_layer.latency,
        lower_is_better=True,
        budgets={"channels_mpx": 2},
    ),
    "sends": Row(
        "200 concurrent `group_send`, empty group",
        "sends/s",
        "`gather` of 200, repeated; nobody is in the group, so core and in-memory send nothing",
        measures_layer.sends,
        budgets={"channels_mpx": 25},
    ),
    "sends_members": Row(
        "200 concurrent `group_send`, group of 3",
        "sends/s",
        "the same, with three members that receive in the same process",
        measures_layer.sends_members,
    ),
    "flood": Row(
        "another process floods a group of 10",
        "deliveries/s",
        "64 tasks in another process, with the same layer, send; ten tasks here receive",
        measures_layer.flood,
        peers=REDIS_PEERS,
        budgets={"channels_mpx": 6},
    ),
    "group_1000": Row(
        "group of 1,000 in one process",
        "deliveries/s",
        "one task sends, one message after the other; 1,000 tasks receive",
        measures_layer.group_1000,
        budgets={"channels_mpx": 2.5},
    ),
    "connects": Row(
        "connect: `new_channel` + `group_add`",
        "consumers/s",
        "2,000 consumers, one after the other, into 50 groups",
        measures_layer.connects,
        budgets={"channels_mpx": 6},
    ),
    "sync": Row(
        "400 × `async_to_sync(group_send)`",
        "sends/s",
        "median of five rounds, each from one plain thread; empty group; 20 warm-up sends",
        measures_sync.sync_sends,
        peers=SYNC_PEERS,
        budgets={"channels_mpx": 3, "channels_mpx.sync": 15},
    ),
    "sync_8": Row(
        "the same from 8 threads",
        "sends/s",
        "400 from each of eight plain threads at once",
        measures_sync.sync_sends_8,
        peers=SYNC_PEERS,
    ),
    "memory": Row(
        "memory per idle consumer",
        "bytes",
        "growth of the process for 5,000 consumers in groups of ten, each waiting in `receive`",
        measures_layer.memory,
        lower_is_better=True,
    ),
    "consumers": Row(
        "500 consumers in one group, no network",
        "handled/s",
        "whole `AsyncWebsocketConsumer`s; `send` compares and counts; another process floods",
        measures_consumers.consumers,
        peers=CONSUMER_PEERS,
        budgets={"channels_mpx.mixin": 15},
    ),
    "daphne": Row(
        "200 WebSocket clients, Daphne",
        "frames/s",
        "one group, flooded by another process; frames as read by clients in a third",
        measures_sockets.daphne,
        peers=CONSUMER_PEERS,
        budgets={"channels_mpx.mixin": 4},
        loops=("asyncio",),
    ),
    "daphne_latency": Row(
        "`group_send` → client, Daphne, p50",
        "µs",
        "200 messages a second to 20 clients; until the clients' process has read the frame",
        measures_sockets.daphne_latency,
        peers=CONSUMER_PEERS,
        lower_is_better=True,
        loops=("asyncio",),
    ),
    "uvicorn": Row(
        "200 WebSocket clients, uvicorn",
        "frames/s",
        "as under Daphne",
        measures_sockets.uvicorn,
        peers=CONSUMER_PEERS,
        budgets={"channels_mpx.mixin": 7},
        loops=("uvloop",),
    ),
    "uvicorn_latency": Row(
        "`group_send` → client, uvicorn, p50",
        "µs",
        "as under Daphne",
        measures_sockets.uvicorn_latency,
        peers=CONSUMER_PEERS,
        lower_is_better=True,
        loops=("uvloop",),
    ),
    "request": Row(
        "request → reply, one at a time, p50",
        "µs",
        "`layer.request` to a consumer of another process; in channels_redis by hand",
        measures_requests.request,
        peers=CONSUMER_PEERS,
        lower_is_better=True,
    ),
    "requests": Row(
        "64 requests in flight",
        "requests/s",
        "64 tasks ask one consumer of another process",
        measures_requests.requests,
        peers=CONSUMER_PEERS,
    ),
    "bare": Row(
        "bare receive, 100 B messages",
        "messages/s",
        "another process publishes pipelined to one channel; `Multiplexer` against redis-py",
        measures_bare.bare,
        peers=BARE_PEERS,
        baseline="redis-py listen()",
        budgets={"channels_mpx": 3},
    ),
}


def ratio(row: Row, value: float, baseline: float) -> float:
    """Return how many times better than the baseline a value is."""
    return baseline / value if row.lower_is_better else value / baseline
