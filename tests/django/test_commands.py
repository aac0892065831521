"""``manage.py mpx`` as a command: its arguments, its errors, its processes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pty
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from channels.layers import channel_layers
from django.core.management import CommandError, call_command

from channels_mpx import LinkError, MultiplexedChannelLayer
from channels_mpx.management.commands.mpx import Command
from channels_mpx.management.endings import terminable
from channels_mpx.server import Server
from tests.django.mpx import Manager, Output, Project, interrupt, setting
from tests.helpers import eventually
from tests.layers import open_layer, receive, subscriptions
from tests.servers import RedisServer, free_port


@pytest.fixture
def manager() -> Iterator[Manager]:
    """Commands on layers of which none leads to a server."""
    layers = {
        "default": setting("memory://commands"),
        "foreign": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        "wrong": setting("memory://commands", capcity=3),
        "broken": {"BACKEND": "no.such.Layer"},
        "odd": {"BACKEND": "channels_mpx.MultiplexedChannelLayer", "CONFIG": {"hosts": []}},
    }
    with Manager(layers) as manager:
        yield manager


MISTYPED = [
    ([], "the following arguments are required: subcommand"),
    (["statsu"], "invalid choice: 'statsu'"),
    (["--layer", "nope", "ping"], "There is no channel layer 'nope'"),
    (["--layer", "foreign", "ping", "--layer", "nope"], "There is no channel layer 'nope'"),
    (["--watch", "status"], "--watch stands behind the subcommand: mpx status --watch …"),
    (["--all"], "--all stands behind the subcommand: mpx purge --all …"),
    (["--count", "3", "ping"], "subcommand: mpx ping --count or mpx tail --count …"),
    (["--timeout=3", "ping"], "subcommand: mpx ping --timeout or mpx tail --timeout …"),
    (["status", "--layer", "defualt"], "CHANNEL_LAYERS has 'broken', 'default', 'foreign', 'odd'"),
    (["status", "--layer", "foreign"], "a channels.layers.InMemoryChannelLayer; mpx looks into"),
    (["status", "--layer", "wrong"], "no option 'capcity'; did you mean 'capacity'?"),
    (["status", "--layer", "broken"], "Cannot import BACKEND 'no.such.Layer'"),
    (["status", "--layer", "odd"], "hosts must be a list with one Redis URL in it"),
    (["status"], "memory://, which lives within one process: there is no server to look at"),
    (["status", "--watch", "0"], "must be a number of seconds above 0, not '0'"),
    (["status", "--watch", "soon"], "must be a number of seconds above 0, not 'soon'"),
    (["status", "--limit", "-1"], "must be a whole number, at least 1, not '-1'"),
    (["status", "--jsno"], "unrecognized arguments: --jsno"),
    (["ping", "--count", "0"], "must be a whole number, at least 1, not '0'"),
    (["ping", "--count", "1.5"], "must be a whole number, at least 1, not '1.5'"),
    (["ping", "--interval", "-1"], "must be a number of seconds, 0 or more, not '-1'"),
    (["ping", "--interval", "nan"], "must be a number of seconds, 0 or more, not 'nan'"),
    (["ping", "--timeout", "inf"], "must be a number of seconds above 0, not 'inf'"),
    (["ping", "now"], "unrecognized arguments: now"),
    (["tail", "--channel"], "Name at least one channel."),
    (["tail", "--pattern"], "Name at least one pattern."),
    (["tail", ""], "A channel cannot have an empty name."),
    (["tail", "a b", "--group"], "Group name must be a valid unicode string"),
    (["tail", "a", "--group", "--pattern"], "not allowed with argument"),
    (["tail", "--timeout", "0"], "must be a number of seconds above 0, not '0'"),
    (["publish", "room"], "the following arguments are required: message"),
    (["publish", "", "x"], "A channel cannot have an empty name."),
    (["publish", "mpx:group:room", "x"], "mpx:group:room is the layer's own"),
    (["publish", "room", "{", "--group"], "The message is not JSON: "),
    (["publish", "room", "[1]", "--group"], "The message must be a JSON object, not [1]"),
    (["publish", "room", "{}", "--group"], 'The message needs a "type"'),
    (["publish", "room", '{"type": 1}', "--group"], 'The message needs a "type"'),
    (["publish", "a b", '{"type": "x"}', "--group"], "Group name must be a valid unicode string"),
    (["publish", "a b", '{"type": "x"}', "--channel"], "hannel name must be a valid unicode"),
    (["publish", "a", '{"type": "x", "n": 1' + 30 * "0" + "}", "--group"], "cannot be encoded"),
    (["publish", "s.aaaaaaaaaaaaaaaa!1", '{"type": "x"}', "--channel"], "No consumer owns"),
    (["publish", "a", "{}", "--group", "--channel"], "not allowed with argument"),
    (["purge"], "Name the worker channels to purge, or give --all."),
    (["purge", "work", "--all"], "Name the worker channels to purge, or give --all."),
    (["purge", "--all", "--json"], "With --json nobody can be asked: give --no-input too."),
    (["purge", "a!b", "--no-input"], "a!b is a consumer's own channel"),
    (["purge", "a b", "--no-input"], "hannel name must be a valid unicode"),
]


@pytest.mark.parametrize(("words", "text"), MISTYPED, ids=lambda value: " ".join(value)[:30])
def test_mistyped_arguments_are_told_in_one_sentence(
    manager: Manager, words: list[str], text: str
) -> None:
    """Whatever is wrong is a `CommandError` whose text says it; nothing is done."""
    outcome = manager.run(*words)
    assert outcome.code == 1
    assert text in outcome.err
    assert outcome.out == ""


def test_options_that_exclude_each_other_by_keyword(manager: Manager) -> None:
    """What argparse refuses on the command line is refused in `call_command`'s keywords too."""
    outcome = manager.run("tail", "a", group=True, pattern=True)
    assert "give one of the options" in outcome.err
    outcome = manager.run("publish", "a", "{}", group=True, channel=True)
    assert "give one of the options" in outcome.err


def test_options_stand_before_the_subcommand_or_behind_it(manager: Manager) -> None:
    """Those that all have; the one behind it wins. There they may be shortened, as ever."""
    channel_layers.set("other", MultiplexedChannelLayer(hosts=["memory://other"]))
    words = ("--json", "--layer", "other", "ping", "--c", "1")
    assert manager.run(*words).document["address"] == "memory://other"
    document = manager.run(*words, "--layer", "default").document
    assert document["address"] == "memory://commands"
    document = manager.run("ping", count=1, layer="other", json=True).document
    assert (document["address"], document["sent"]) == ("memory://other", 1)


def test_there_may_be_no_layers_at_all() -> None:
    """The error about an alias says so."""
    with Manager({}) as manager:
        assert "CHANNEL_LAYERS has nothing." in manager.run("ping").err


async def test_event_loop_is_not_blocked(manager: Manager) -> None:
    """On a thread that runs an event loop the command says what to do instead."""
    with pytest.raises(CommandError, match=r"asyncio\.to_thread"):
        call_command(Command(), "ping")


def test_layer_that_was_set_for_a_test_is_found() -> None:
    """`channel_layers.set` counts, as everywhere in Channels."""
    with Manager({}) as manager:
        channel_layers.set("mine", MultiplexedChannelLayer(hosts=["memory://mine"]))
        assert manager.run("ping", "--layer", "mine", "--count", "1").code == 0


@pytest.mark.parametrize(
    "words", [["status"], ["ping"], ["tail"], ["publish", "a", "b"], ["purge", "--all"]]
)
def test_dead_server_is_one_sentence(words: list[str]) -> None:
    """Nobody listens there: every subcommand says so within its patience."""
    port = free_port()
    with Manager({"default": setting(f"redis://127.0.0.1:{port}", timeout=0.2)}) as manager:
        outcome = manager.run(*words)
    assert (outcome.code, outcome.out) == (1, "")
    sentence = f"No link to Redis at 127.0.0.1:{port} within 0.2 s, nothing was sent. Last reason: "
    assert outcome.err.startswith(sentence)
    assert "connection refused; is Redis running there?" in outcome.err


def test_wrong_password_is_one_sentence(make_redis: Callable[..., RedisServer]) -> None:
    """A refusal is told at once, with Redis's reason."""
    server = make_redis(password="right")
    with Manager({"default": setting(server.url_for(password="wrong"))}) as manager:
        outcome = manager.run("status")
    assert (outcome.code, outcome.out) == (1, "")
    assert "does not accept this process: invalid username-password pair" in outcome.err


def test_frozen_server_is_one_sentence(make_redis: Callable[..., RedisServer]) -> None:
    """A server that accepts and never answers ends the patience too."""
    server = make_redis()
    with Manager({"default": setting(server.url, timeout=0.3)}) as manager:
        assert manager.run("ping", "--count", "1").code == 0
        server.freeze()
        outcome = manager.run("status")
        server.thaw()
    assert (outcome.code, outcome.out) == (1, "")
    assert "it does not answer" in outcome.err


def test_server_that_dies_meanwhile_is_one_sentence(
    make_redis: Callable[..., RedisServer],
) -> None:
    """Also when several commands are under way."""
    server = make_redis()
    with Manager({"default": setting(server.url, timeout=0.2)}) as manager:
        assert manager.run("ping", "--count", "1").code == 0
        behind = Server(channel_layers["default"])
        assert repr(behind) == f"<Server 127.0.0.1:{server.port}>"
        server.kill()
        with pytest.raises(LinkError):
            behind.lengths([b"mpx:queue:a", b"mpx:queue:b"])


def test_interrupt_has_its_own_code(redis_server: RedisServer) -> None:
    """Ctrl-C where nothing waits for it."""
    with Manager({"default": setting(redis_server.url)}) as manager:
        outcome = manager.run("publish", "a", "b", out=Output(enough=("Redis", 1)))
    assert (outcome.code, outcome.err) == (130, "Interrupted.")


def test_broken_pipe_of_a_caller_is_the_callers(redis_server: RedisServer) -> None:
    """In `call_command`'s own stream it is raised, and the process's stdout is left alone."""

    class Broken(Output):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with Manager({"default": setting(redis_server.url)}) as manager:
        with pytest.raises(BrokenPipeError):
            manager.run("publish", "a", "b", out=Broken())


def test_output_that_cannot_be_written_is_one_sentence(manager: Manager) -> None:
    """A full disk: on the process's own stdout, and on a stream of the caller's."""

    class Full(Output):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sentence = "The output cannot be written: No space left on device."
    outcome = manager.run("publish", "a", "b", out=Full())
    assert (outcome.code, outcome.err.splitlines()[-1]) == (1, sentence)
    with open("/dev/full", "w") as full, contextlib.redirect_stdout(full):
        with pytest.raises(CommandError) as told:
            call_command(Command(), "publish", "a", "b")
    assert str(told.value) == sentence


def test_stdout_may_be_closed(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by ``>&-``: there is nothing that the command could do."""
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(CommandError, match="stdout is closed: there is nowhere to write to"):
        call_command(Command(), "ping")


def test_stderr_may_be_closed(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by ``2>&-``: what would be said is not, and all the rest goes on."""
    monkeypatch.setattr("sys.stderr", None)
    out = Output()
    call_command(Command(), "publish", "a", "b", stdout=out)
    assert out.getvalue() == "Redis gave it to 0 receivers.\n"


# Signals


def test_sigterm_of_others_is_left_alone(manager: Manager) -> None:
    """Who has a handler of his own keeps it."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with terminable():
            signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_ends_a_command_with_its_status() -> None:
    """143, as shells have it; a second one would end the process at once."""
    with pytest.raises(SystemExit) as ended, terminable():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert ended.value.code == 143
    with terminable():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# Colors


def test_colors_are_for_terminals(redis_server: RedisServer) -> None:
    """A pipe gets none, unless they are forced, in front of the subcommand or behind it."""
    with Manager({"default": setting(redis_server.url)}) as manager:
        assert "\x1b" not in manager.run("status").out
        assert "\x1b[36" in manager.run("status", "--force-color").out
        assert "\x1b[36" in manager.run("--force-color", "status").out
        assert "\x1b" not in manager.run("status", "--no-color").out


def test_no_color_is_for_terminals_too(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable of no-color.org turns them off, unless they are forced."""
    monkeypatch.setattr("django.core.management.color.supports_color", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    words = ("ping", "--count", "1")
    assert "\x1b[36" not in manager.run(*words, out=Output(is_tty=True)).out
    assert "\x1b[36" in manager.run(*words, "--force-color", out=Output(is_tty=True)).out
    monkeypatch.setenv("NO_COLOR", "")
    assert "\x1b[36" in manager.run(*words, out=Output(is_tty=True)).out


@pytest.mark.parametrize("is_tty", [True, False])
def test_each_stream_has_its_own_colors(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, is_tty: bool
) -> None:
    """A file gets no colors from a command whose other stream is a terminal."""
    monkeypatch.setattr("django.core.management.color.supports_color", lambda: True)
    out, err = Output(is_tty=not is_tty), Output(is_tty=is_tty)
    outcome = manager.run("publish", "a", "b", out=out, err=err)
    assert outcome.err.startswith("\x1b[33") is is_tty


# Processes of their own


async def test_every_subcommand_runs_in_a_process(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """``manage.py`` finds the command, works, and ends by itself with nothing left to say."""
    project = Project(tmp_path, {"default": setting(redis_server.url)})

    async def manage(*words: str, text: str = "") -> str:
        outcome = await asyncio.to_thread(project.manage, "mpx", *words, text=text)
        assert (outcome.code, outcome.err) == (0, ""), outcome
        return outcome.out

    async with open_layer(redis_server) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.send("work", {"type": "job"})
        status = await manage("status")
        assert "channels_mpx:tiny_settings:" in status
        assert re.search(r"^  room +1$", status, re.MULTILINE)
        assert re.search(r"^  work +1 +0$", status, re.MULTILINE)
        assert "5 messages to this process, 0 lost" in await manage("ping", "--count", "5")
        assert (
            await manage("publish", "--group", "room", '{"type": "x"}')
            == "Redis gave it to 1 receiver.\n"
        )
        assert await receive(layer, channel) == {"type": "x"}
        assert "Nothing was deleted." in await manage("purge", "--all", text="no\n")
        assert "Deleted 1 message." in await manage("purge", "work", text="yes\n")


async def test_tail_ends_with_a_summary_on_interrupt(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """Ctrl-C is how it ends: code 0, messages on stdout, the rest on stderr."""
    project = Project(tmp_path, {"default": setting(redis_server.url)})
    async with open_layer(redis_server) as layer:
        with project.running("mpx", "tail", "room", "--group") as process:
            await eventually(lambda: "mpx:group:room" in subscriptions(redis_server), 30)
            await layer.group_send("room", {"type": "x"})
            first = await asyncio.to_thread(process.stdout.readline)
            outcome = await asyncio.to_thread(interrupt, process)
    assert re.fullmatch(r'\S+  room  \+\S+ ms  \d+ B  {"type": "x"}\n', first)
    assert (outcome.code, outcome.out) == (0, "")
    assert re.fullmatch(
        r"Listening to the group room\.\n1 message, \d+ B in .* s; lag .* ms, at most .* ms\n",
        outcome.err,
    )


async def test_reader_of_a_pipe_may_go_away(redis_server: RedisServer, tmp_path: Path) -> None:
    """``mpx tail | head -1`` ends at the next message, without a word."""
    project = Project(tmp_path, {"default": setting(redis_server.url)})
    async with open_layer(redis_server) as layer:
        with project.running("mpx", "tail", "room", "--group") as process:
            await eventually(lambda: "mpx:group:room" in subscriptions(redis_server), 30)
            process.stdout.close()
            await layer.group_send("room", {"type": "x"})
            assert await asyncio.to_thread(process.wait, 30) == 1
            assert process.stderr.read() == "Listening to the group room.\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_live_screen_on_a_terminal(
    redis_server: RedisServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """A real terminal gets pictures one over the other, and its cursor back in the end.

    Ctrl-C is how it is meant to end; SIGTERM has a status of its own.
    """
    project = Project(tmp_path, {"default": setting(redis_server.url)})
    master, slave = pty.openpty()
    words = ("mpx", "status", "--watch", "0.05")
    with project.running(*words, stdout=slave, stdin=slave) as process:
        os.close(slave)
        seen = ""
        while seen.count("Layer default") < 3:
            seen += os.read(master, 65536).decode()
        outcome = interrupt(process, number)
        with contextlib.suppress(OSError):  # the end of a terminal
            while chunk := os.read(master, 65536):
                seen += chunk.decode()
        os.close(master)
    assert seen.startswith("\x1b[?25l\x1b[2J")
    assert seen.endswith("\x1b[?25h")
    assert (outcome.code, outcome.err) == (code, "")


def test_full_disk_is_one_sentence_of_a_process(redis_server: RedisServer, tmp_path: Path) -> None:
    """Also at exit, when Python flushes what it could not write."""
    project = Project(tmp_path, {"default": setting(redis_server.url)})
    with open("/dev/full", "w") as full, project.running("mpx", "status", stdout=full) as process:
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (
        1,
        "CommandError: The output cannot be written: No space left on device.\n",
    )


async def test_warnings_of_the_connection_are_not_told_twice(tmp_path: Path) -> None:
    """Without logging configured, a dead server is the command's sentence and nothing else."""
    hosts = f"redis://127.0.0.1:{free_port()}"
    project = Project(tmp_path, {"default": setting(hosts, timeout=0.2)})
    outcome = await asyncio.to_thread(project.manage, "mpx", "status")
    assert outcome.code == 1
    assert outcome.err.startswith("CommandError: No link to Redis at ")
    assert outcome.err.count("\n") == 1


def test_settings_errors_of_another_layer_do_not_matter(tmp_path: Path) -> None:
    """The system checks do not stand in the way: only the layer that was asked for counts."""
    layers = {"default": setting("memory://"), "other": setting("nonsense")}
    project = Project(tmp_path, layers)
    assert project.manage("mpx", "ping", "--count", "1").code == 0
    assert project.manage("mpx", "ping", "--layer", "other").code == 1
    outcome = project.manage("check")
    assert outcome.code == 1
    assert "(channels_mpx.E004) hosts[0]: the URL has no scheme" in outcome.err


def test_usage_error_of_a_process(tmp_path: Path) -> None:
    """argparse's own code, 2, and the usage of that subcommand."""
    outcome = Project(tmp_path, {}).manage("mpx", "ping", "--cuont", "3")
    assert outcome.code == 2
    assert outcome.err.startswith("usage: manage.py mpx")
