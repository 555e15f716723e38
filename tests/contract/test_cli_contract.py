"""Every verb of the command line, by walking click's tree: explained, documented, and tested."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tested import words_of_files, words_of_tests

from collector.cli.config import CONFIG_VERBS
from collector.cli.main import VERBS, cli

ROOT = Path(__file__).parents[2]
FILES = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__))
TESTS, SHARED = words_of_tests(FILES), words_of_files(FILES)
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
SYNOPSIS = OPERATIONS.partition("## Commands")[2].partition("```\n")[2].partition("```")[0]
EVERYWHERE = {"--help", "--version"}


def commands(group: click.Group, *above: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)
        else:
            yield " ".join((*above, name)), command


COMMANDS = dict(commands(cli))
OPTIONS = [
    (name, option)
    for name, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option) and not EVERYWHERE & set(option.opts)
]


def test_cli_commands_are_those_that_can_be_called() -> None:
    """A file with a command that is not in the list of verbs would never be found."""
    files = {path.stem for path in (ROOT / "collector/cli").glob("*.py") if "@click.command" in path.read_text()}
    targets = (*VERBS.values(), *CONFIG_VERBS.values())
    assert files == {target.partition(":")[0].rpartition(".")[2] for target in targets} - {"config"}


@pytest.mark.parametrize("name", COMMANDS)
def test_cli_command_is_explained_documented_and_tested(name: str) -> None:
    """By its help, a line in docs/operations.md, and a test that names it."""
    assert COMMANDS[name].help
    assert re.search(rf"^collector {name}( |$)", SYNOPSIS, re.MULTILINE)
    assert any(set(name.split()) <= words for words in TESTS)


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=lambda part: getattr(part, "name", part))
def test_cli_option_is_explained_documented_and_tested(name: str, option: click.Option) -> None:
    """By its help, the command's line in docs/operations.md, and a file of tests that names both."""
    assert option.help
    line = next((line for line in SYNOPSIS.splitlines() if line.startswith(f"collector {name} ")), "")
    assert line, f"docs/operations.md has no line for `collector {name}`"
    assert set(re.findall(r"[-\w]+", line)) & set(option.opts)
    assert any({*name.split(), spelling} <= words for words in SHARED for spelling in option.opts)
