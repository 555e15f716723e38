"""``collector config reload``: asked of the daemon."""

from __future__ import annotations

import json

import click

from collector.cli.options import config_option, json_option
from collector.config.load import find
from collector.daemon.messages import ReloadRequest
from collector.daemon.requests import reply_to, runtime_directory


@click.command("reload")
@config_option
@json_option
def reload_command(*, config: str | None, as_json: bool) -> int:
    """Make the daemon reload its configuration. A bad one is refused, and the old one stays in force."""
    reply = reply_to(runtime_directory(find(config)), ReloadRequest())
    return _show_reply(reply.exit_code, reply.message, as_json=as_json)


def _show_reply(exit_code: int, message: str, *, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"ok": exit_code == 0, "message": message}, indent=2))
    elif exit_code:
        click.echo(message, err=True)
    else:
        click.echo("\n".join(["the new configuration is in force", *message.splitlines()]))
    return exit_code
