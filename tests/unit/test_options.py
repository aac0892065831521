"""Settings: each option has a default and a range, and an error names it and tells no secret."""

from __future__ import annotations

import math
import re
import traceback
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from channels_mpx import exceptions
from channels_mpx.codec import JSONSerializer
from channels_mpx.hosts import Host, parse_host
from channels_mpx.options import Options


def refusal(config: Any, only: Any = None) -> str:
    """Return the text of the error that ``config`` causes."""
    with pytest.raises(exceptions.ConfigurationError) as caught:
        Options.parse(config, only)
    return str(caught.value).removeprefix("channels_mpx is configured wrongly: ")


# Every option

DEFAULTS: dict[str, Any] = {
    "hosts": Host(url="redis://localhost:6379"),
    "prefix": "mpx",
    "expiry": 60,
    "group_expiry": 86400,
    "capacity": 100,
    "channel_capacity": {},
    "symmetric_encryption_keys": (),
    "serializer_format": "msgpack",
    "on_disconnect": None,
    "on_reconnect": None,
    "timeout": 10.0,
    "ping_interval": 2.0,
    "ping_timeout": 2.5,
    "probe_interval": 10.0,
    "max_message_size": 8 * 1024 * 1024,
    "channel_max_bytes": 64 * 1024 * 1024,
    "reconnect_delay": 0.005,
    "max_reconnect_delay": 0.9,
    "client_name": None,
}

SECONDS = [
    "expiry", "group_expiry", "timeout", "ping_interval", "ping_timeout", "probe_interval",
    "reconnect_delay", "max_reconnect_delay",
]  # fmt: skip
WHOLE = {"capacity": 1, "max_message_size": 1024, "channel_max_bytes": 1024}
REGEX = re.compile("x.*")

GOOD = [
    ("prefix", "my-site_1.0", "my-site_1.0"),
    ("prefix", "x" * 64, "x" * 64),
    ("prefix", "", "mpx"),
    ("group_expiry", 0, 0),
    ("channel_capacity", None, {}),
    ("channel_capacity", {"http.*": 5, REGEX: 1}, {"http.*": 5, REGEX: 1}),
    ("symmetric_encryption_keys", None, ()),
    ("symmetric_encryption_keys", [], ()),
    ("symmetric_encryption_keys", ["a", b"b"], ("a", b"b")),
    ("symmetric_encryption_keys", ("a",), ("a",)),
    ("serializer_format", "json", "json"),
    ("serializer_format", JSONSerializer, JSONSerializer),
    ("on_disconnect", None, None),
    ("on_disconnect", "link.lost", "link.lost"),
    ("on_reconnect", "link.back", "link.back"),
    ("client_name", None, None),
    ("client_name", "site:web-1!", "site:web-1!"),
    *((name, least, least) for name, least in WHOLE.items()),
    *((name, 10**9, 10**9) for name in SECONDS if name != "reconnect_delay"),
    *((name, 0.5, 0.5) for name in SECONDS if name != "reconnect_delay"),
    ("reconnect_delay", 0.001, 0.001),
]

BAD = [
    ("prefix", "a:b", "'a:b'; the colon behind it is added"),
    ("prefix", "x" * 65, "1 to 64 letters"),
    ("prefix", "a\n", "1 to 64 letters"),
    ("prefix", None, "None"),
    ("channel_capacity", [("a", 1)], "a dict of pattern and capacity, not list"),
    ("channel_capacity", {3: 1}, "3 is neither a glob nor a compiled pattern"),
    ("channel_capacity", {re.compile(b"x"): 5}, "is a pattern for bytes; names of channels are str"),
    ("channel_capacity", {"a": 0}, r"\['a'\] must be a whole number, at least 1, not 0"),
    ("channel_capacity", {"a": "5"}, "whole number"),
    ("symmetric_encryption_keys", "secret", "a list of keys"),
    ("symmetric_encryption_keys", b"secret", "a list of keys"),
    ("symmetric_encryption_keys", {"secret"}, "a list of keys"),
    ("symmetric_encryption_keys", ["secret", 3], "strings or bytes"),
    ("symmetric_encryption_keys", ["secret", ""], "not empty"),
    ("serializer_format", None, "a name, a dotted path or a class, not None"),
    ("serializer_format", 3, "not 3"),
    *((name, value, "must be a string") for name in ("on_disconnect", "on_reconnect")
      for value in ("", b"x", 3)),
    *(("client_name", value, "printable ASCII") for value in ("", "a b", "ä", "a\n", 3)),
    *((name, value, "a whole number, at least") for name, least in WHOLE.items()
      for value in (least - 1, 1e4, "5000", True, None)),
    *((name, value, "a number of seconds, at least") for name in SECONDS
      for value in (-1, "5", True, None, math.nan, math.inf, [5])),
    *((name, value, "a number of seconds, at most 1000000000, not")
      for name in SECONDS for value in (1_000_000_001, 8.4e9, 10**30)),
    *((name, 0, "at least 0.001, not 0") for name in SECONDS if name != "group_expiry"),
]  # fmt: skip


def test_default_of_every_option() -> None:
    """Nothing has to be configured, and this table knows every option."""
    options = Options.parse({})
    assert {field.name: getattr(options, field.name) for field in fields(Options)} == DEFAULTS


@pytest.mark.parametrize(("name", "value", "parsed"), GOOD)
def test_accept_a_good_value(name: str, value: Any, parsed: Any) -> None:
    """A good value arrives; the other options keep their defaults."""
    options = Options.parse({name: value})
    assert {field.name: getattr(options, field.name) for field in fields(Options)} == {
        **DEFAULTS,
        name: parsed,
    }


@pytest.mark.parametrize(("name", "value", "problem"), BAD)
def test_refuse_a_bad_value(name: str, value: Any, problem: str) -> None:
    """The error names the option and says what it must be, never a key."""
    text = refusal({name: value})
    assert text.startswith(name)
    assert re.search(problem, text)
    assert "secret" not in text


def test_tables_cover_every_option() -> None:
    """No option is without a good and a bad value (``hosts`` has tests of its own)."""
    assert {name for name, *_ in GOOD} == {name for name, *_ in BAD} == DEFAULTS.keys() - {"hosts"}


def test_refuse_delays_in_the_wrong_order() -> None:
    """The most cannot be less than the first; together they may both be small."""
    assert "max_reconnect_delay must not be below" in refusal({"reconnect_delay": 2})
    assert "max_reconnect_delay must not be below" in refusal({"max_reconnect_delay": 0.004})
    both = Options.parse({"reconnect_delay": 2, "max_reconnect_delay": 2})
    assert both.max_reconnect_delay == 2


def test_refuse_an_unknown_option() -> None:
    """The nearest known name is given, or all of them."""
    assert refusal({"expire": 3}) == "there is no option 'expire'; did you mean 'expiry'?"
    far = refusal({"zzz": 3})
    assert far == f"there is no option 'zzz'; known are {', '.join(DEFAULTS)}"


def test_refuse_an_option_that_is_no_string() -> None:
    """A name of another type is an unknown name."""
    assert "there is no option 3" in refusal({3: 4})


def test_refuse_an_option_that_is_not_for_here() -> None:
    """Where only some options make sense, the others are unknown."""
    only = ("hosts", "timeout")
    assert Options.parse({"timeout": 3}, only).timeout == 3
    assert refusal({"prefix": "a"}, only) == "there is no option 'prefix'; known are hosts, timeout"


def test_refuse_to_change_options() -> None:
    """Options are read-only, whoever holds them."""
    with pytest.raises(FrozenInstanceError):
        Options.parse({}).timeout = 3  # type: ignore[misc]


# Hosts

ADDRESS = {"host": "redis.example", "port": 6380}
SENTINEL = {"sentinels": [("s1", 26379)], "master_name": "main"}


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("redis://h", Host(url="redis://h")),
        ("redis://h:6380/5", Host(url="redis://h:6380/5")),
        ("redis://h/", Host(url="redis://h/")),
        ("redis://user:p%40ss@h:1/0", Host(url="redis://user:p%40ss@h:1/0")),
        ("redis://[::1]:6379/0?db=3", Host(url="redis://[::1]:6379/0?db=3")),
        ("rediss://h", Host(url="rediss://h")),
        ("unix:///run/redis.sock?db=1", Host(url="unix:///run/redis.sock?db=1")),
        ("memory://", Host(memory="")),
        ("memory://other", Host(memory="other")),
        (("redis.example", 6380), Host(arguments=ADDRESS)),
        (("redis.example", "6380"), Host(arguments=ADDRESS)),
        (["redis.example", 6380], Host(arguments=ADDRESS)),
        (ADDRESS, Host(arguments=ADDRESS)),
        (
            {"address": "redis://h", "password": "x"},
            Host(url="redis://h", arguments={"password": "x"}),
        ),
        ({"address": ("redis.example", 6380)}, Host(arguments=ADDRESS)),
        ({"address": ["redis.example", 6380], "db": 1}, Host(arguments={**ADDRESS, "db": 1})),
        ({"address": "memory://m"}, Host(memory="m")),
        ({"unix_socket_path": "/run/s"}, Host(arguments={"path": "/run/s"})),
        ({"path": "/run/s"}, Host(arguments={"path": "/run/s"})),
        (SENTINEL, Host(sentinel=SENTINEL)),
        (
            {**SENTINEL, "sentinel_kwargs": {"password": "x"}, "db": 1},
            Host(arguments={"db": 1}, sentinel={**SENTINEL, "sentinel_kwargs": {"password": "x"}}),
        ),
        (
            {**SENTINEL, "sentinel_kwargs": None},
            Host(sentinel={**SENTINEL, "sentinel_kwargs": None}),
        ),
        (
            {"sentinels": (["s1", "26379"],), "master_name": "main"},
            Host(sentinel={"sentinels": (["s1", "26379"],), "master_name": "main"}),
        ),
        (Host(memory="x"), Host(memory="x")),
    ],
    ids=repr,
)
def test_parse_a_host_in_every_form(value: Any, host: Host) -> None:
    """Each form of one server, alone and as the only one in a list, means the same."""
    assert parse_host(value) == host
    assert Options.parse({"hosts": [value]}).hosts == host
    assert Options.parse({"hosts": (value,)}).hosts == host


@pytest.mark.parametrize(
    "value", ["redis://h", ("redis.example", 6380), ADDRESS, Host(memory="x")], ids=repr
)
def test_parse_a_lone_host(value: Any) -> None:
    """One server needs no list around it."""
    assert Options.parse({"hosts": value}).hosts == parse_host(value)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://:12#s3cret@prod:6379", "no '#'; special .* percent-encoded, here as %23"),
        ("redis://:12?s3cret@prod:6379", r"behind the '\?' of the URL are arguments"),
        ("redis://:12", "a port and no host"),
        ("redis://h\n", "a space or a line break in the URL"),
        (" redis://h", "a space or a line break"),
        ("redis://h?db=s3cret", r"\['db'\] must be the number of a database"),
        ("redis://h/\u0663", "must be a number"),
        ("redis://h?ssl_ca_certs=/no/such", "does not exist: '/no/such'"),
        ("unix://", "the path of a socket, as in unix:///run"),
        ("unix:///", "the path of a socket"),
        ("unix://run/redis.sock", "the path of a socket"),
        ("memory://a/b", "behind memory:// is a name"),
        ("memory://:s3cret@a", "behind memory:// is a name"),
    ],
)
def test_read_a_url_strictly(url: str, problem: str) -> None:
    """What redis-py would take for something else is refused, and not shown."""
    for hosts, where in ((url, "hosts"), ([url], "hosts[0]"), ([{"address": url}], "hosts[0]")):
        text = refusal({"hosts": hosts})
        assert text.startswith(where)
        assert re.search(problem, text)
        assert "s3cret" not in text
        assert "12" not in text


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"port": 70000}, r"\['port'\] must be 1 to 65535, not 70000"),
        ({"port": -1}, r"\['port'\] must be 1 to 65535, not -1"),
        ({"port": "s3cret"}, r"\['port'\] must be a number"),
        ({"port": None}, r"\['port'\] is None; is an environment variable not set"),
        ({"host": None}, r"\['host'\] is None; is an environment variable not set"),
        ({"host": 5}, r"\['host'\] must be a host name, not int"),
        ({"host": ""}, r"\['host'\] is empty"),
        ({"path": None}, r"\['path'\] is None"),
        ({"path": 5}, r"\['path'\] must be the path of a unix socket, not int"),
        ({"db": "s3cret"}, r"\['db'\] must be the number of a database"),
        ({"db": -1}, r"\['db'\] must be"),
        ({"password": ["s3cret"]}, r"\['password'\] must be a string, not list"),
        ({"password": "s3cret\udc80"}, r"\['password'\] has a character that utf-8 cannot encode"),
        ({"password": "s3cret\u20ac", "encoding": "latin-1"}, "latin-1 cannot encode"),
        ({"username": 1.5}, r"\['username'\] must be a string, not float"),
        ({"credential_provider": 5}, r"\['credential_provider'\] must be a redis.Cred.* not int"),
        ({"password": "s3cret", "encoding": "utf-99"}, r"\['encoding'\] must be an encoding"),
        ({"protocol": "s3cret"}, r"\['protocol'\] must be 2 or 3"),
        ({"encoding": 5}, r"\['encoding'\] must be an encoding"),
        ({"ssl": "yes"}, r"\['ssl'\] must be True or False, not str"),
        ({"ssl_ca_certs": "/no/such"}, r"\['ssl_ca_certs'\] names .* does not exist: '/no/such'"),
        ({"ssl_ca_certs": "/"}, "cannot be read: '/': Is a directory"),
        ({"ssl_ca_certs": 5}, "must be the path of a file, not int"),
        ({"ssl_ca_certs": __file__}, "without a certificate in PEM form"),
        ({"ssl_certfile": "/no/such"}, r"\['ssl_certfile'\] names a file that does not exist"),
        ({"ssl_certfile": __file__}, r"\['ssl_certfile'\] and ssl_keyfile cannot be used together"),
        ({"ssl_keyfile": __file__}, r"\['ssl_keyfile'\] needs ssl_certfile"),
        ({"ssl_certfile": __file__, "ssl_keyfile": "/no"}, r"\['ssl_keyfile'\] .* exist: '/no'"),
        ({"ssl_ca_path": "/no/such"}, r"\['ssl_ca_path'\] must be a directory"),
        ({3: 4}, "the keys of the dict must be names"),
    ],
    ids=repr,
)
def test_check_the_arguments_of_a_dict(arguments: Any, problem: str) -> None:
    """What would be found at the first connection is found at once, by its name."""
    sentinel = {**SENTINEL, "sentinel_kwargs": arguments}
    for host in (arguments, {"address": "redis://h", **arguments}, sentinel):
        text = refusal({"hosts": [host]})
        assert text.startswith("hosts[0]")
        assert re.search(problem, text)
        assert "s3cret" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        {"port": "6379"},
        {"db": "1", "protocol": 2, "password": None, "username": None},
        {"password": b"x", "ssl": None},
        {"password": "\u20ac"},
        {"path": Path("/run/s")},
        {"encoding": "latin-1", "ssl": False, "ssl_ca_path": "/"},
    ],
    ids=repr,
)
def test_take_the_arguments_of_a_dict(arguments: Any) -> None:
    """The control: what redis-py can use is taken as it is."""
    assert Options.parse({"hosts": [arguments]}).hosts.arguments == arguments


def test_leave_the_dict_of_a_host_alone() -> None:
    """Parsing changes nothing in the settings."""
    settings = {**SENTINEL, "unix_socket_path": "/run/s", "db": 1}
    parse_host(settings)
    assert settings == {**SENTINEL, "unix_socket_path": "/run/s", "db": 1}


@pytest.mark.parametrize(
    ("hosts", "problem"),
    [
        ([], "hosts must be a list with one Redis URL in it"),
        ((), "hosts must be a list"),
        (3, "hosts must be a list"),
        ({"redis://h"}, "hosts must be a list"),
        (["redis://a", "redis://b"], "hosts has 2 entries; .*one server for now"),
        ([("a", 1), ("b", 2), ("c", 3)], "hosts has 3 entries"),
        (("a", "6379"), "hosts is a list of servers, and this is .* one; write .*'localhost', 6379"),
        (["a", 6379], "hosts is a list of servers"),
        (["a", "b"], "hosts has 2 entries"),
        ([3], "int is no form of a host"),
        ([None], r"hosts\[0\] is None; is an environment variable not set"),
        ([{"address": None, "db": 1}], r"hosts\[0\]\['address'\] is None; is an env"),
        ([{"address": 3}], "int is no form of a host"),
        (["localhost:6379"], "no scheme; it must begin with redis://.* as in redis://localhost:6379"),
        (["localhost"], "the URL has no scheme"),
        ([""], "is an empty string; is an environment variable empty"),
        (["http://h"], "begins with 'http://'; it must begin with redis://"),
        (["redis:h"], "must begin with redis://"),
        (["redis://h:0"], "port in the URL must be 1 to 65535, not 0"),
        (["redis://h:65536"], "not a URL: its host or port"),
        (["redis://[::1"], "not a URL"),
        (["redis://h/x"], "database in the URL must be a number"),
        (["redis://h/-1"], "database in the URL must be a number"),
        (["redis://h/0/1"], "database in the URL must be a number"),
        ([("h",)], "a pair is a host name and a port"),
        ([("h", 1, 2)], "a pair is a host name and a port"),
        ([(b"h", 1)], "a pair is a host name and a port"),
        ([("h", 1.5)], "a pair is a host name and a port"),
        ([("h", 0)], "the port must be 1 to 65535"),
        ([("h", 65536)], "the port must be 1 to 65535"),
        ([("h", "x")], "the port must be a number, 1 to 65535"),
        ([("h", True)], "the port must be a number, 1 to 65535"),
        ([("", 1)], "the host name is empty"),
        ([("h", -1)], "the port must be 1 to 65535"),
        ([{}], "the dict is empty"),
        ([{"address": None}], r"\['address'\] is None"),
        ([{"sentinels": [("s", 1)]}], "Sentinel needs both"),
        ([{"master_name": "m"}], "Sentinel needs both"),
        ([{"sentinels": [], "master_name": "m"}], "Sentinel needs both"),
        ([{"sentinel_kwargs": {}}], "Sentinel needs both"),
        ([{"sentinels": 5}], "Sentinel needs both"),
        ([{**SENTINEL, "sentinels": 5}], r"'sentinels' must be a list of pairs .* not int"),
        ([{**SENTINEL, "sentinels": "s:1"}], r"'sentinels' must be a list of pairs .* not str"),
        ([{**SENTINEL, "sentinels": {"s": 1}}], r"'sentinels' must be a list of pairs .* not dict"),
        ([{**SENTINEL, "sentinels": iter([("s", 1)])}], r"'sentinels' must be a list of pairs"),
        ([{**SENTINEL, "sentinels": ("s", 26379)}], r"\['sentinels'\]\[0\]: a pair is .* 26379\)"),
        ([{**SENTINEL, "sentinels": [("s", 1), 5]}], r"\['sentinels'\]\[1\]: a pair is"),
        ([{**SENTINEL, "sentinels": ["redis://s"]}], r"\['sentinels'\]\[0\]: a pair is"),
        ([{**SENTINEL, "sentinels": [("s", 1, 2)]}], r"\['sentinels'\]\[0\]: a pair is"),
        ([{**SENTINEL, "sentinels": [("s", 0)]}], r"\['sentinels'\]\[0\]: the port must be 1 to 65535"),
        ([{**SENTINEL, "master_name": 5}], "'master_name' must be a string, not int"),
        ([{**SENTINEL, "master_name": b"m"}], "'master_name' must be a string, not bytes"),
        ([{**SENTINEL, "sentinel_kwargs": "x"}], "'sentinel_kwargs' must be a dict .* not str"),
    ],
    ids=repr,
)  # fmt: skip
def test_refuse_hosts(hosts: Any, problem: str) -> None:
    """What is no server, or more than one, is refused with what to write instead."""
    text = refusal({"hosts": hosts})
    assert text.startswith("hosts")
    assert re.search(problem, text)


@pytest.mark.parametrize(
    "hosts",
    [
        "http://:s3cret@h",
        "redis://:s3cret@h:x/0",
        "redis://:s3cret@h:0",
        "redis://:s3cret@h/x",
        "redis://:s3cret@h:99999",
        "redis://:s3[cret@h",
        "redis://:s3cret/0@h:6379/0",
        "redis://:s3cret#0@h:6379/0",
        "redis://:s3cret?0@h:6379/0",
        "redis://:12/s3cret@h:6379/0",
        [{"address": "http://:s3cret@h"}],
        [{"password": "s3cret", "sentinels": []}],
        [{"sentinels": [("h", 1)], "sentinel_kwargs": {"password": "s3cret"}}],
        [{**SENTINEL, "sentinels": ["redis://:s3cret@h"]}],
        [{**SENTINEL, "sentinels": "redis://:s3cret@h"}],
        [{**SENTINEL, "sentinel_kwargs": "s3cret"}],
        [{"address": ("h", 0), "password": "s3cret"}],
        ["redis://:s3cret@h", "redis://:s3cret@i"],
    ],
    ids=repr,
)
def test_tell_no_password_in_an_error(hosts: Any) -> None:
    """Neither the error nor its causes show a password, not even one that was not escaped."""
    with pytest.raises(exceptions.ConfigurationError) as caught:
        Options.parse({"hosts": hosts})
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3c" not in f"{error} {error!r}"
        error = error.__cause__
    printed = traceback.format_exception_only(caught.value)
    assert "s3c" not in "".join(printed)


def test_tell_no_password_in_repr() -> None:
    """Options can be logged."""
    hosts = [
        "redis://:s3cret@h",
        {"host": "h", "password": "s3cret"},
        {**SENTINEL, "sentinel_kwargs": {"password": "s3cret"}},
    ]
    for host in hosts:
        config = {"hosts": [host], "symmetric_encryption_keys": ["s3cret"]}
        assert "s3cret" not in repr(Options.parse(config))


@pytest.mark.parametrize(
    ("timeout", "ping_timeout", "expected"),
    [(10.0, 2.5, 2.5), (10.0, 0.1, 2.5), (10.0, 6.0, 6.0), (1.0, 6.0, 1.0), (0.5, 0.1, 0.5)],
)
def test_steps_of_connecting_have_a_deadline(
    timeout: float, ping_timeout: float, expected: float
) -> None:
    """About as long as a silence may last, neither so short that crowds fail, nor above `timeout`."""
    options = Options.parse({"timeout": timeout, "ping_timeout": ping_timeout})
    assert options.step_timeout == expected
