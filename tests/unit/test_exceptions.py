"""Errors: one tree, one sentence each, and nothing is lost when they are copied."""

from __future__ import annotations

import builtins
import copy
import inspect
import pickle
import re
from string import Formatter
from typing import Any

import pytest

import channels_mpx
from channels_mpx import exceptions
from channels_mpx.exceptions import MPXError

CLASSES = sorted(
    (
        kind
        for kind in vars(exceptions).values()
        if inspect.isclass(kind) and issubclass(kind, MPXError)
    ),
    key=lambda kind: kind.__name__,
)

every_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


def make(kind: type[MPXError]) -> MPXError:
    """Make an error of a kind, with a value of its own for each attribute that its text names."""
    names = dict.fromkeys(name for _, name, _, _ in Formatter().parse(kind.__doc__ or "") if name)
    return kind(**{name: f"<{name}>" for name in names})


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Return parent and builtin base of each class, as the docstring of the module draws them."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    above: list[tuple[int, str]] = []
    line = re.compile(
        r"^(?:[ │]*[├└]── |    )(?P<name>[A-Z]\w+)(?: +\((?P<base>\w+)\))?(?: {2,}|$)"
    )
    for text in (exceptions.__doc__ or "").splitlines():
        if found := line.match(text):
            name, depth = found["name"], found.start("name")
            above = [entry for entry in above if entry[0] < depth]
            tree[name] = (above[-1][1] if above else None, found["base"])
            above.append((depth, name))
    return tree


def test_draw_tree_in_the_docstring() -> None:
    """The tree in the module's docstring is the tree of the classes."""
    assert drawn_tree() == {
        kind.__name__: (
            None if kind is MPXError else kind.__bases__[0].__name__,
            kind.__bases__[1].__name__ if len(kind.__bases__) > 1 else None,
        )
        for kind in CLASSES
    }


def test_export_every_class() -> None:
    """Every class is in ``__all__``, which is sorted, and can be imported from the package."""
    assert exceptions.__all__ == [kind.__name__ for kind in CLASSES]
    assert all(getattr(channels_mpx, kind.__name__) is kind for kind in CLASSES)


@every_class
def test_shadow_no_builtin(kind: type[MPXError]) -> None:
    """``from channels_mpx import *`` hides no builtin."""
    assert not hasattr(builtins, kind.__name__)


@every_class
def test_say_the_docstring_filled_with_the_attributes(kind: type[MPXError]) -> None:
    """The text is the docstring on one line, with the attributes' values in it."""
    error = make(kind)
    text = str(error)
    assert "\n" not in text
    assert "  " not in text
    expected = re.sub(r"\s+", " ", kind.__doc__ or "").strip()
    for name, value in vars(error).items():
        if name != "_names":
            expected = expected.replace(f"{{{name}!r}}", repr(value)).replace(f"{{{name}}}", value)
    assert text == expected
    assert "{" not in text


@every_class
@pytest.mark.parametrize(
    "travel", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy]
)
def test_survive_pickling_and_copying(kind: type[MPXError], travel: Any) -> None:
    """A pickled or copied error has the same class, text and attributes."""
    error = make(kind)
    twin = travel(error)
    assert type(twin) is kind
    assert twin is not error
    assert (str(twin), vars(twin), twin.args) == (str(error), vars(error), error.args)


def test_format_braces_in_a_value_as_they_are() -> None:
    """What a value says is never taken for a field of the text."""
    error = exceptions.ConfigurationError(problem="{problem} {0} {")
    assert str(error) == "channels_mpx is configured wrongly: {problem} {0} {"


def test_read_the_code_of_a_refused_command() -> None:
    """``code`` is the first word that Redis said."""
    error = exceptions.CommandRefused(address="a", command="PUBLISH", text="NOPERM not you")
    assert error.code == "NOPERM"


@every_class
def test_show_the_text_in_repr(kind: type[MPXError]) -> None:
    """``repr`` says as much as ``str``, also where OSError is a base, which counts arguments."""
    error = make(kind)
    assert error.args == (str(error),)
    assert repr(error) == f"{kind.__name__}({str(error)!r})"
    assert getattr(error, "errno", None) is None


def test_refuse_to_be_made_without_what_the_text_needs() -> None:
    """A forgotten attribute shows where the error is made, not where it is printed."""
    with pytest.raises(KeyError, match="problem"):
        exceptions.ConfigurationError()
