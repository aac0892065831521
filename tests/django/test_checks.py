"""The system checks: what they find, that they connect to nothing unasked, and their page."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.apps import apps
from django.core import checks as django_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings
from django.views.debug import SafeExceptionReporterFilter

import channels_mpx
from channels_mpx import MultiplexedChannelLayer, checks
from channels_mpx.checks import check_deployment, check_servers, check_settings
from channels_mpx.options import Options
from tests.django.mpx import BACKEND, Project, setting
from tests.helpers import eventually
from tests.integration.test_connection import MINIMAL
from tests.layers import clients, connections_received
from tests.servers import Certificates, RedisServer, free_port

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "checks.md"
SOURCE = Path(checks.__file__)

Check = Callable[..., list[django_checks.CheckMessage]]


def found(check: Check, **layers: Any) -> list[tuple[str, str, str]]:
    """Return id, place and text of what a check finds in a CHANNEL_LAYERS with these aliases."""
    with override_settings(CHANNEL_LAYERS=layers):
        messages = check(app_configs=None, databases=None)
    assert all(message.hint for message in messages)
    return [
        ((message.id or "").removeprefix("channels_mpx."), str(message.obj), message.msg)
        for message in messages
    ]


def ids(check: Check, *hosts: Any, **config: Any) -> list[str]:
    """Return the ids of what a check finds in one layer of ours."""
    entry = {"BACKEND": BACKEND, "CONFIG": {"hosts": list(hosts), **config}}
    return [message[0] for message in found(check, default=entry)]


class Mine(MultiplexedChannelLayer):
    """A layer of a project, with an option of its own."""

    def __init__(self, color: str = "", **config: Any) -> None:
        if color == "none":
            raise LookupError("no color")
        super().__init__(**config)


MINE = f"{__name__}.Mine"


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """A module of a project."""
    module = ModuleType("project_of_a_test")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


# Settings


def test_right_settings_are_passed_over() -> None:
    """No layers, our layer, and other packages' layers, whatever is wrong with them."""
    assert found(check_settings) == []
    assert found(check_settings, default=setting("redis://localhost")) == []
    assert found(check_settings, default={"BACKEND": BACKEND}) == []
    foreign = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capcity": 3}}
    assert found(check_settings, default=foreign) == []


def test_layers_may_not_be_set_at_all(settings: Any) -> None:
    """Channels takes that for no layers."""
    del settings.CHANNEL_LAYERS
    assert check_settings() == check_deployment() == check_servers() == []


def test_every_wrong_option_is_named(settings: Any) -> None:
    """Each gets an error at its place, in the words of `ConfigurationError`, with its default."""
    url = "hosts: the URL begins with 'no scheme'; it must begin with redis://, rediss://, "
    config = {
        "hosts": ["nonsense"],
        "capcity": 3,
        "capacity": 0,
        "expiry": "soon",
        "prefix": "a:b",
        "reconnect_delay": 2,
        "max_reconnect_delay": 1,
    }
    path = "CHANNEL_LAYERS['default']['CONFIG']"
    assert found(check_settings, default={"BACKEND": BACKEND, "CONFIG": config}) == [
        (
            "E004",
            f"{path}['hosts']",
            f"{url}unix:// or memory://",
        ),
        ("E003", f"{path}['capcity']", "there is no option 'capcity'; did you mean 'capacity'?"),
        ("E004", f"{path}['capacity']", "capacity must be a whole number, at least 1, not 0"),
        (
            "E004",
            f"{path}['expiry']",
            "expiry must be a number of seconds, at least 0.001, not 'soon'",
        ),
        (
            "E004",
            f"{path}['prefix']",
            "prefix must be 1 to 64 letters, digits, '_', '-' or '.', not 'a:b'",
        ),
        (
            "E004",
            f"{path}['max_reconnect_delay']",
            "max_reconnect_delay must not be below reconnect_delay",
        ),
    ]
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": config}}
    hints = {str(message.obj)[len(path) :]: message.hint for message in check_settings()}
    assert hints["['capacity']"] == "Without it, capacity is 100."
    assert hints["['hosts']"] == "Without it, hosts is redis://localhost:6379."
    assert "channel_capacity" in str(hints["['capcity']"])


@pytest.mark.parametrize("option", ["reconnect_delay", "max_reconnect_delay"])
def test_one_of_a_pair_alone(option: str) -> None:
    """It is checked against the other one's default, and by itself."""
    value = {"reconnect_delay": 5, "max_reconnect_delay": 0.001}[option]
    assert ids(check_settings, "memory://", **{option: value}) == ["E004"]
    assert ids(check_settings, "memory://", **{option: 0}) == ["E004"]
    both = {"reconnect_delay": 5, "max_reconnect_delay": 9}
    assert ids(check_settings, "memory://", **both) == []
    assert ids(check_settings, "memory://", **both, capacity=0) == ["E004"]


def test_what_only_making_the_layer_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A serializer, a package that is missing, an argument that redis-py does not know."""
    place = "CHANNEL_LAYERS['default']['CONFIG']"
    assert found(check_settings, default=setting("memory://", serializer_format="msgpak")) == [
        (
            "E004",
            f"{place}['serializer_format']",
            "serializer_format 'msgpak' is unknown; did you mean 'msgpack'?",
        )
    ]
    odd = {"BACKEND": BACKEND, "CONFIG": {"hosts": [{"host": "a", "pasword": "secret"}]}}
    ((id_, path, text),) = found(check_settings, default=odd)
    assert (id_, path) == ("E004", f"{place}['hosts']")
    assert "pasword" in text
    assert "secret" not in text
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    entry = setting("memory://", symmetric_encryption_keys=["x"])
    ((id_, path, text),) = found(check_settings, default=entry)
    assert (id_, path) == ("E004", f"{place}['symmetric_encryption_keys']")
    assert "pip install channels_mpx[crypto]" in text


def test_forms_that_are_none() -> None:
    """What should be a dict says so."""
    with override_settings(CHANNEL_LAYERS=[]):
        (message,) = check_settings()
        assert check_deployment() == check_servers() == []
    assert (message.id, message.msg) == ("channels_mpx.E001", "It must be a dict, not list.")
    assert found(check_settings, default="redis") == [
        ("E001", "CHANNEL_LAYERS['default']", "It must be a dict, not str.")
    ]
    assert found(check_settings, default={"BACKEND": BACKEND, "CONFIG": ["redis://a"]}) == [
        ("E001", "CHANNEL_LAYERS['default']['CONFIG']", "It must be a dict, not list.")
    ]
    assert found(check_deployment, a="redis", b={}, c={"BACKEND": BACKEND, "CONFIG": 1}) == []


def test_backend_that_is_none(module: ModuleType) -> None:
    """Ours is an error; of another one nobody knows whose it is, which is worth a warning."""
    for entry in ({}, {"BACKEND": None}, {"CONFIG": {}}):
        assert found(check_settings, default=entry) == [
            ("E002", "CHANNEL_LAYERS['default']", "There is no BACKEND.")
        ]
    ((id_, _, text),) = found(check_settings, default={"BACKEND": "channels_mpx.Layer"})
    assert id_ == "E002"
    assert text.startswith("BACKEND 'channels_mpx.Layer' cannot be imported: ImportError: ")
    for name in ("channels_mpx_nearly.Layer", "no.such.Layer", "nodots"):
        assert [message[0] for message in found(check_settings, a={"BACKEND": name})] == ["W001"]

    def raise_error(name: str) -> None:
        raise ZeroDivisionError("on purpose")

    module.__getattr__ = raise_error  # type: ignore[method-assign]
    ((id_, _, text),) = found(check_settings, a={"BACKEND": f"{module.__name__}.Layer"})
    assert (id_, text.rpartition(": ")[2]) == ("W001", "on purpose")


def test_key_that_means_nothing() -> None:
    """Options in the wrong place would be ignored in silence."""
    entry = {"BACKEND": BACKEND, "CONFG": {"hosts": ["redis://a"]}, "TEST_CONFIG": {}}
    assert found(check_settings, default=entry) == [
        ("W002", "CHANNEL_LAYERS['default']", "The key 'CONFG' means nothing here.")
    ]


def test_subclasses_are_ours() -> None:
    """Their own options are theirs, and ours are checked; what they raise is an error."""
    assert found(check_settings, a=setting("memory://", MINE, color="red")) == []
    entry = setting("memory://", MINE, color="red", capacity=0)
    assert found(check_settings, a=entry) == [
        (
            "E004",
            "CHANNEL_LAYERS['a']['CONFIG']['capacity']",
            "capacity must be a whole number, at least 1, not 0",
        )
    ]
    assert found(check_settings, a=setting("memory://", MINE, color="none")) == [
        ("E005", "CHANNEL_LAYERS['a']", "The layer cannot be made: LookupError: no color")
    ]
    ((id_, path, text),) = found(check_settings, a=setting("memory://", MINE, colr="red"))
    assert (id_, path) == ("E005", "CHANNEL_LAYERS['a']")
    assert text.startswith("The layer cannot be made: there is no option 'colr'")
    assert [m[0] for m in found(check_deployment, a=setting("memory://", MINE))] == ["W014"]


def test_options_that_are_no_names() -> None:
    """Python cannot pass them on."""
    entry = {"BACKEND": BACKEND, "CONFIG": {1: 2}}
    assert [message[0] for message in found(check_settings, a=entry)] == ["E005"]


def test_sentinels_that_nobody_can_ask() -> None:
    """An error of the settings, and nothing to say of production."""
    for sentinels in (5, ["localhost"], [("localhost", 0)]):
        host = {"sentinels": sentinels, "master_name": "m"}
        assert ids(check_settings, host) == ["E004"]
        assert ids(check_deployment, host) == []


# Production


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("memory://", ["W014"]),
        ("redis://localhost", ["W013"]),
        ("redis://", ["W013"]),
        ("redis://127.8.9.1:1/0", ["W013"]),
        ("redis://[::1]", ["W013"]),
        ("redis://db.localhost", ["W013"]),
        ("unix:///run/redis.sock", ["W013"]),
        ({"unix_socket_path": "/run/redis.sock"}, ["W013"]),
        ({"db": 3}, ["W013"]),
        ("redis://redis", ["W011", "W012", "W013"]),
        ("redis://10.0.0.1", ["W011", "W012", "W013"]),
        (("redis", 6379), ["W011", "W012", "W013"]),
        ("redis://user@redis", ["W011", "W012", "W013"]),
        ("redis://:pw@redis", ["W011", "W013", "W018"]),
        ("redis://redis?password=pw", ["W011", "W013", "W018"]),
        ("rediss://redis", ["W012", "W013"]),
        ("rediss://:pw@redis", ["W013", "W018"]),
        ("redis://user:pw@localhost", ["W013", "W018"]),
        ("rediss://localhost?ssl_password=pw", ["W013", "W018"]),
        ("unix://user:pw@/run/redis.sock", ["W013", "W018"]),
        ({"address": "rediss://user:pw@redis", "db": 1}, ["W013", "W018"]),
        ({"host": "redis", "ssl": True, "password": "pw"}, ["W013"]),
        ({"host": "redis", "ssl": False}, ["W011", "W012", "W013"]),
        ({"address": "rediss://redis", "password": "pw"}, ["W013"]),
        ({"address": ("redis", 6379), "password": "pw"}, ["W011", "W013"]),
        ({"sentinels": [("redis", 1)], "master_name": "m"}, ["W011", "W012", "W013"]),
        ({"sentinels": [("localhost", 1)], "master_name": "m"}, ["W013"]),
        ({"sentinels": [("localhost", 1), ("b", 2)], "master_name": "m"}, ["W011", "W012", "W013"]),
        ({"sentinels": {("localhost", 1)}, "master_name": "m"}, ["W013"]),
        (
            {"sentinels": [("a", 1)], "master_name": "m", "ssl": True, "password": "x"},
            ["W013"],
        ),
    ],
    ids=str,
)
def test_deployment(host: Any, expected: list[str]) -> None:
    """TLS and a password are for other machines; encryption is for every server."""
    assert ids(check_deployment, host) == expected
    if "W014" not in expected:
        keyed = ids(check_deployment, host, symmetric_encryption_keys=["secret"])
        assert keyed == [id_ for id_ in expected if id_ != "W013"]


def test_cure_of_a_password_in_a_url_hides_it() -> None:
    """What the hint says is what Django hides, and what it warns of is what Django shows."""
    url, cure = "redis://user:s3cret@redis", {"address": "redis://user@redis", "password": "s3cret"}
    for host, is_shown in ((url, True), ({"address": url}, True), (cure, False)):
        with override_settings(CHANNEL_LAYERS={"default": setting(host)}):
            shown = SafeExceptionReporterFilter().get_safe_settings()["CHANNEL_LAYERS"]
            assert ("s3cret" in str(shown)) is is_shown
            assert ("W018" in ids(check_deployment, host)) is is_shown


def test_deployment_takes_own_connections_for_safe() -> None:
    """What a connection class or a credential provider of the project's does is its business."""
    import redis.asyncio as aioredis
    from redis.credentials import UsernamePasswordCredentialProvider

    provider = UsernamePasswordCredentialProvider("user", "pw")
    host = {"host": "redis", "credential_provider": provider}
    assert ids(check_deployment, host) == ["W011", "W013"]
    host["connection_class"] = aioredis.SSLConnection
    assert ids(check_deployment, host) == ["W013"]


def test_deployment_leaves_errors_to_the_settings_check() -> None:
    """A layer that cannot be made has no deployment; others still have theirs."""
    layers = {"a": setting("nonsense"), "b": setting("memory://")}
    assert [m[1] for m in found(check_deployment, **layers)] == [
        "CHANNEL_LAYERS['b']['CONFIG']['hosts']"
    ]


def test_no_check_connects_unasked(redis_server: RedisServer) -> None:
    """Neither the settings nor the deployment check opens a connection."""
    before = connections_received(redis_server)
    assert ids(check_settings, redis_server.url) == []
    assert ids(check_deployment, redis_server.url) == ["W013"]
    assert connections_received(redis_server) == before


# Servers


async def test_servers_that_are_fine(redis_server: RedisServer) -> None:
    """Redis's own limits fit our own size; the connection is closed again."""
    assert await asyncio.to_thread(ids, check_servers, redis_server.url) == []
    await eventually(lambda: clients(redis_server) == [])


def test_servers_need_none_for_memory() -> None:
    """There is nothing to ask."""
    assert ids(check_servers, "memory://") == []


@pytest.mark.parametrize(
    ("limits", "size", "expected"),
    [
        ("32mb 8mb 60", 8 * 2**20, []),
        ("32mb 8mb 60", 8 * 2**20 + 1, ["W015"]),
        ("15mb 0 0", 8 * 2**20, ["W015"]),
        ("16mb 0 0", 8 * 2**20, []),
        ("0 4mb 60", 8 * 2**20, ["W015"]),
        ("0 0 0", 2**30, []),
    ],
)
def test_limits_of_output_buffers(
    make_redis: Callable[..., RedisServer], limits: str, size: int, expected: list[str]
) -> None:
    """Two messages must fit below the hard limit, one below the soft one; 0 is no limit."""
    server = make_redis(config=[f"client-output-buffer-limit pubsub {limits}"])
    assert ids(check_servers, server.url, max_message_size=size) == expected


def test_limits_that_are_not_told(make_redis: Callable[..., RedisServer]) -> None:
    """Whom the ACL forbids to ask gets an information, which fails no check."""
    server = make_redis(users=[f"site on >pw resetchannels ~mpx:* &mpx:* -@all {MINIMAL}"])
    ((id_, path, text),) = found(check_servers, default=setting(server.url_for("site", "pw")))
    assert (id_, path) == ("I001", "CHANNEL_LAYERS['default']['CONFIG']['hosts']")
    assert "NOPERM" in text


def test_limits_of_something_else_than_redis() -> None:
    """An answer without the class `pubsub` says nothing."""
    assert list(checks._check_limits("x", {}, 1)) == []


def test_server_without_resp3(make_redis: Callable[..., RedisServer]) -> None:
    """As before Redis 6, where HELLO is unknown."""
    server = make_redis(config=['rename-command HELLO ""'])
    ((id_, _, text),) = found(check_servers, default=setting(server.url))
    assert id_ == "W016"
    assert "HELLO" in text


def test_server_that_refuses_for_another_reason(make_redis: Callable[..., RedisServer]) -> None:
    """No password, or the wrong one, where one is wanted: that is not about RESP3."""
    server = make_redis(password="right")
    assert ids(check_servers, server.url_for()) == ["W017"]
    assert ids(check_servers, server.url_for(password="wrong")) == ["W017"]


@pytest.mark.parametrize("is_frozen", [True, False])
def test_server_that_cannot_be_asked(
    make_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch, is_frozen: bool
) -> None:
    """A warning with the reason, soon: also if it accepts connections and says nothing."""
    monkeypatch.setattr(checks, "PATIENCE", 0.2)
    port = free_port()
    if is_frozen:
        server = make_redis()
        server.freeze()
        port = server.port
    ((id_, _, text),) = found(check_servers, default=setting(f"redis://127.0.0.1:{port}"))
    assert id_ == "W017"
    assert f"No link to Redis at 127.0.0.1:{port} within 0.2 s" in text
    assert is_frozen or "Connect call failed" in text


async def test_servers_are_not_asked_on_an_event_loop(redis_server: RedisServer) -> None:
    """Blocking it is refused, and said."""
    ((id_, _, text),) = found(check_servers, default=setting(redis_server.url))
    assert id_ == "W017"
    assert "event loop" in text


async def test_tls_and_a_password_satisfy(
    make_redis: Callable[..., RedisServer], certificates: Certificates
) -> None:
    """The server check goes over TLS too."""
    server = make_redis(tls=certificates, password="pw")
    assert await asyncio.to_thread(ids, check_servers, server.url) == []


# As an app


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django's checks are after the test what they were before."""
    real = django_checks.registry.registry
    for name in ("registered_checks", "deployment_checks"):
        monkeypatch.setattr(real, name, set(getattr(real, name)))


@pytest.mark.usefixtures("registry")
def test_app_brings_the_checks() -> None:
    """In INSTALLED_APPS it has a label and a name, and its checks have the tag `channels`."""
    with override_settings(INSTALLED_APPS=["channels", "channels_mpx"]):
        config = apps.get_app_config("channels_mpx")
        assert config.verbose_name == "Channel layers over one Redis connection"
        assert not list(config.get_models())
        assert django_checks.tag_exists("channels")
        with override_settings(CHANNEL_LAYERS={"default": setting("memory://", capcity=3)}):
            with pytest.raises(SystemCheckError, match=r"\(channels_mpx\.E003\)"):
                call_command("check", "--tag", "channels")


def test_layer_works_without_the_app() -> None:
    """The tests' own settings do not have it."""
    assert not apps.is_installed("channels_mpx")
    assert channels_mpx.MultiplexedChannelLayer(hosts=["memory://"]).options == Options.parse(
        {"hosts": ["memory://"]}
    )


def test_manage_check_finds_it_all(redis_server: RedisServer, tmp_path: Path) -> None:
    """`manage.py check` in a project: errors fail it, and --deploy asks for more."""
    project = Project(tmp_path, {"default": setting(redis_server.url)})
    assert project.manage("check").code == 0
    outcome = project.manage("check", "--deploy", "--tag", "channels")
    assert outcome.code == 0
    assert "(channels_mpx.W013)" in outcome.err
    assert project.manage("check", "--deploy", "--tag", "channels", "--fail-level", "WARNING").code


def test_manage_check_warns_of_a_password_in_a_url(
    make_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """`manage.py check --deploy` says so and does not show it; the cure is silent."""
    server = make_redis(password="s3cret")
    for name in ("url", "dict"):
        (tmp_path / name).mkdir()
    in_url = Project(tmp_path / "url", {"default": setting(server.url_for(password="s3cret"))})
    said = in_url.manage("check", "--deploy", "--tag", "channels").err
    assert "CHANNEL_LAYERS['default']['CONFIG']['hosts']: (channels_mpx.W018)" in said
    assert "'password': …" in said
    assert "s3cret" not in said
    host = {"address": server.url_for(), "password": "s3cret"}
    in_dict = Project(tmp_path / "dict", {"default": setting(host)})
    said = in_dict.manage("check", "--deploy", "--tag", "channels").err
    assert "(channels_mpx.W013)" in said
    assert "W018" not in said
    assert "W017" not in said


# The page


def test_page_has_every_id() -> None:
    """Each id of the module has a section, and no other has one."""
    used = set(re.findall(r'"channels_mpx\.([EWI]\d{3})"', SOURCE.read_text()))
    sections = re.findall(r"^### `channels_mpx\.([EWI]\d{3})`$", PAGE.read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(used)
    assert len(sections) == len(set(sections))
