"""What the documentation says is what the code does, and its examples run."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import redis
from channels.layers import get_channel_layer
from channels.routing import ChannelNameRouter
from channels.worker import Worker
from django.test import RequestFactory, override_settings

from channels_mpx import ClosedError, ConfigurationError, MultiplexedChannelLayer, exceptions
from channels_mpx.exporters.prometheus import LayerCollector
from channels_mpx.lag import Lag
from channels_mpx.options import Options
from channels_mpx.router import TRANSITIONS
from channels_mpx.statistics import HubStatistics, LayerStatistics, SubscriptionStatistics
from channels_mpx.wire import Loss
from tests.helpers import eventually
from tests.integration.test_connection import MINIMAL
from tests.layers import open_layer, receive, subscriptions
from tests.pages import DOCS, EXAMPLES, ROOT, blocks, load
from tests.servers import Certificates, RedisServer

PACKAGE = ROOT / "channels_mpx"
SETTINGS = DOCS / "reference" / "settings.md"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
OPTION = re.compile(r"^### `(\w+)`$(.*?)(?=^###? |\Z)", re.MULTILINE | re.DOTALL)
LOGGING = re.compile(r"logger\.(debug|info|log|warning|error|exception|critical)$")
WRONG = re.compile(r"^\| `(\{.*?\})` \| (.*?) \|$", re.MULTILINE)


def rows(page: Path, heading: str) -> list[tuple[str, ...]]:
    """Return the rows of the table whose first line is ``heading``."""
    _, _, rest = page.read_text().partition(f"\n{heading}\n")
    assert rest, f"{page.name} has no table {heading}"
    table = rest.split("\n\n")[0].splitlines()[1:]
    return [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in table]


# Reference


def test_settings_names_every_option_with_its_default() -> None:
    """The page has a section for each option, and no other; each gives the true default."""
    shown = dict(OPTION.findall(SETTINGS.read_text()))
    assert set(shown) == {option.name for option in fields(Options)}
    for option in fields(Options):
        line = re.search(r"^\* Default: `(.*)`$", shown[option.name], re.MULTILINE)
        assert line, option.name
        default = ast.literal_eval(line[1])
        if option.default is not MISSING:
            assert default == option.default, option.name
            assert type(default) is type(option.default), option.name
        given = Options.parse({option.name: default})
        assert getattr(given, option.name) == getattr(Options(), option.name)


@pytest.mark.parametrize(
    ("config", "text"),
    [pytest.param(*row, id=row[0]) for row in WRONG.findall(SETTINGS.read_text())],
)
def test_settings_quotes_the_errors(config: str, text: str) -> None:
    """What the page says about a wrong value is what the error says."""
    with pytest.raises(ConfigurationError) as caught:
        MultiplexedChannelLayer(**ast.literal_eval(config))
    assert str(caught.value) == f"channels_mpx is configured wrongly: {text}"


def test_settings_shows_an_error_for_every_option() -> None:
    """No option is without a wrong value."""
    for name, text in OPTION.findall(SETTINGS.read_text()):
        assert any(name in ast.literal_eval(config) for config, _ in WRONG.findall(text)), name


def test_settings_shows_forms_of_hosts_that_are_taken(certificates: Certificates) -> None:
    """Every form of the table makes a layer, and no password shows."""
    forms = [
        ast.literal_eval(code.replace("/etc/ssl/redis-ca.pem", str(certificates.ca)))
        for _, cell in rows(SETTINGS, "| Form of the entry | Example |")
        for code in re.findall(r"`(.+?)`", cell)
    ]
    assert len(forms) >= 12
    for form in forms:
        assert "secret" not in repr(MultiplexedChannelLayer(hosts=[form]))


def test_exceptions_shows_the_tree() -> None:
    """The tree of the page is that of the module, and each class has an entry below it."""
    page = DOCS / "reference" / "exceptions.md"
    doc = inspect.cleandoc(exceptions.__doc__ or "")
    tree = "".join(line[4:] + "\n" for line in doc.splitlines() if line.startswith("    "))
    assert blocks(page, "text") == [tree]
    classes = re.findall(r"^\.\. autoexception:: (\w+)\(\)$", page.read_text(), re.MULTILINE)
    assert sorted(classes) == sorted(exceptions.__all__)


def logged(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield logger, level and text of each record that a module can write."""
    tree = ast.parse(path.read_text())
    name = re.search(r'^logger = logging.getLogger\("(.+)"\)$', path.read_text(), re.MULTILINE)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and LOGGING.match(ast.unparse(node.func)):
            assert name is not None
            yield from ((name[1], level, text) for level, text in said(node))


def said(call: ast.Call) -> Iterator[tuple[str, str]]:
    """Yield each level and the text of one call of a logger."""
    method, arguments = ast.unparse(call.func)[7:], list(call.args)
    levels = [method.upper()]
    if method == "log":
        choice = arguments.pop(0)
        assert isinstance(choice, ast.IfExp)
        levels = [
            ast.unparse(level).removeprefix("logging.") for level in (choice.body, choice.orelse)
        ]
    assert isinstance(arguments[0], ast.Constant)
    yield from ((level, arguments[0].value) for level in levels)


def test_logging_lists_every_record() -> None:
    """The page has each record under its logger and with its level, and no other."""
    page = DOCS / "reference" / "logging.md"
    shown = {
        (logger, level, text)
        for logger, section in re.findall(
            r"^## `(.+?)`$(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL
        )
        for level, text in re.findall(r"^\| ([A-Z]+) \| `(.+?)` \|", section, re.MULTILINE)
    }
    assert shown == {record for path in PACKAGE.rglob("*.py") for record in logged(path)}
    assert [text for *_, text in shown if not text.startswith("channels_mpx: ")] == []


# Explanation


def test_how_it_works_has_the_transitions() -> None:
    """The page's table is the router's."""
    page = DOCS / "explanation" / "how-it-works.md"
    assert set(rows(page, "| State | Cause | Next state |")) == {
        (state.value, cause.value, after.value)
        for state, causes in TRANSITIONS.items()
        for cause, after in causes.items()
    }


def test_how_it_works_names_every_module() -> None:
    """The table of modules has each module of the package once."""
    page = DOCS / "explanation" / "how-it-works.md"
    names = [name.strip("`") for name, _ in rows(page, "| Module | Is |")]
    modules = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert sorted(names) == sorted(modules - {"__init__"})


def test_deploy_lists_the_commands_that_are_needed() -> None:
    """The commands for administrators are those that a user without any other was tested with."""
    rules = (EXAMPLES / "acl.txt").read_text().split()
    assert {rule for rule in rules if rule.startswith("+")} == set(MINIMAL.split())


# Running it


def test_operate_says_what_each_record_asks_for() -> None:
    """The page has a row for every record that wants somebody's attention, and no other."""
    page = DOCS / "howto" / "operate.md"
    records = {record for path in PACKAGE.rglob("*.py") for record in logged(path)}
    shown = [cell.strip("`") for cell, _ in rows(page, "| Record | Do |")]
    assert sorted(shown) == sorted(
        text for _, level, text in records if level not in ("INFO", "DEBUG")
    )


def test_operate_explains_every_metric() -> None:
    """The page has a row for each metric, under its name in Prometheus, and the number behind it."""
    page = DOCS / "howto" / "operate.md"
    table = [
        (name.strip("`"), number.strip("`").split("."))
        for name, number, _ in rows(page, "| Metric | In `statistics()` | Ask |")
    ]
    given = [
        sample.name.removeprefix("channels_mpx_") + "_total" * (sample.type == "counter")
        for sample in LayerCollector().describe()
    ]
    assert [name for name, _ in table] == given
    fields_of = {
        "": LayerStatistics,
        "connection": HubStatistics,
        "lag": Lag,
        "subscriptions": SubscriptionStatistics,
    }
    for _, (*owner, field) in table:
        assert field in {each.name for each in fields(fields_of["".join(owner)])}


def test_operate_explains_every_loss() -> None:
    """The page has a row for each kind of reason for which a link is lost."""
    page = DOCS / "howto" / "operate.md"
    shown = [cell.strip("`") for cell, *_ in rows(page, "| `reason` | Means | What to do |")]
    assert shown == [loss.value for loss in Loss]


def test_secure_has_a_user_who_only_publishes(make_redis: Callable[..., RedisServer]) -> None:
    """He can publish what he is for, and nothing under the prefix; he cannot listen either."""
    rules = (EXAMPLES / "acl-publisher.txt").read_text().removeprefix("ACL SETUSER ").strip()
    server = make_redis(users=[rules])
    with redis.Redis(port=server.port, username="feed", password="secret") as client:
        assert client.execute_command("PUBLISH", "price.apple", "3") == 0
        for words in (
            ("PUBLISH", "mpx:group:room", "x"),
            ("SUBSCRIBE", "price.apple"),
            ("PUBSUB", "CHANNELS"),
            ("RPUSH", "mpx:queue:work", "x"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words)


@pytest.mark.parametrize("form", ["url", "dict"])
async def test_no_record_holds_a_password(
    make_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture, form: str
) -> None:
    """Neither while it is right nor when it is wrong, at any level, of any logger."""
    caplog.set_level(logging.DEBUG)
    secret, key = "hunter-two", "hunter-three"
    server = make_redis(users=[f"site on >{secret} ~* &* +@all"])
    hosts: Any = server.url_for("site", secret)
    if form == "dict":
        hosts = {"host": server.host, "port": server.port, "username": "site", "password": secret}
    async with open_layer([hosts], symmetric_encryption_keys=[key]) as layer:
        await layer.new_channel()
        server.command("ACL", "SETUSER", "site", "resetpass", ">another")
        server.command("CLIENT", "KILL", "USER", "site")
        await eventually(lambda: "no Redis connection to" in caplog.text)
        told = f"{layer!r} {layer.statistics()} {layer.health(0)} {caplog.text}"
    assert "username-password" in told
    assert secret not in told
    assert key not in told


# Links and code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_page_leads_somewhere(page: Path) -> None:
    """Links between pages, headings in them and included files exist."""
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.is_file(), target
        headings = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
        slugs = {
            re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
            for heading in headings
        }
        assert not anchor or anchor in slugs, target
    for included in re.findall(r"```\{literalinclude\} (\S+)", text):
        assert (page.parent / included).is_file(), included


def test_pages_name_tests_that_exist() -> None:
    """Whoever says which test shows it says the truth."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    known = set(re.findall(r"\bdef (test_\w+)\(", tests))
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert len(named) > 50
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_page_has_python_that_parses(page: Path) -> None:
    """Python blocks are Python: statements, or items of a dict."""
    for code in blocks(page, "python"):
        try:
            ast.parse(code)
        except SyntaxError:
            ast.parse(f"{{{code}}}")


def test_every_page_is_in_the_index() -> None:
    """The index leads to every page, and every example is shown by a page."""
    index = (DOCS / "index.md").read_text()
    listed = {
        line
        for block in re.findall(r"```\{toctree\}(.*?)```", index, re.S)
        for line in block.split()
    }
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES}
    assert pages - {"index"} <= listed

    shown = {
        (page.parent / path).resolve()
        for page in PAGES
        for path in re.findall(r"```\{literalinclude\} (\S+)", page.read_text())
    }
    files = {
        path for path in EXAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path for path in files if path.name != "__init__.py"} == shown


# Examples


async def test_example_of_two_processes_runs() -> None:
    """The block with two layers on one broker."""
    (code,) = (
        code
        for code in blocks(DOCS / "howto" / "test-without-redis.md", "python")
        if "test_two_processes" in code
    )
    namespace: dict[str, Any] = {}
    exec(compile(code, "test-without-redis.md", "exec"), namespace)
    await namespace["test_two_processes"]()


async def test_example_of_a_multiplexer_runs(redis_server: RedisServer) -> None:
    """The multiplexer hears what it has published."""
    example = load(EXAMPLES / "multiplexer.py")
    assert await asyncio.wait_for(example.listen(redis_server.url), 10) == b"sunny"


async def test_example_of_a_request_runs(redis_server: RedisServer) -> None:
    """A view asks a worker as `runworker` runs it, and finds none afterwards."""
    example = load(EXAMPLES / "request_reply.py")
    backend = "channels_mpx.MultiplexedChannelLayer"
    layers = {"default": {"BACKEND": backend, "CONFIG": {"hosts": [redis_server.url]}}}
    with override_settings(CHANNEL_LAYERS=layers):
        layer = get_channel_layer()
        application = ChannelNameRouter({"prices": example.Prices.as_asgi()})
        server = Worker(application, ["prices"], layer)
        worker = asyncio.ensure_future(server.handle())
        await eventually(lambda: "mpx:bell:prices" in subscriptions(redis_server))
        for fruit, price in (("apple", 3), ("pear", 4), ("plum", None)):
            response = await example.price(RequestFactory().get("/"), fruit)
            assert (response.status_code, json.loads(response.content)) == (200, {"price": price})
        await layer.aclose()
        with pytest.raises(ClosedError):
            await worker
        for instance in server.application_instances.values():
            with pytest.raises(ClosedError):  # the consumer's own channel has ended as well
                await instance["future"]
        response = await example.price(RequestFactory().get("/"), "apple")
        assert response.status_code == 503
        await layer.aclose()


async def test_example_of_the_wire_reaches_a_group(redis_server: RedisServer) -> None:
    """A program without the layer speaks to a group of it."""
    speak = load(EXAMPLES / "speak.py").speak
    async with open_layer(redis_server) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        with redis.Redis(port=redis_server.port) as client:
            assert speak(client, "room", {"type": "hello", "number": 7}) == 1
        assert await receive(layer, channel) == {"type": "hello", "number": 7}
