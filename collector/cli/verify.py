"""``collector verify``: read incidents back from the disk and compare them with their manifests."""

from __future__ import annotations

import click
import msgspec

from collector.archive.digests import ArtifactCheck, verify
from collector.archive.read import ArchiveReader
from collector.cli.completion import complete_ids
from collector.cli.options import archive_options, archive_path
from collector.cli.text import counted, printable
from collector.config.load import find, load_lenient
from collector.copying import buffers, hashing
from collector.model.errors import ArchiveError


@click.command("verify")
@click.argument("incidents", metavar="[ID]...", nargs=-1, shell_complete=complete_ids)
@archive_options
def verify_command(*, incidents: tuple[str, ...], archive: str | None, config: str | None, as_json: bool) -> int:
    """
    Compare incidents with their manifests.

    Artifacts are read back from the disk, bypassing the page cache; lengths and digests must match. Without
    ID, all incidents are verified. Exit status 73 if one differs from what was archived.
    """
    rate = load_lenient(find(config)).copy.rate
    buffers.warm()

    def digest_of(fd: int, kind: str) -> str:
        return hashing.digest_again(fd, kind, rate=rate)

    found: dict[str, list[ArtifactCheck]] = {}
    unreadable: dict[str, str] = {}
    with ArchiveReader(archive_path(config, archive)) as opened:
        for incident in [opened.resolve(text) for text in incidents] or opened.ids():
            try:
                found[incident] = list(verify(opened, incident, digest_of))
            except ArchiveError as exc:
                unreadable[incident] = str(exc)
            except OSError as exc:
                unreadable[incident] = f"the manifest cannot be read: {exc.strerror}"
            if not as_json:
                _show(incident, found.get(incident, []), unreadable.get(incident))
    bad = bool(unreadable) or any(finding.problem for findings in found.values() for finding in findings)
    if as_json:
        click.echo(msgspec.json.encode({"ok": not bad, "incidents": found, "unreadable": unreadable}))
    return 73 if bad else 0


def _show(incident: str, findings: list[ArtifactCheck], unreadable: str | None) -> None:
    if unreadable:
        click.echo(f"{incident}  BAD  {printable(unreadable)}")
        return
    problems = [printable(f"{finding.path} {finding.problem}") for finding in findings if finding.problem]
    checked = sum(finding.checked for finding in findings)
    undigested = sum(not finding.checked and not finding.problem for finding in findings)
    if problems:
        click.echo(f"{incident}  BAD  {len(problems)} of {len(findings)} artifacts differ")
    else:
        without = f", {undigested} without a digest" if undigested else ""
        click.echo(f"{incident}  ok  {counted(checked, 'artifact')} as archived{without}")
    for problem in problems:
        click.echo(f"  {problem}")
