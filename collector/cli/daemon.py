"""``collector daemon``: the program that systemd starts."""

from __future__ import annotations

import click

from collector.cli.options import archive_option, config_option
from collector.daemon import journal
from collector.daemon.supervisor import Supervisor


@click.command("daemon")
@archive_option
@config_option
@click.option("--verbose", is_flag=True, help="Also log the start of each step.")
def daemon_command(*, archive: str | None, config: str | None, verbose: bool) -> int:
    """Watch for crashes and collect. Runs in the foreground and logs to standard error."""
    journal.configure(verbose=verbose)
    try:
        Supervisor(config, archive).run()
    except Exception as exc:
        journal.log_failure(exc)
        raise
    return 0
