"""``collector prune``: apply retention now."""

from __future__ import annotations

import click
import msgspec

from collector.archive.prune import inventory, prune
from collector.archive.read import ArchiveReader
from collector.cli.options import archive_options, archive_path
from collector.cli.text import size
from collector.config.load import find, load


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted; delete nothing.")
@archive_options
def prune_command(*, dry_run: bool, archive: str | None, config: str | None, as_json: bool) -> int:
    """
    Delete the incidents that exceed archive.keep.

    The oldest go first; the newest always stays. Age counts while the machine runs, whatever its date says.
    """
    rules = load(find(config)).config.archive.keep
    with ArchiveReader(archive_path(config, archive)) as opened:
        sizes = {kept.id: kept.size_bytes for kept in inventory(opened)}
        gone = prune(opened, rules, dry_run=dry_run)
    freed = {incident: sizes.get(incident, 0) for incident in gone}
    if as_json:
        document = {"dry_run": dry_run, "incidents": gone, "sizes_bytes": freed, "size_bytes": sum(freed.values())}
        click.echo(msgspec.json.encode(document))
        return 0
    verb = "would delete" if dry_run else "deleted"
    for incident, size_bytes in freed.items():
        click.echo(f"{verb} {incident} {size(size_bytes):>10}")
    if gone:
        click.echo(f"{verb} {len(gone)} of {len(sizes)} incidents, {size(sum(freed.values()))}", err=True)
    else:
        kept = f"{len(sizes)} incidents, {size(sum(sizes.values()))}"
        click.echo(f"nothing to delete: all {kept}, are within archive.keep", err=True)
    return 0
