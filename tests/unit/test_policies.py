"""Policies are chosen by name, and a wrong name gets the list."""

from __future__ import annotations

from typing import Any

import pytest

from channels_mpx import ConfigurationError
from channels_mpx.policies import GapPolicy, Overflow, choose


@pytest.mark.parametrize("policy", [*Overflow, *GapPolicy])
def test_choose_by_name_or_by_itself(policy: Any) -> None:
    """Both spellings are the same."""
    assert choose(type(policy), "overflow", policy) is policy
    assert choose(type(policy), "overflow", policy.value) is policy


@pytest.mark.parametrize("value", ["", "drop", "CLOSE", None, 1, True, [], {}, GapPolicy.CLOSE])
def test_choose_what_there_is_not(value: Any) -> None:
    """The error names the argument, what there is, and what it got."""
    with pytest.raises(ConfigurationError) as caught:
        choose(Overflow, "overflow", value)
    assert str(caught.value) == (
        "channels_mpx is configured wrongly: overflow must be one of "
        f"'drop_newest', 'drop_oldest', 'close', not {value!r}"
    )
    assert caught.value.__cause__ is None
