"""The pytest plugin of channels_mpx: fixtures for tests without a server. See `channels_mpx.testing`.

Installing the package is enough: pytest finds it by its entry point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from channels_mpx import MultiplexedChannelLayer
    from channels_mpx.testing import Broker, Outbox

MARKER = (
    "mpx(alias='default', seed=0, **config): give the test a channel layer without a server; "
    "config: settings that win over those of CHANNEL_LAYERS."
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", MARKER)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give a test with the marker its layer, also if it does not name the fixture."""
    names = getattr(item, "fixturenames", None)
    if names is not None and "mpx_layer" not in names and item.get_closest_marker("mpx"):
        # A new list: those of a parametrized test, of which one may have the marker, share it.
        item.fixturenames = ["mpx_layer", *names]  # type: ignore[attr-defined]


#: The fixtures of a test that `pytest_runtest_teardown` may have to finish, in order of making.
_made = pytest.StashKey[list[tuple[pytest.FixtureDef[Any], Any]]]()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> None:
    """Note what a test has."""
    if fixturedef.scope == "function":
        request.node.stash.setdefault(_made, []).append((fixturedef, request))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Finish what a teardown that is cancelled has not: nothing of it reaches the next test.

    A communicator of Channels whose ``receive_…`` timed out raises `CancelledError` when a fixture
    disconnects it. To pytest that is no outcome of a test: it stops there, keeps all fixtures that
    are not finished, and gives them to the next test.
    """
    try:
        yield
    except asyncio.CancelledError as cancelled:
        errors: list[BaseException] = []
        made = item.stash.get(_made, [])
        for fixturedef, request in reversed(made):
            try:
                fixturedef.finish(request)
            except (Exception, asyncio.CancelledError) as error:
                errors.append(error)
        raise cancelled from (errors[0] if errors else cancelled.__cause__)
    finally:
        item.stash.setdefault(_made, []).clear()


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return what the markers say; that of the function wins over those of class and module."""
    said: dict[str, Any] = {}
    for mark in request.node.iter_markers("mpx"):
        if mark.args:
            pytest.fail(f"@pytest.mark.mpx takes keyword arguments only, not {mark.args}", False)
        said = {**mark.kwargs, **said}
    return {"alias": "default", **said}


@pytest.fixture
def mpx_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker without a server, with faults on demand: `channels_mpx.testing.Broker`."""
    from channels_mpx.testing import Broker

    with Broker.of_settings(**_marked(request)) as broker:
        yield broker


@pytest.fixture
def mpx_layer(
    request: pytest.FixtureRequest, mpx_broker: Broker
) -> Iterator[MultiplexedChannelLayer]:
    """A layer on `mpx_broker`, which `get_channel_layer` and consumers use during the test."""
    with mpx_broker.installed(_marked(request)["alias"]) as layer:
        yield layer


@pytest.fixture
def mpx_other_process(
    mpx_layer: MultiplexedChannelLayer, mpx_broker: Broker
) -> MultiplexedChannelLayer:
    """A second layer on the same broker: what another process would have."""
    return mpx_broker.layer()


@pytest.fixture
def mpx_outbox(mpx_layer: MultiplexedChannelLayer, mpx_broker: Broker) -> Outbox:
    """What was sent during the test, in order: `channels_mpx.testing.Outbox`."""
    return mpx_broker.outbox
