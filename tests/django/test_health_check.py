"""The layer's health as django-health-check shows it: the page's example, with a real server."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from channels.layers import channel_layers, get_channel_layer
from django.test import AsyncClient, override_settings
from django.urls import path
from health_check.views import HealthCheckView

from channels_mpx.health import PATIENCE
from channels_mpx.health_check import ChannelLayer
from tests.helpers import eventually
from tests.layers import QUICK, is_active, receive
from tests.servers import RedisServer

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "monitor.md"
CHECK = "channels_mpx.health_check.ChannelLayer"
OURS = "channels_mpx.MultiplexedChannelLayer"
SECRET = "open-sesame"

urlpatterns = [
    path("other/", HealthCheckView.as_view(checks=[(CHECK, {"alias": "other"})])),
    path("nowhere/", HealthCheckView.as_view(checks=[(ChannelLayer, {"alias": "nowhere"})])),
]


def blocks() -> list[str]:
    """Return the Python of the page's section."""
    _, _, section = PAGE.read_text().partition("\n## django-health-check\n")
    return re.findall(r"^```python\n(.*?)^```$", section.partition("\n## ")[0], re.M | re.S)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of URLs that has the page's first block."""
    module = ModuleType("urls_of_the_page")
    exec(compile(blocks()[0], PAGE.name, "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


@pytest.fixture(autouse=True)
def no_layers() -> Iterator[None]:
    """Layers are made anew for each test."""
    yield
    channel_layers.backends.clear()


def site(urls: str, **layers: dict[str, Any]) -> Any:
    """Return a context in which a site has these URLs, and these layers beside one of another kind."""
    other = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    return override_settings(
        CHANNEL_LAYERS={**layers, "other": other}, ROOT_URLCONF=urls, MIDDLEWARE=[]
    )


async def get(url: str) -> tuple[int, dict[str, str]]:
    """Return status and content."""
    response = await AsyncClient().get(f"{url}?format=json")
    return response.status_code, json.loads(response.content)


def problem(text: str) -> str:
    """Return what a check has found, without the kind of error, which version 3 writes small."""
    kind, _, found = text.partition(": ")
    assert kind.lower() == "unavailable"
    return found


async def test_the_example_with_a_server_that_is_killed(
    make_redis: Callable[..., RedisServer], example: str
) -> None:
    """200 while there is a server; 500 with the reason when there is none; 200 when it is back."""
    name = "ChannelLayer(alias='default')"
    server = make_redis(password=SECRET)
    config = {"hosts": [server.url], **QUICK}
    with site(example, default={"BACKEND": OURS, "CONFIG": config}):
        layer = get_channel_layer()
        assert await get("/ready/") == (200, {name: "OK"})
        assert layer.statistics().connection.state == "idle"
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        assert await get("/ready/") == (200, {name: "OK"})

        server.kill()
        await eventually(lambda: layer.statistics().connection.state == "connecting")
        assert (await get("/ready/"))[0] == 200, "a loss is no problem for a while"
        await eventually(lambda: not layer.health().is_healthy, PATIENCE + 5)
        status, content = await get("/ready/")
        assert status == 500
        assert problem(content[name]).startswith("No connection to Redis for 5 s: ")
        assert SECRET not in str(content)

        server.start()
        await eventually(lambda: is_active(layer))
        assert await get("/ready/") == (200, {name: "OK"})
        await layer.group_send("room", {"type": "hello"})
        assert (await receive(layer, channel))["type"] == "hello"
        await layer.aclose()


async def test_the_page_for_people(example: str) -> None:
    """With the app installed, who asks for nothing in particular gets HTML."""
    layer = {"BACKEND": OURS, "CONFIG": {"hosts": ["memory://health-check"]}}
    engine = {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
    with (
        site(example, default=layer),
        override_settings(INSTALLED_APPS=["channels", "health_check"], TEMPLATES=[engine]),
    ):
        response = await AsyncClient().get("/ready/")
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/html")
    assert b"ChannelLayer" in response.content


async def test_options_of_the_page(make_redis: Callable[..., RedisServer]) -> None:
    """Each alias has a line of its own, and its own patience."""
    namespace: dict[str, Any] = {}
    exec(blocks()[1], namespace)
    server = make_redis()
    gone = {"BACKEND": OURS, "CONFIG": {"hosts": [server.url], **QUICK}}
    memory = {"BACKEND": OURS, "CONFIG": {"hosts": ["memory://health-check"]}}
    (_, (check, options)) = namespace["checks"]
    impatient = (check, {**options, "patience": 0})
    with site(__name__, default=memory, chat=gone):
        server.kill()
        layer = get_channel_layer("chat")
        attempt = asyncio.ensure_future(layer.new_channel())
        await eventually(lambda: layer.statistics().connection.last_error)
        for checks, status in ((namespace["checks"], 200), ([CHECK, impatient], 500)):
            view = path("ready/", HealthCheckView.as_view(checks=checks))
            with override_settings(ROOT_URLCONF=(view,)):
                found, content = await get("/ready/")
            names = ["ChannelLayer(alias='default')", "ChannelLayer(alias='chat')"]
            assert (found, list(content)) == (status, names)
            assert content[names[0]] == "OK"
            assert (content[names[1]] == "OK") is (status == 200)
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        await layer.aclose()


@pytest.mark.parametrize("alias", ["other", "nowhere"])
async def test_no_layer_of_ours(alias: str) -> None:
    """An alias that is wrong is an error that says so, never a success."""
    with site(__name__):
        status, content = await get(f"/{alias}/")
    assert status == 500
    ((name, text),) = content.items()
    assert name == f"ChannelLayer(alias='{alias}')"
    assert problem(text) == f"'{alias}' is no layer of channels_mpx."


@pytest.mark.parametrize("missing", ["health_check", "health_check.exceptions"])
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Importing the check tells what to install."""
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "channels_mpx.health_check")
    with pytest.raises(ImportError, match=r"pip install channels_mpx\[health-check\]"):
        importlib.import_module("channels_mpx.health_check")
