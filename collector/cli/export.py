"""``collector export``: an incident as one file."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import click
import msgspec
from msgspec.structs import replace

from collector.archive.dropping import DroppingWriter
from collector.archive.export import created, export, standard_output
from collector.archive.read import ArchiveReader
from collector.cli.completion import complete_ids, complete_incident_steps
from collector.cli.options import archive_options, archive_path
from collector.cli.signals import interruptible
from collector.cli.text import counted, escape_name, size
from collector.model.errors import UsageError
from collector.report.bundle import members_of, wanted_steps
from collector.report.page import page
from collector.report.screen import screen
from collector.report.telling import tell

SUFFIX = ".tar.zst"
STDOUT = "-"
INCOMPLETE = 3
SHOWN = 20


@click.command("export")
@click.argument("incident", metavar="ID", shell_complete=complete_ids)
@click.option(
    "-o",
    "--output",
    metavar="FILE.tar.zst",
    required=True,
    help="The file to create; must not exist. `-` is standard output.",
)
@click.option(
    "--only",
    metavar="STEP",
    multiple=True,
    shell_complete=complete_incident_steps,
    help="Only this step (id or collector); may be repeated.",
)
@click.option(
    "--without",
    metavar="STEP",
    multiple=True,
    shell_complete=complete_incident_steps,
    help="Without this step (id or collector); may be repeated.",
)
@archive_options
def export_command(
    *,
    incident: str,
    output: str,
    only: tuple[str, ...],
    without: tuple[str, ...],
    archive: str | None,
    config: str | None,
    as_json: bool,
) -> int:
    """
    Write an incident to FILE.tar.zst. ID may be the start or the end of an id, or `latest`.

    Its README is for people who do not have this program. The file holds what was in the processes' memory:
    protect it like their data. Exit status 3 if an artifact of the manifest is missing or has a different length.
    """
    _check_output(output, as_json=as_json)
    path = output if output == STDOUT else os.path.abspath(output)
    with ArchiveReader(archive_path(config, archive)) as opened:
        known = opened.resolve(incident)
        manifest = opened.manifest(known)
        wanted = wanted_steps(manifest, only, without)
        left_out = {step.id for step in manifest.steps} - wanted
        story = tell(opened, known, left_out=left_out)
        lines = [str(line).rstrip() for line in screen(replace(story, next=()))]  # who reads it has no collector

        def report(names: Mapping[str, str]) -> str:
            return "".join(page(opened, story, left_out=left_out, names=names))

        members = members_of(opened, manifest, wanted, screen=lines, page=report)
        target = standard_output() if output == STDOUT else created(path)
        left = "what was written is not complete" if output == STDOUT else "the unfinished export was removed"
        with interruptible(left) as check, target as fd:
            writer = DroppingWriter(fd, "standard output" if output == STDOUT else path, check)
            there = export(opened, known, members, writer, check=check)
    lengths = {one.path: one.size_bytes for step in manifest.steps if step.id in wanted for one in step.artifacts}
    missing = sorted(artifact for artifact, length in lengths.items() if there.get(artifact) != length)
    for artifact in missing[:SHOWN]:
        click.echo(f"collector: missing, or of a different length: {escape_name(artifact)}", err=True)
    if missing:
        click.echo(f"collector: {counted(len(missing), 'artifact')} changed: see `collector verify {known}`", err=True)
    if as_json:
        result = {"incident": known, "path": path, "size_bytes": writer.size_bytes, "missing": missing}
        click.echo(msgspec.json.encode(result))
    else:
        click.echo(f"{known}: {size(writer.size_bytes)} in {escape_name(output)}", err=output == STDOUT)
    return INCOMPLETE if missing else 0


def _check_output(output: str, *, as_json: bool) -> None:
    """Raise `UsageError` if *output* is a terminal, or wanted for something else."""
    if output == STDOUT:
        if as_json:
            raise UsageError("-o - and --json both want standard output", hint="name a file")
        if sys.stdout.isatty():
            raise UsageError("standard output is a terminal", hint="name a file, or say `| tar --zstd -t`")
    elif not output.endswith(SUFFIX):
        click.echo(f"note: {escape_name(output)} will be a Zstandard-compressed tar archive ({SUFFIX})", err=True)
