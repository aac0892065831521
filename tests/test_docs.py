"""What the documentation says is what the code does, and what it shows runs."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.util
import inspect
import json
import logging
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import redis
from channels.layers import get_channel_layer
from channels.routing import ChannelNameRouter
from channels.worker import Worker
from django.test import RequestFactory, override_settings
from websockets.asyncio.client import connect
from websockets.typing import Origin

from channels_mpx import ClosedError, ConfigurationError, MultiplexedChannelLayer, exceptions
from channels_mpx.exporters.prometheus import LayerCollector
from channels_mpx.lag import Lag
from channels_mpx.options import Options
from channels_mpx.router import TRANSITIONS
from channels_mpx.statistics import HubStatistics, LayerStatistics, SubscriptionStatistics
from channels_mpx.wire import Loss
from tests.helpers import eventually
from tests.installed import write_metadata
from tests.integration.test_connection import MINIMAL
from tests.layers import environment, open_layer, receive, subscriptions
from tests.servers import RedisServer, free_port

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "channels_mpx"
EXAMPLES = DOCS / "examples"
TUTORIAL = DOCS / "tutorial" / "first-chat.md"
SECOND_TUTORIAL = DOCS / "tutorial" / "payment-page.md"
SETTINGS = DOCS / "reference" / "settings.md"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)

FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"^### `(\w+)`$(.*?)(?=^###? |\Z)", re.MULTILINE | re.DOTALL)
LOGGING = re.compile(r"logger\.(debug|info|warning|error|exception|critical)$")
WRONG = re.compile(r"^\| `(\{.*?\})` \| (.*?) \|$", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    found = FENCE.finditer(page.read_text())
    return [textwrap.dedent(match[3]) for match in found if match[2] == language]


def rows(page: Path, heading: str) -> list[tuple[str, ...]]:
    """Return the rows of the table whose first line is ``heading``."""
    _, _, rest = page.read_text().partition(f"\n{heading}\n")
    assert rest, f"{page.name} has no table {heading}"
    table = rest.split("\n\n")[0].splitlines()[1:]
    return [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in table]


def load(path: Path) -> Any:
    """Import a file by its path."""
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_settings_shows_forms_of_hosts_that_are_taken() -> None:
    """Every form of the table makes a layer, and no password shows."""
    forms = [
        ast.literal_eval(code)
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
            assert isinstance(node.args[0], ast.Constant)
            yield name[1], ast.unparse(node.func)[7:].upper(), node.args[0].value


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
        await eventually(lambda: "no link to" in caplog.text)
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


# The tutorial


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The tutorial's project, as its reader has it."""
    return Path(shutil.copytree(EXAMPLES / "first_chat", tmp_path / "first_chat"))


def command(beginning: str, tutorial: Path = TUTORIAL) -> list[str]:
    """Return the words of a command that the tutorial shows."""
    (line,) = {
        line
        for block in blocks(tutorial, "sh")
        for line in block.splitlines()
        if line.startswith(beginning)
    }
    return shlex.split(line)


def fresh(**extra: str) -> dict[str, str]:
    """Return the environment of the tutorial's reader, in which no settings are chosen."""
    chosen = environment(**extra)
    chosen.pop("DJANGO_SETTINGS_MODULE", None)
    return chosen


@contextlib.asynccontextmanager
async def served(project: Path, words: list[str], port: int, **env: str) -> AsyncIterator[int]:
    """Run a server of the project until the context ends; yield its port."""
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=project,
        env=fresh(**env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    page = f"http://localhost:{port}/"

    def answers() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        with contextlib.suppress(OSError), urllib.request.urlopen(page, timeout=5) as response:
            return b"WebSocket" in response.read()
        return False

    try:
        await eventually(lambda: asyncio.to_thread(answers), timeout=30)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.to_thread(process.communicate, timeout=10)
        assert b"Traceback" not in errors, errors.decode()


def room(port: int) -> Any:
    """Open the socket of the page on a port."""
    return connect(f"ws://localhost:{port}/ws/", origin=Origin(f"http://localhost:{port}"))


async def test_tutorial_runs_in_one_process(project: Path) -> None:
    """With runserver on memory://, one window hears the other."""
    words = command("python -m django runserver")[1:]
    port = free_port()
    words = [*words, "--noreload", f"localhost:{port}"]
    async with served(project, words, port), room(port) as ada, room(port) as bob:
        await ada.send('{"text": "hello"}')
        for person in (ada, bob):
            assert await asyncio.wait_for(person.recv(), 10) == '{"text": "hello"}'


async def test_tutorial_runs_in_two_processes(
    project: Path, make_redis: Callable[..., RedisServer]
) -> None:
    """With Redis, windows of two processes hear each other and the script."""
    server = make_redis()
    _, _, _, application = command("daphne -p 8001")
    env = {"REDIS_URL": server.url}
    async with contextlib.AsyncExitStack() as stack:
        people = []
        for port in (free_port(), free_port()):
            words = ["-m", "daphne", "-p", str(port), application]
            await stack.enter_async_context(served(project, words, port, **env))
            people.append(await stack.enter_async_context(room(port)))
        await people[0].send('{"text": "hello"}')
        for person in people:
            assert await asyncio.wait_for(person.recv(), 10) == '{"text": "hello"}'

        _, python, *words = command("REDIS_URL")
        assert python == "python"
        said = subprocess.run([sys.executable, *words], cwd=project, env=fresh(**env), check=False)
        assert said.returncode == 0
        for person in people:
            assert await asyncio.wait_for(person.recv(), 10) == f'{{"text": "{words[-1]}"}}'
        assert str(server.command("CLIENT", "LIST")).count("channels_mpx:mysite:") == 2


@pytest.mark.parametrize(
    "words",
    ["pytest -p no:cacheprovider -o asyncio_mode=auto", "django test --settings mysite.settings"],
    ids=["pytest", "django"],
)
def test_examples_of_tests_run(project: Path, words: str) -> None:
    """Those of the chat pass under pytest, and the test cases under Django's runner."""
    if "django" in words:
        for path in set(project.glob("test_*.py")) - {project / "test_cases.py"}:
            path.unlink()  # they import pytest, or need its fixtures
    write_metadata(project)
    path = f"{project}:{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", *words.split()],
        cwd=project,
        env=environment(DJANGO_SETTINGS_MODULE="mysite.settings", PYTHONPATH=path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The second part of the tutorial


@pytest.fixture
def second_project(project: Path) -> Path:
    """The project after the second part."""
    return Path(shutil.copytree(EXAMPLES / "payment_page", project, dirs_exist_ok=True))


def pay_page(port: int) -> Any:
    """Open the socket of the payment page on a port."""
    return connect(f"ws://localhost:{port}/ws/pay/", origin=Origin(f"http://localhost:{port}"))


async def order(page: Any) -> str:
    """Pay; return the number of the order, which waits from now on."""
    await page.send("{}")
    number: str = json.loads(await asyncio.wait_for(page.recv(), 10))["order"]
    return number


async def outcome(page: Any, number: str) -> str:
    """Return what became of an order."""
    heard = json.loads(await asyncio.wait_for(page.recv(), 10))
    assert heard["order"] == number
    return str(heard["outcome"])


async def answer(port: int, number: str, said: str) -> str:
    """Have the bank's page say something; return what it shows then."""
    url, data = f"http://localhost:{port}/bank/{number}/", f"answer={said}".encode()

    assert f'value="{said}"' in await asyncio.to_thread(read, url)
    return await asyncio.to_thread(read, url, data)


def read(url: str, data: bytes | None = None) -> str:
    """Return a page; data is posted."""
    with urllib.request.urlopen(url, data, timeout=5) as response:
        return str(response.read().decode())


async def test_second_tutorial_runs_in_one_process(second_project: Path) -> None:
    """With runserver on memory://, the bank's tab keeps the promise, or comes too late."""
    words = command("python -m django runserver", SECOND_TUTORIAL)[1:]
    port = free_port()
    words = [*words, "--noreload", f"localhost:{port}"]
    async with served(second_project, words, port):
        assert "/ws/pay/" in await asyncio.to_thread(read, f"http://localhost:{port}/pay/")
        async with pay_page(port) as page:
            for said in ("approved", "declined"):
                number = await order(page)
                assert "Told to 1 waiting process." in await answer(port, number, said)
                assert await outcome(page, number) == said
            closed = await order(page)
        await eventually(lambda: says(port, closed, "Told to 0 waiting processes."))


async def says(port: int, number: str, text: str) -> bool:
    """Whether the bank's page shows a text after it has said yes."""
    return text in await answer(port, number, "approved")


async def test_second_tutorial_runs_in_two_processes(
    second_project: Path, make_redis: Callable[..., RedisServer]
) -> None:
    """With Redis, the bank may be in another process, or a shell; a lost connection is told."""
    server = make_redis()
    *_, application = command("daphne -p 8001", SECOND_TUTORIAL)
    env, ports = {"REDIS_URL": server.url}, (free_port(), free_port())
    async with contextlib.AsyncExitStack() as stack:
        for port in ports:
            words = ["-m", "daphne", "-p", str(port), application]
            await stack.enter_async_context(served(second_project, words, port, **env))
        page = await stack.enter_async_context(pay_page(ports[0]))
        number = await order(page)
        assert "Told to 1 waiting process." in await answer(ports[1], number, "approved")
        assert await outcome(page, number) == "approved"

        number = await order(page)
        _, verb, channel, said = command("redis-cli publish", SECOND_TUTORIAL)
        assert server.command(verb, channel.replace("30b17e52", number), said) == 1
        assert await outcome(page, number) == said

        number = await order(page)
        server.command(*command("redis-cli client kill", SECOND_TUTORIAL)[1:])
        assert (await outcome(page, number)).startswith("unknown: ")


def test_examples_of_tests_of_consumers_run(second_project: Path) -> None:
    """Those of the payment page, and of the page about subscriptions."""
    for name in ("market.py", "test_market.py"):
        shutil.copy(EXAMPLES / name, second_project)
    write_metadata(second_project)
    words = "-m pytest -p no:cacheprovider -o asyncio_mode=auto test_pay.py test_market.py"
    done = subprocess.run(
        [sys.executable, *words.split()],
        cwd=second_project,
        env=environment(
            DJANGO_SETTINGS_MODULE="mysite.settings", PYTHONPATH=f"{second_project}:{ROOT}"
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
