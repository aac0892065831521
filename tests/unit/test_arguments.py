"""Arguments are checked where they are given, and the error names them."""

from __future__ import annotations

import functools
import math
import threading
from decimal import Decimal
from typing import Any

import pytest

from channels_mpx import InvalidArgument, InvalidTimeout, NotCallable
from channels_mpx.arguments import (
    require_callable,
    require_deadline,
    require_payload,
    require_timeout,
)

NO_SECONDS = [-1, -0.5, -math.inf, math.nan, "1", b"1", True, False, [], {}, 1j, Decimal(1)]


class Called:
    """Something that can be called."""

    def __call__(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    "value", [None, print, len, lambda: None, Called(), Called, functools.partial(print), "".join]
)
def test_whatever_python_calls_can_be_called(value: Any) -> None:
    """And None is no callback."""
    require_callable("on_message", value)


@pytest.mark.parametrize("value", ["print", 7, ..., object(), []])
def test_what_cannot_be_called(value: Any) -> None:
    """A type error that names the argument and the value."""
    with pytest.raises(NotCallable) as caught:
        require_callable("on_message", value)
    assert str(caught.value) == (
        f"on_message must be something that can be called, or None, not {value!r}."
    )
    assert isinstance(caught.value, InvalidArgument | TypeError)


@pytest.mark.parametrize("value", [0, 0.0, 1, 1.5, 10**6])
def test_seconds(value: float) -> None:
    """Come out as a float."""
    for require in (require_deadline, require_timeout):
        assert require(value) == value
        assert type(require(value)) is float


@pytest.mark.parametrize("value", [10**10, 1e300, 10**400], ids=["int", "float", "huge"])
def test_deadline_is_at_most_a_lifetime(value: float) -> None:
    """Python can wait so long, and no longer."""
    assert require_deadline(value) == 10**9
    assert threading.TIMEOUT_MAX > 3 * require_deadline(value)


@pytest.mark.parametrize("value", [*NO_SECONDS, None, math.inf])
def test_what_is_no_deadline(value: Any) -> None:
    """A deadline comes one day."""
    with pytest.raises(InvalidTimeout) as caught:
        require_deadline(value, "patience")
    assert str(caught.value) == f"patience must be a number of seconds, 0 or more, not {value!r}."
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", NO_SECONDS)
def test_what_is_no_timeout(value: Any) -> None:
    """Neither seconds nor None."""
    with pytest.raises(InvalidTimeout) as caught:
        require_timeout(value)
    assert str(caught.value) == (
        f"timeout must be a number of seconds, 0 or more, or None, not {value!r}."
    )


@pytest.mark.parametrize("value", [None, math.inf])
def test_as_long_as_it_takes(value: Any) -> None:
    """Has two spellings."""
    assert require_timeout(value) is None


@pytest.mark.parametrize(
    ("value", "payload"), [(b"\xff", b"\xff"), (b"", b""), ("", b""), ("ä", b"\xc3\xa4")]
)
def test_payloads(value: Any, payload: bytes) -> None:
    """Bytes stay as they are, and text becomes UTF-8."""
    assert require_payload(value) == payload


@pytest.mark.parametrize("value", [None, 7, 1.5, {"a"}, bytearray(b"a"), memoryview(b"a")])
def test_what_is_no_payload(value: Any) -> None:
    """Whatever else it is must be made bytes by whoever knows how."""
    with pytest.raises(InvalidArgument) as caught:
        require_payload(value)
    assert str(caught.value) == f"payload must be str or bytes, not {value!r}."


@pytest.mark.parametrize("value", [{}, {"a": 1}, ["a"], ()])
def test_structure_that_is_no_payload(value: Any) -> None:
    """Who forgot to encode it is told how."""
    with pytest.raises(InvalidArgument) as caught:
        require_payload(value)
    required = "str or bytes, for example json.dumps(payload)"
    assert str(caught.value) == f"payload must be {required}, not {value!r}."


def test_text_that_cannot_travel() -> None:
    """Half a surrogate pair has no UTF-8."""
    with pytest.raises(InvalidArgument, match="text that UTF-8 can carry, or bytes, not"):
        require_payload("\ud800")
