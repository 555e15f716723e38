"""``collector export``: an incident as one file, to be sent."""

from __future__ import annotations

import os

import click
import msgspec

from collector.archive.export import export
from collector.archive.read import Archive
from collector.cli.options import archive_option, archive_path, config_option, json_option
from collector.cli.text import size


@click.command("export")
@click.argument("incident", metavar="ID")
@click.option("-o", "--output", metavar="FILE.tar.zst", required=True, help="A new file.")
@archive_option
@config_option
@json_option
def export_command(*, incident: str, output: str, archive: str | None, config: str | None, as_json: bool) -> int:
    """
    Write an incident to FILE.tar.zst. ID may be the start of an id, or `latest`.

    It holds what the processes had in memory: treat it like their data.
    """
    with Archive(archive_path(config, archive)) as opened:
        known = opened.resolve(incident)
        written = export(opened, known, os.path.abspath(output))
    if as_json:
        click.echo(msgspec.json.encode({"incident": known, "path": os.path.abspath(output), "size_bytes": written}))
    else:
        click.echo(f"{known}: {size(written)} in {output}")
    return 0
