"""Text that others chose, shown to people: readable, in one line, and harmless."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_mpx import exceptions
from channels_mpx.escaping import MAX_NAME, escape, shorten
from channels_mpx.packing import describe
from channels_mpx.testing import Broker
from tests.helpers import eventually
from tests.layers import QUICK

#: A name that begins a record of its own, colours a terminal, turns the line round, and rings.
EVIL = "news.x: bad\nCRITICAL admin logged in \x1b[31m \u202e\u2066 \u2028 \x07 \x85 \x00 \r"


@pytest.mark.parametrize(
    "text", ["", "room", "Zürich", "東京", "mpx:group:room", "two words", "🚀", "it's", '"', "a\\n"]
)
def test_leave_ordinary_text_as_it_is(text: str) -> None:
    """What people can read stays so, in whatever language."""
    assert escape(text) == shorten(text) == shorten(text.encode()) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\r", r"a\r"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u202ea", r"\u202ea"),
        ("\u2028", r"\u2028"),
        ("\x00", r"\x00"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_escape_what_misleads(text: str, shown: str) -> None:
    """Line breaks, controls, marks of direction, halves of characters and invisible ones."""
    assert escape(text) == shown


@given(st.text(st.characters()) | st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    """So it is for every text, and once is enough."""
    shown = escape(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert escape(shown) == shown


@given(st.binary() | st.text())
def test_shortened_names_are_printable_and_short(name: bytes | str) -> None:
    """A name in Redis is any bytes, and up to 512 MB of them."""
    assert shorten(name).isprintable()
    assert len(shorten(name * 200)) <= MAX_NAME + 1


def test_shorten_a_long_name() -> None:
    """Its beginning is shown, and that it goes on; the limit itself still fits."""
    assert shorten("x" * MAX_NAME) == "x" * MAX_NAME
    assert shorten(b"x" * 10_000_000) == "x" * MAX_NAME + "…"
    assert shorten("ü".encode() * MAX_NAME) == "ü" * MAX_NAME


def test_errors_hold_one_line_whoever_wrote_their_parts() -> None:
    """The texts of Redis, of other processes and of names; the attributes stay as they came."""
    errors: list[exceptions.MPXError] = [
        exceptions.CommandRefused(address="x", command=f"PUBLISH {EVIL}", text=f"ERR {EVIL}"),
        exceptions.RemoteError(channel="a!1", type=EVIL, text=EVIL),
        exceptions.MembershipFailed(channel=EVIL, text=EVIL),
        exceptions.DecodingError(problem=EVIL),
        exceptions.LinkRefused(address="x", reason=EVIL),
        exceptions.ReservedName(name=EVIL, prefix="mpx"),
        exceptions.NotConfirmed(address="x", what=EVIL, seconds=1),
        exceptions.PromiseInterrupted(name=EVIL, reason=EVIL),
    ]
    for error in errors:
        assert str(error).isprintable()
        assert error.args == (str(error),)
    assert errors[1].text == EVIL  # type: ignore[attr-defined]


def test_commands_are_described_in_one_line() -> None:
    """What stands in the text of `CommandRefused` has the name of the channel in it."""
    assert describe((b"PUBLISH", b"room", b"secret")) == "PUBLISH room"
    assert describe((b"PUBLISH", EVIL.encode(), b"secret")).isprintable()


@pytest.mark.parametrize("payload", [b"garbage", b"\1\x0f" + bytes(8)])
async def test_log_no_line_that_a_publisher_wrote(
    caplog: pytest.LogCaptureFixture, payload: bytes
) -> None:
    """A group's name with a line break, which Channels' rule lets through, is logged in one line."""
    broker = Broker()
    layer = broker.layer(**QUICK)
    channel = await layer.new_channel()
    await layer.group_add("room\n", channel)
    with caplog.at_level(logging.WARNING):
        broker.publish(b"mpx:group:room\n", payload)
        await eventually(lambda: layer.statistics().dropped["malformed"] == 1)
    (line,) = [text for text in caplog.messages if "dropped a malformed message" in text]
    assert line.startswith(
        "channels_mpx: dropped a malformed message for mpx:group:room\\n: What arrived is not"
    )
    await layer.aclose()
