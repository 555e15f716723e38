"""``collector report``: an incident as one page."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import click

from collector.archive.directory import write_all
from collector.archive.dropping import writing
from collector.archive.new_file import new_file, refuse_existing
from collector.archive.read import ArchiveReader
from collector.cli.completion import complete_ids
from collector.cli.options import archive_option, archive_path, config_option
from collector.cli.signals import interruptible
from collector.cli.text import escape_name, size

STANDARD_OUTPUT = "-"
HOLDS = "what the incident says about its processes, secrets hidden as they are there; not the core, nor segments"


@click.command("report")
@click.argument("incident", metavar="ID", shell_complete=complete_ids)
@click.option(
    "-o",
    "--output",
    metavar="FILE.html",
    required=True,
    help="The file to create; - is standard output.",
)
@archive_option
@config_option
def report_command(*, incident: str, output: str, archive: str | None, config: str | None) -> int:
    """
    Write an incident as one HTML page. ID may be the start or the end of an id, or `latest`.

    The page has neither scripts nor anything that it loads: any browser shows it, without a network. It holds names,
    command lines and log lines of the processes: give it to whom you would give the incident.
    """
    from collector.report.page import page  # noqa: PLC0415 - the command line starts without templates
    from collector.report.telling import tell  # noqa: PLC0415

    to_file = output != STANDARD_OUTPUT
    if to_file:
        refuse_existing(output)  # now, not after the minute that the frames of a large core may take
    with ArchiveReader(archive_path(config, archive)) as opened:
        known = opened.resolve(incident)
        pieces = page(opened, tell(opened, known))
        if not to_file:
            for piece in pieces:
                sys.stdout.buffer.write(piece.encode())
            return 0
        with interruptible("page") as check:
            written = _write(os.path.abspath(output), pieces, check)
    click.echo(f"{known}: {size(written)} in {escape_name(output)}: {HOLDS}")
    return 0


def _write(path: str, pieces: Iterator[str], check: Callable[[], None]) -> int:
    """Write a new file and return its length; nothing is left behind if that fails."""
    with new_file(path) as out:
        for piece in pieces:
            check()
            with writing(path):
                write_all(out, piece.encode())
        return os.fstat(out).st_size
