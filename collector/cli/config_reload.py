"""``collector config reload``: asked of the daemon."""

from __future__ import annotations

import json

import click

from collector.cli.options import config_option, json_option
from collector.config.load import find
from collector.daemon.messages import ReloadRequest, Reply
from collector.daemon.requests import ask, connected, runtime_directory
from collector.model.errors import UnreachableError


@click.command("reload")
@config_option
@json_option
def reload_command(*, config: str | None, as_json: bool) -> int:
    """Make the daemon reload its configuration. A bad one is refused, and the old one stays in force."""
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
