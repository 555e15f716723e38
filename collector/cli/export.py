"""``collector export``: an incident as one file, to be sent."""

from __future__ import annotations

import os

import click
import msgspec

from collector.archive.export import export
from collector.archive.read import ArchiveReader
from collector.cli.options import archive_option, archive_path, config_option, json_option
from collector.cli.signals import give_up, heeded
from collector.cli.text import escape_name, size

SUFFIX = ".tar.zst"
INCOMPLETE = 3
SHOWN = 20


@click.command("export")
@click.argument("incident", metavar="ID")
@click.option("-o", "--output", metavar="FILE.tar.zst", required=True, help="A new file.")
@archive_option
@config_option
@json_option
def export_command(*, incident: str, output: str, archive: str | None, config: str | None, as_json: bool) -> int:
    """
    Write an incident to FILE.tar.zst. ID may be the start of an id, or `latest`.

    It holds what the processes had in memory: treat it like their data. Exit status 3 if an artifact of
    the manifest is missing or has another length.
    """
    if not output.endswith(SUFFIX):
        click.echo(f"note: {escape_name(output)} will be a tar archive compressed with Zstandard: {SUFFIX}", err=True)
    path = os.path.abspath(output)
    with ArchiveReader(archive_path(config, archive)) as opened:
        known = opened.resolve(incident)
        with heeded(give_up):
            written = export(opened, known, path)
    missing = written.missing
    for artifact in missing[:SHOWN]:
        click.echo(f"collector: missing or of another length: {escape_name(artifact)}", err=True)
    if missing:
        click.echo(f"collector: {len(missing)} artifacts are not as archived: `collector verify {known}`", err=True)
    if as_json:
        document = {"incident": known, "path": path, "size_bytes": written.size_bytes, "missing": missing}
        click.echo(msgspec.json.encode(document))
    else:
        click.echo(f"{known}: {size(written.size_bytes)} in {output}")
    return INCOMPLETE if missing else 0
