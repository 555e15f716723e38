"""``collector config check``: every mistake in the files, and what is harmful on this machine."""

from __future__ import annotations

import json
import os
from typing import Any

import click
import msgspec

from collector.cli.options import config_option, json_option
from collector.cli.text import printable_line
from collector.config.load import find, in_order
from collector.model.diagnostics import Diagnostic, Severity
from collector.model.errors import ConfigError, UsageError
from collector.pipeline.compile import prepare
from collector.pipeline.machine_facts import survey
from collector.pipeline.warnings import notes_of, warnings_of
from collector.triggers.registry import TRIGGERS


@click.command("check")
@click.argument("path", required=False)
@config_option
@click.option("--strict", is_flag=True, help="Treat warnings as errors, but not notes.")
@click.option("--no-environment", is_flag=True, help="Check only the files, nothing of this machine: for CI.")
@json_option
def check_command(*, path: str | None, config: str | None, strict: bool, no_environment: bool, as_json: bool) -> int:
    """
    Report every mistake with its line, and warn of what is legal but harmful. Exit status 78 if there is a mistake.

    Notes are about what is probably meant: a list that a drop-in replaces, a directory that does not exist yet.
    """
    if path is not None and config is not None and path != config:
        raise UsageError("PATH and --config name two files", hint="name one")
    try:
        plan = prepare(find(path or config), TRIGGERS)
    except ConfigError as exc:
        diagnostics, files = exc.diagnostics, None
    else:
        facts = None if no_environment else survey(plan, is_root=os.geteuid() == 0, environ=os.environ)
        files = plan.loaded.files
        diagnostics = in_order((*warnings_of(plan, facts), *notes_of(plan, facts)), files)
    fatal = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    bad = any(diagnostic.severity in fatal for diagnostic in diagnostics)
    if as_json:
        click.echo(json.dumps({"ok": not bad, "problems": list(map(_as_dict, diagnostics))}, indent=2))
        return ConfigError.exit_code if bad else 0
    for diagnostic in diagnostics:
        click.echo(printable_line(str(diagnostic)), err=True)
    if not bad:
        click.echo(f"{printable_line(', '.join(files or ()))}: ok")
    return ConfigError.exit_code if bad else 0


def _as_dict(diagnostic: Diagnostic) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(diagnostic)
    return {**fields.pop("mark"), **fields}
