"""``collector config``: what the file says, what is wrong with it, and what it would do."""

from __future__ import annotations

import json
import os
from typing import Any

import click
import msgspec

from collector.cli.config_explain import explain_command
from collector.cli.options import config_option, json_option
from collector.cli.text import escape_name
from collector.collectors.registry import COLLECTORS
from collector.config.load import find
from collector.config.schema import schema_of
from collector.model.diagnostics import Diagnostic, Severity
from collector.model.errors import ConfigError, UnreachableError
from collector.pipeline.compile import prepare
from collector.pipeline.effective import as_yaml, effective, origins, values
from collector.pipeline.machine_facts import survey
from collector.pipeline.warnings import warnings_of
from collector.triggers.registry import TRIGGERS


@click.group("config")
def config_group() -> None:
    """Check, show and explain the configuration."""


@config_group.command("check")
@click.argument("path", required=False)
@config_option
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@json_option
def check_command(*, path: str | None, config: str | None, strict: bool, as_json: bool) -> int:
    """Report every mistake with its line. Warn of what is legal but harmful. Exit status 78 if it is bad."""
    try:
        plan = prepare(find(path or config), TRIGGERS)
    except ConfigError as exc:
        diagnostics, files = exc.diagnostics, None
    else:
        diagnostics = warnings_of(plan, survey(plan, is_root=os.geteuid() == 0, environ=os.environ))
        files = plan.loaded.files
    bad = any(strict or diagnostic.severity is Severity.ERROR for diagnostic in diagnostics)
    if as_json:
        click.echo(json.dumps({"ok": not bad, "problems": list(map(_as_dict, diagnostics))}, indent=2))
        return ConfigError.exit_code if bad else 0
    for diagnostic in diagnostics:
        click.echo(_printable(str(diagnostic)), err=True)
    if not bad:
        click.echo(f"{_printable(', '.join(files or ()))}: ok")
    return ConfigError.exit_code if bad else 0


def _printable(line: str) -> str:
    """Return *line*, escaped if it could affect the terminal."""
    return line if line.isprintable() else escape_name(line)


def _as_dict(diagnostic: Diagnostic) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(diagnostic)
    return {**fields.pop("mark"), **fields}


@config_group.command("show")
@config_option
@json_option
def show_command(*, config: str | None, as_json: bool) -> int:
    """Show what is in force, and where each value comes from."""
    plan = prepare(find(config), TRIGGERS)
    tree = effective(plan)
    if as_json:
        document = {"hash": plan.loaded.hash, "files": plan.loaded.files}
        click.echo(json.dumps(document | {"config": values(tree), "origins": dict(origins(tree))}, indent=2))
        return 0
    click.echo(f"# {', '.join(plan.loaded.files)}, hash {plan.loaded.hash}")
    for line in as_yaml(tree):
        click.echo(_printable(line))
    return 0


@config_group.command("schema")
def schema_command() -> int:
    """Print the JSON Schema of the file, for editors and checkers."""
    click.echo(json.dumps(schema_of(COLLECTORS, TRIGGERS), indent=2))
    return 0


@config_group.command("reload")
@config_option
@json_option
def reload_command(*, config: str | None, as_json: bool) -> int:
    """Make the daemon reload its configuration. A bad one is refused, and the old one stays in force."""
    # Imported here: they pull in the workers, which nothing else in this group needs.
    from collector.daemon.messages import ReloadRequest, Reply  # noqa: PLC0415
    from collector.daemon.requests import ask, connected, runtime_directory  # noqa: PLC0415

    with connected(runtime_directory(find(config))) as sock:
        for answer in ask(sock, ReloadRequest()):
            if isinstance(answer, Reply):
                return _show_reply(answer.exit_code, answer.message, as_json=as_json)
    raise UnreachableError("the daemon did not answer")


def _show_reply(exit_code: int, message: str, *, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"ok": exit_code == 0, "message": message}, indent=2))
    elif exit_code:
        click.echo(message, err=True)
    else:
        click.echo("\n".join(["the new configuration is in force", *message.splitlines()]))
    return exit_code


config_group.add_command(explain_command)
