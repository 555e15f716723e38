"""``collector config``: what the file says, what is wrong with it, and what it would do."""

from __future__ import annotations

import click

from collector.cli.verbs import Verbs, config_option

CONFIG_VERBS = {
    "check": "collector.cli.config_check:check_command",
    "test": "collector.cli.config_test:test_command",
    "show": "collector.cli.config_show:show_command",
    "explain": "collector.cli.config_explain:explain_command",
    "schema": "collector.cli.config_schema:schema_command",
    "reload": "collector.cli.config_reload:reload_command",
}


@click.group("config", cls=Verbs, verbs=CONFIG_VERBS)
@config_option
def config_group(*, config: str | None) -> None:
    """Check, show and explain the configuration."""
