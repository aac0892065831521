"""Scripts: each file is one, known to Redis by its digest."""

from __future__ import annotations

import hashlib
import re
from importlib import resources

import pytest

from channels_mpx import scripts
from channels_mpx.scripts import DEADLINE_DIGITS, POP, PUSH, UNPOP, Script

every_script = pytest.mark.parametrize("script", [PUSH, POP, UNPOP], ids=repr)


def test_every_file_is_a_script() -> None:
    """No Lua file lies about that nobody runs."""
    files = {file.name for file in resources.files("channels_mpx").joinpath("lua").iterdir()}
    assert files == {f"{script.name}.lua" for script in (PUSH, POP, UNPOP)}


@every_script
def test_digest_is_that_of_the_text(script: Script) -> None:
    """Redis names a script by the SHA-1 of its text."""
    assert script.sha == hashlib.sha1(script.text).hexdigest().encode()
    assert repr(script) == f"<Script {script.name}>"


@every_script
def test_deadline_has_as_many_digits_in_lua(script: Script) -> None:
    """Python and Lua agree on where an entry's deadline ends."""
    digits = re.findall(rb"string\.sub\([^,]+, 1, (\d+)\)|%0(\d+)\.0f", script.text)
    assert digits
    assert {int(a or b) for a, b in digits} == {DEADLINE_DIGITS}


def test_missing_script_is_an_error() -> None:
    """A script without a file cannot be made."""
    with pytest.raises(FileNotFoundError):
        scripts.Script("nope")
