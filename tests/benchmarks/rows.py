"""The rows: what each is called, who takes part, and what is expected of channels_mpx."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks import measures_bare, measures_layer, measures_sync
from tests.benchmarks.context import Context, Result

BASELINE = "channels_redis.pubsub"
REDIS_PEERS = ("channels_mpx", BASELINE, "channels_redis.core")
LAYER_PEERS = (*REDIS_PEERS, "in-memory")
SYNC_PEERS = ("channels_mpx.sync", *LAYER_PEERS)
BARE_PEERS = ("channels_mpx", "redis-py listen()", "redis-py get_message()")

LABELS = {"channels_mpx.sync": "channels_mpx `layer.sync`"}
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
    """

    title: str
    unit: str
    how: str
    measure: Measure
    peers: tuple[str, ...] = LAYER_PEERS
    baseline: str = BASELINE
    lower_is_better: bool = False
    budgets: Mapping[str, float] = field(default_factory=dict)


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
