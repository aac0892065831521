"""The layer's health, and the views that show it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from channels.layers import channel_layers, get_channel_layer
from django.core import mail
from django.http import HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from channels_mpx.views import HealthView, SyncHealthView, health, health_sync
from tests.helpers import eventually
from tests.layers import QUICK, is_active, open_layer
from tests.servers import RedisServer, free_port

SECRET = "open-sesame"

urlpatterns = [
    path("health/", health),
    path("health/sync/", health_sync),
    path("health/chat/", HealthView.as_view(layer="chat", patience=0)),
    path("health/chat/sync/", SyncHealthView.as_view(layer="chat", patience=0)),
    path("sick/", lambda request: HttpResponse(status=503)),
]


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    """A site with the views, a layer of each kind, and one without a server."""
    ours = "channels_mpx.MultiplexedChannelLayer"
    dead = {"hosts": [f"redis://:{SECRET}@127.0.0.1:{free_port()}"], **QUICK}
    layers = {
        "default": {"BACKEND": ours, "CONFIG": {"hosts": ["memory://health-views"]}},
        "chat": {"BACKEND": ours, "CONFIG": dead},
        "other": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    }
    with override_settings(
        CHANNEL_LAYERS=layers,
        ROOT_URLCONF=__name__,
        MIDDLEWARE=[],
    ):
        yield
    channel_layers.backends.clear()


async def get(url: str, method: str = "get") -> tuple[int, Any]:
    """Return status and content; nobody may keep an answer."""
    response = await getattr(AsyncClient(), method)(url)
    assert response.status_code == 405 or response["Cache-Control"] == "no-store"
    return response.status_code, json.loads(response.content) if response.content else None


async def test_an_unused_layer_is_healthy() -> None:
    """Nothing is connected for the answer."""
    status, content = await get("/health/")
    assert (status, content["layer"], content["state"]) == (200, "default", "idle")
    assert (content["is_healthy"], content["problems"]) == (True, [])
    assert get_channel_layer().statistics().connection.state == "idle"


async def test_a_connected_layer_is_healthy() -> None:
    """What the layer knows is in the answer, which nobody may keep."""
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "hello"})
    await eventually(lambda: layer.statistics().waiting == 1)
    status, content = await get("/health/")
    assert (status, content["state"], content["epoch"]) == (200, "connected", 1)
    assert (content["wanted"], content["active"], content["deepest"]) == (1, 1, [channel, 1])
    assert (await AsyncClient().get("/health/"))["Cache-Control"] == "no-store"
    await layer.aclose()


@pytest.mark.parametrize("url", ["/health/chat/", "/health/chat/sync/"])
async def test_without_a_server(url: str) -> None:
    """503 with the reason, but not with the password."""
    layer = get_channel_layer("chat")
    attempt = asyncio.ensure_future(layer.new_channel())
    await eventually(lambda: layer.statistics().connection.last_error)
    status, content = await get(url)
    assert (status, content["layer"], content["is_healthy"]) == (503, "chat", False)
    (problem,) = content["problems"]
    assert problem.startswith("No connection to Redis for 0 s: ")
    assert SECRET not in str(content)
    patient, _ = await get("/health/?layer=chat")
    assert patient == 200
    attempt.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await attempt
    await layer.aclose()


@pytest.fixture
def admins(settings: Any) -> None:
    """A site in production as Django logs by default: errors are mailed to ADMINS."""
    settings.ADMINS = [("Ada", "ada@example.com")]
    assert not settings.DEBUG
    assert not settings.LOGGING


@pytest.mark.usefixtures("admins")
@pytest.mark.parametrize("url", ["/health/chat/", "/health/chat/sync/"])
async def test_no_poll_of_an_outage_mails_anybody(url: str) -> None:
    """Django mails an error for each 503, as the control shows; not for this one."""
    layer = get_channel_layer("chat")
    attempt = asyncio.ensure_future(layer.new_channel())
    await eventually(lambda: layer.statistics().connection.last_error)
    for _ in range(3):
        assert (await get(url))[0] == 503
    assert mail.outbox == []
    assert (await AsyncClient().get("/sick/")).status_code == 503
    assert [message.to for message in mail.outbox] == [["ada@example.com"]]
    attempt.cancel()
    await asyncio.gather(attempt, return_exceptions=True)
    await layer.aclose()


@pytest.mark.parametrize("url", ["/health/", "/health/sync/"])
async def test_methods_and_aliases(url: str) -> None:
    """HEAD like GET; nothing else; and no layer but ours."""
    assert await get(url, "head") == (200, None)
    for method in ("post", "put", "patch", "delete", "options"):
        assert (await get(url, method))[0] == 405
    for alias in ("other", "nowhere", "x" * 1000):
        status, content = await get(f"{url}?layer={alias}")
        assert (status, content["is_healthy"]) == (404, False)


@pytest.mark.usefixtures("admins")
@pytest.mark.parametrize("url", ["/health/", "/health/sync/"])
@pytest.mark.parametrize("config", [{"hosts": [f"redis://:{SECRET}@h:port"]}, {"hots": SECRET}])
async def test_alias_with_wrong_settings(url: str, config: dict[str, Any]) -> None:
    """503, nothing of the settings, since a stranger may ask, and no mail."""
    wrong = {"BACKEND": "channels_mpx.MultiplexedChannelLayer", "CONFIG": config}
    with override_settings(CHANNEL_LAYERS={"wrong": wrong, "gone": {"BACKEND": "no.such.Layer"}}):
        for alias in ("wrong", "gone"):
            status, content = await get(f"{url}?layer={alias}")
            assert (status, content["is_healthy"]) == (503, False)
            assert "manage.py check" in content["problems"][0]
            assert SECRET not in str(content)
    assert mail.outbox == []


@pytest.mark.parametrize("url", ["/health/", "/health/sync/"])
async def test_csrf(url: str) -> None:
    """GET and HEAD need no token; the middleware is asked before the view whether POST has one."""
    client = AsyncClient(enforce_csrf_checks=True)
    with override_settings(MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"]):
        for method, status in (("get", 200), ("head", 200), ("options", 405), ("post", 403)):
            assert (await getattr(client, method)(url)).status_code == status


def test_the_sync_view_needs_no_loop() -> None:
    """As a WSGI server calls it."""
    response = Client().get("/health/sync/")
    assert (response.status_code, response.json()["state"]) == (200, "idle")


async def test_a_subscription_that_redis_refuses(redis_server: RedisServer) -> None:
    """A group whose channel an ACL forbids from now on, until it does not any more."""
    allow = ("ACL", "SETUSER", "health", "on", ">secret", "allcommands", "allkeys", "resetchannels")
    redis_server.command(*allow, "&mpx:*")
    url = redis_server.url_for("health", "secret")
    async with open_layer([url], **QUICK) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        assert layer.health().is_healthy
        redis_server.command(*allow, "&mpx:inbox:*")
        await eventually(lambda: layer.statistics().connection.denied == 1)
        health = layer.health()
        assert (health.is_healthy, health.wanted, health.active) == (False, 2, 1)
        assert health.problems == ("Redis refuses 1 of 2 subscriptions.",)
        redis_server.command(*allow, "&mpx:*")
        redis_server.command("CLIENT", "KILL", "USER", "health")
        await eventually(lambda: is_active(layer) and layer.health().is_healthy)


async def test_since_is_the_beginning_of_the_state() -> None:
    """A layer that was idle for long has not been connecting for long."""
    async with open_layer([f"redis://127.0.0.1:{free_port()}"], **QUICK) as layer:
        made = layer.health().since
        await asyncio.sleep(0.05)  # the time itself is what is tested
        attempt = asyncio.ensure_future(layer.new_channel())
        await eventually(lambda: layer.health().state == "connecting")
        assert layer.health().since > made
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)


@pytest.mark.parametrize("view", [HealthView, SyncHealthView])
async def test_the_docstrings_name_the_fields(view: Any) -> None:
    """All that an answer has, in its order."""
    _, content = await get("/health/")
    listed, _, _ = view.__doc__.partition("The status is")
    assert re.findall(r"``(\w+)``", listed) == list(content)


def test_nobody_has_to_be_logged_in() -> None:
    """Django's LoginRequiredMiddleware lets the views pass."""
    for view in (health, health_sync, HealthView.as_view(layer="chat")):
        assert view.login_required is False
