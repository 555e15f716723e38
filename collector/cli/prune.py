"""``collector prune``: apply retention now."""

from __future__ import annotations

import time

import click
import msgspec

from collector.archive.prune import prune
from collector.archive.read import Archive
from collector.cli.options import archive_option, archive_path, config_option, json_option
from collector.config.load import find, load
from collector.pipeline.generation import retention


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Say what would go; delete nothing.")
@archive_option
@config_option
@json_option
def prune_command(*, dry_run: bool, archive: str | None, config: str | None, as_json: bool) -> int:
    """Delete the incidents that archive.keep does not keep, oldest first; the newest always stays."""
    rules = retention(load(find(config)).config)
    with Archive(archive_path(config, archive)) as opened:
        gone = prune(opened, rules, now_s=time.time(), dry_run=dry_run)
    if as_json:
        click.echo(msgspec.json.encode({"dry_run": dry_run, "incidents": gone}))
    for incident in () if as_json else gone:
        click.echo(f"{'would delete' if dry_run else 'deleted'} {incident}")
    return 0
