"""``collector prune``: apply retention now."""

from __future__ import annotations

import click
import msgspec

from collector.archive.prune import prune
from collector.archive.read import ArchiveReader
from collector.archive.retention import holds_most
from collector.cli.options import archive_options, archive_path
from collector.cli.text import counted, escape_name, printable, size
from collector.config.load import find, load

FAILED = 73
OWNER_SHOWN = 80


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted; delete nothing.")
@archive_options
def prune_command(*, dry_run: bool, archive: str | None, config: str | None, as_json: bool) -> int:
    """
    Delete the incidents that exceed archive.keep.

    Of too many, the oldest of the user who holds most goes first; a quarter is for root and the configured units. The
    newest always stays. Age counts while the machine runs, whatever its date says.
    """
    settings = load(find(config)).config.archive
    with ArchiveReader(archive_path(config, archive)) as opened:
        gone, problems, found, _ = prune(opened, settings.keep, reserve=settings.reserve, dry_run=dry_run)
    freed = sum(kept.size_bytes for kept in gone)
    if as_json:
        document = {
            "dry_run": dry_run,
            "incidents": [kept.id for kept in gone],
            "sizes_bytes": {kept.id: kept.size_bytes for kept in gone},
            "owners": {kept.id: kept.owner for kept in gone},
            "size_bytes": freed,
            "problems": problems,
        }
        click.echo(msgspec.json.encode(document))
        return FAILED if problems else 0
    verb = "would delete" if dry_run else "deleted"
    for kept in gone:
        click.echo(f"{verb} {kept.id} {size(kept.size_bytes):>10}  {_shown(kept.owner)}")
    for problem in problems:
        click.echo(f"collector: {printable(problem)}", err=True)
    held = f"{counted(len(found), 'incident')}, {size(sum(kept.size_bytes for kept in found))}"
    most = f"; {_shown(holds_most(found))} holds most" if len({kept.owner for kept in found}) > 1 else ""
    if gone:
        click.echo(f"{verb} {len(gone)} of {held}: {size(freed)}{most}", err=True)
    elif not problems:
        click.echo(f"nothing to delete: all {held}, are within archive.keep{most}", err=True)
    return FAILED if problems else 0


def _shown(owner: str) -> str:
    return escape_name(owner[:OWNER_SHOWN])
