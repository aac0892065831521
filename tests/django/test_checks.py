"""The system checks: what they find, that they connect to nothing unasked, and their page."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.apps import apps
from django.core import checks as django_checks
from django.core.management import call_command, get_commands
from django.core.management.base import SystemCheckError
from django.test import override_settings

import channels_mpx
from channels_mpx import MultiplexedChannelLayer, checks
from channels_mpx.checks import check_deployment, check_servers, check_settings
from channels_mpx.options import Options
from tests.django.findings import found, ids
from tests.django.mpx import BACKEND, Project, setting
from tests.servers import RedisServer

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "checks.md"
SOURCE = Path(checks.__file__)


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
    url = "hosts[0]: the URL has no scheme; it must begin with redis://, rediss://, "
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
            f"{url}unix:// or memory://, as in redis://localhost:6379",
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
            (
                "prefix must be 1 to 64 letters, digits, '_', '-' or '.', not 'a:b'; "
                "the colon behind it is added"
            ),
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


def test_runserver_that_serves_no_websockets(settings: Any) -> None:
    """A warning while one develops with Django's own; none with another one, or without our layer."""
    settings.DEBUG = True
    ours = setting("memory://")
    foreign = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    try:
        for apps_, layer, expected in (
            (["channels"], ours, ["W003"]),
            (["django.contrib.staticfiles", "channels"], ours, ["W003"]),
            (["django.contrib.staticfiles", "daphne"], ours, ["W003"]),
            (["daphne", "django.contrib.staticfiles"], ours, []),
            (["channels"], foreign, []),
        ):
            with override_settings(INSTALLED_APPS=apps_):
                get_commands.cache_clear()
                assert [message[0] for message in found(check_settings, a=layer)] == expected
        settings.DEBUG = False
        assert found(check_settings, a=ours) == []
    finally:
        get_commands.cache_clear()


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
