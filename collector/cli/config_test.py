"""``collector config test``: whether the crashes in a file would be collected as it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from collector.cli.crash_tests import Tried, read_tests, try_crash
from collector.cli.options import config_option, json_option
from collector.cli.text import printable_line
from collector.config.load import find
from collector.pipeline.compile import prepare
from collector.triggers.registry import TRIGGERS

NOT_AS_EXPECTED = 3


@click.command("test")
@click.argument("file")
@config_option
@json_option
def test_command(*, file: str, config: str | None, as_json: bool) -> int:
    """
    Try the crashes in FILE on the configuration: who notices them, and which steps run.

    Nothing of this machine is looked at. Exit status 3 if one is not as it is expected there.
    docs/testing-the-configuration.md has the format.
    """
    plan = prepare(find(config), TRIGGERS)
    results = [try_crash(test, mark, plan) for test, mark in read_tests(file, plan)]
    failed = sum(bool(tried.problems) for tried in results)
    if as_json:
        document = {"ok": not failed, "config": plan.loaded.source, "crashes": list(map(_as_dict, results))}
        click.echo(json.dumps(document, indent=2))
    else:
        for tried in results:
            for line in _lines(tried):
                click.echo(printable_line(line))
        click.echo(f"{len(results)} tried, {failed or 'none'} not as expected")
    return NOT_AS_EXPECTED if failed else 0


def _lines(tried: Tried) -> Iterator[str]:
    """Yield one line for a crash that is as expected, else what differs, and what would run."""
    if not tried.problems:
        yield f"ok      {tried.test.name}: {_outcome(tried)}"
        return
    yield f"FAILED  {tried.test.name} ({tried.mark})"
    yield from (f"        {problem}" for problem in tried.problems)
    yield f"        what happens: {_outcome(tried)}"


def _outcome(tried: Tried) -> str:
    if tried.unseen is not None:
        return "not noticed"
    return f"{tried.pipeline}: {', '.join(tried.steps) or 'no step'}"


def _as_dict(tried: Tried) -> dict[str, Any]:
    return {
        "name": tried.test.name,
        "ok": not tried.problems,
        "file": tried.mark.file,
        "line": tried.mark.line,
        "unseen": tried.unseen,
        "pipeline": tried.pipeline,
        "steps": tried.steps,
        "left_out": tried.left_out,
        "problems": tried.problems,
    }
