"""The command `collector`: its verbs, and the one place where errors become exit statuses."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from collector import __version__
from collector.model.errors import CollectorError

# Imported only when asked for: `collector notify` runs at crash time and must start small.
VERBS = {
    "run": "collector.cli.run:run_command",
    "daemon": "collector.cli.daemon:daemon_command",
    "config": "collector.cli.config:config_group",
    "copy": "collector.cli.copy:copy_command",
    "list": "collector.cli.incidents:list_command",
    "show": "collector.cli.incidents:show_command",
    "export": "collector.cli.export:export_command",
    "prune": "collector.cli.prune:prune_command",
    "verify": "collector.cli.verify:verify_command",
    "status": "collector.cli.status:status_command",
    "doctor": "collector.cli.doctor:doctor_command",
    "notify": "collector.cli.notify:notify_command",
}


class Verbs(click.Group):
    """A group that imports a verb's module when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click
        """Return the verbs in the order in which people meet them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click
        """Import and return a verb."""
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="collector")
def cli() -> None:
    """Collect the evidence of a crash without making the machine worse."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; every error on purpose is one line, a hint, and its exit status."""
    sys.exit(_run(args))


def _run(args: list[str] | None) -> int:
    try:
        result: Any = cli.main(args=args, prog_name="collector", standalone_mode=False)
    except CollectorError as exc:
        from collector.cli.text import escape_lines  # noqa: PLC0415 - what only an error needs

        click.echo(f"collector: {escape_lines(str(exc))}", err=True)
        if exc.hint:
            click.echo(f"  hint: {escape_lines(exc.hint)}", err=True)
        return exc.exit_code
    except PermissionError as exc:
        click.echo(f"collector: {exc}", err=True)
        return 77
    except click.ClickException as exc:
        exc.show()
        return 64
    except click.Abort:
        return 130
    return result if isinstance(result, int) else 0

if __name__ == "__main__":
    main()
