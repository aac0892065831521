"""Frames are values: equal by content, usable as keys, immutable."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any, get_args

import pytest

from channels_mpx import frames
from channels_mpx.frames import Activated, Interrupted, Refused, Subscribe, Unsubscribe
from channels_mpx.names import Kind, Topic

TOPIC = Topic(Kind.CHANNEL, b"a")
ERROR = ValueError()

FRAMES: list[tuple[type, tuple[Any, ...]]] = [
    (Subscribe, (Kind.CHANNEL, (b"a", b"b"))),
    (Unsubscribe, (Kind.PATTERN, (b"a*",))),
    (Activated, (TOPIC, ("someone",))),
    (Interrupted, (("someone",), "gone")),
    (Refused, (TOPIC, ("someone",), ERROR)),
]

every_frame = pytest.mark.parametrize(
    ("kind", "values"), FRAMES, ids=[k.__name__ for k, _ in FRAMES]
)


@every_frame
def test_compare_frames_by_content(kind: type, values: tuple[Any, ...]) -> None:
    """Two frames of the same kind and content are equal and one key."""
    assert kind(*values) == kind(*values)
    assert len({kind(*values), kind(*values)}) == 1


@every_frame
def test_refuse_to_change_a_frame(kind: type, values: tuple[Any, ...]) -> None:
    """No attribute of a frame can be set."""
    frame = kind(*values)
    for field in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(frame, field.name, None)


def test_distinguish_commands_of_the_same_names() -> None:
    """Subscribe and unsubscribe are never equal."""
    assert Subscribe(Kind.CHANNEL, (b"a",)) != Unsubscribe(Kind.CHANNEL, (b"a",))


def test_unions_hold_every_frame() -> None:
    """Commands and events together are all the frames that there are."""
    assert {*get_args(frames.Command), *get_args(frames.Event)} == {kind for kind, _ in FRAMES}
