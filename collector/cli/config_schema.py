"""``collector config schema``: for editors."""

from __future__ import annotations

import json

import click

from collector.collectors.registry import COLLECTORS
from collector.config.schema import schema_of
from collector.triggers.registry import TRIGGERS


@click.command("schema")
def schema_command() -> int:
    """Print the JSON Schema of the file, for editors and checkers."""
    click.echo(json.dumps(schema_of(COLLECTORS, TRIGGERS), indent=2))
    return 0
