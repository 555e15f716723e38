"""``collector config show``: what is in force."""

from __future__ import annotations

import json

import click

from collector.cli.options import config_option, json_option
from collector.cli.text import printable_line
from collector.config.load import find
from collector.pipeline.compile import prepare
from collector.pipeline.effective import as_yaml, effective, origins, values
from collector.triggers.registry import TRIGGERS


@click.command("show")
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
        click.echo(printable_line(line))
    return 0
