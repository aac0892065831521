"""The page of ``manage.py mpx``: its options, and the rights of an operator."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from channels_mpx import checks
from channels_mpx.checks import check_servers
from channels_mpx.management.commands.mpx import COMMON, DJANGOS_OWN, SUBCOMMANDS, Command
from tests.django.mpx import OPERATOR, Manager, operator, setting
from tests.helpers import eventually
from tests.integration.test_connection import redis_denials
from tests.servers import RedisServer

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
ACL = Path(__file__).parents[2] / "docs" / "examples" / "acl-operator.txt"


# The rights of an operator


async def operate(manager: Manager, server: RedisServer) -> None:
    """Use everything that the commands and the checks ask of Redis."""
    harness = {"username": "harness", "password": "harness"}
    with redis.Redis(port=server.port, **harness) as client, client.pubsub() as pubsub:
        pubsub.subscribe("mpx:group:room")  # a group whose processes can be counted
        assert pubsub.get_message(timeout=5)
        await manager("status")
    await manager("ping", "--count", "1", "--timeout", "0.1")
    await manager("tail", "--timeout", "0.01")
    await manager("tail", "room", "--group", "--timeout", "0.01")
    server.command("RPUSH", "mpx:queue:work", "0000000000001 is long ago")
    for _ in range(2):
        await manager("publish", "work", '{"type": "x"}', "--channel")
    await manager("purge", "--all", "--no-input")
    await asyncio.to_thread(check_servers)


async def test_operator_may_do_all_of_it(make_redis: Callable[..., RedisServer]) -> None:
    """With the documented rights nothing is denied, and nothing is missing."""
    server = make_redis(users=[operator()])
    with Manager({"default": setting(server.url_for("operator", "pw"))}) as manager:
        await operate(manager, server)
        assert (await manager("status", "--json")).document["notes"] == []
    assert redis_denials(server) == []


@pytest.mark.parametrize("command", OPERATOR.split())
async def test_operator_needs_all_of_it(
    make_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Without any one of the documented commands Redis has something to deny."""
    monkeypatch.setattr(checks, "PATIENCE", 0.3)
    rights = " ".join(word for word in OPERATOR.split() if word != command)
    server = make_redis(users=[operator(rights)])
    layers = {"default": setting(server.url_for("operator", "pw"), timeout=0.3)}
    with Manager(layers) as manager:
        await operate(manager, server)
        await eventually(lambda: redis_denials(server))


# Documentation


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each subcommand."""
    parser = Command().create_parser("manage.py", "mpx")
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def sections() -> dict[str, str]:
    """Return the text of the page below each heading."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented(section: str) -> set[str]:
    """Return the options in the first column of a section's table."""
    cells = re.findall(r"^\| (`--.+?`) \|", section, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"--[\w-]+", cell)}


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return the long options that a parser shows."""
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    return {name for action in shown for name in action.option_strings if name[1] == "-"}


def test_page_has_every_subcommand() -> None:
    """A section for each and for nothing else, and a row in the first table."""
    names = [heading.strip("`") for heading in sections() if heading.startswith("`")]
    assert names == list(SUBCOMMANDS) == list(parsers())
    assert re.findall(r"^\| \[`(\w+)`\]\(#\1\) \|", PAGE.read_text(), re.MULTILINE) == names


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_page_has_every_option(name: str) -> None:
    """Those of each subcommand in its section, those of all of them in theirs."""
    common = documented(sections()["Common to all"])
    djangos = {word for words in DJANGOS_OWN for word in words if word.startswith("--")}
    assert documented(sections()[f"`{name}`"]) | common | djangos | {"--help"} == options(
        parsers()[name]
    )


def test_djangos_own_options_are_all_taken_behind_the_subcommand() -> None:
    """None of them is forgotten, whatever Django adds."""
    main = options(Command().create_parser("manage.py", "mpx"))
    djangos = {word for words in DJANGOS_OWN for word in words if word.startswith("--")}
    common = documented(sections()["Common to all"])
    assert main - {"--help", "--version"} == djangos | common
    assert common == {name for names in COMMON for name in names}


def test_acl_file_has_the_rights() -> None:
    """What the documentation gives operators is what was tested."""
    rules = ACL.read_text().split()
    assert {rule for rule in rules if rule.startswith("+")} == set(OPERATOR.split())
    assert set(operator().split()) - set(OPERATOR.split()) - {">pw"} == set(rules[2:]) - set(
        OPERATOR.split()
    ) - {">secret"}
