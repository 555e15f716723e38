"""``collector help``: the same as ``--help``, for those who write it in front."""

from __future__ import annotations

import click

from collector.cli.completion import complete_verbs
from collector.cli.verbs import Verbs


@click.command("help")
@click.argument("verbs", metavar="[COMMAND]...", nargs=-1, shell_complete=complete_verbs)
@click.pass_context
def help_command(ctx: click.Context, *, verbs: tuple[str, ...]) -> int:
    """Explain a command, such as `collector help config check`."""
    here = ctx.find_root()
    for verb in verbs:
        if not isinstance(here.command, Verbs):
            break
        _, command, _ = here.command.resolve_command(here, [verb])
        if command is None:
            break
        here = click.Context(command, info_name=verb, parent=here)
    click.echo(here.get_help())
    return 0
