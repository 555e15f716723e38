"""``collector export``: an incident as one file."""

from __future__ import annotations

import os

import click
import msgspec

from collector.archive.export import export
from collector.archive.read import ArchiveReader
from collector.cli.options import archive_options, archive_path
from collector.cli.signals import interruptible
from collector.cli.text import escape_name, size

SUFFIX = ".tar.zst"
INCOMPLETE = 3
SHOWN = 20


@click.command("export")
@click.argument("incident", metavar="ID")
@click.option("-o", "--output", metavar="FILE.tar.zst", required=True, help="The file to create; must not exist.")
@archive_options
def export_command(*, incident: str, output: str, archive: str | None, config: str | None, as_json: bool) -> int:
    """
    Write an incident to FILE.tar.zst. ID may be the start or the end of an id, or `latest`.

    The file holds what was in the processes' memory: protect it like their data. Exit status 3 if an
    artifact of the manifest is missing or has a different length.
    """
    if not output.endswith(SUFFIX):
        click.echo(f"note: {escape_name(output)} will be a Zstandard-compressed tar archive ({SUFFIX})", err=True)
    path = os.path.abspath(output)
    with ArchiveReader(archive_path(config, archive)) as opened:
        known = opened.resolve(incident)
        with interruptible("export") as check:
            written = export(opened, known, path, check=check)
    missing = written.missing
    for artifact in missing[:SHOWN]:
        click.echo(f"collector: missing, or of a different length: {escape_name(artifact)}", err=True)
    if missing:
        click.echo(f"collector: {len(missing)} artifacts have changed: see `collector verify {known}`", err=True)
    if as_json:
        document = {"incident": known, "path": path, "size_bytes": written.size_bytes, "missing": missing}
        click.echo(msgspec.json.encode(document))
    else:
        click.echo(f"{known}: {size(written.size_bytes)} in {output}")
    return INCOMPLETE if missing else 0
