"""``collector show --stacks``: the backtraces of an incident's core."""

from __future__ import annotations

import click
import msgspec

from collector.archive.read import ArchiveReader
from collector.model.errors import ArchiveError


def show_stacks(incident: str, archive: str, *, as_json: bool) -> int:
    """Print the threads of a sealed incident's core, the crashed one first; raise `ArchiveError` if there are none."""
    from collector.report.archived_core import archived_core  # noqa: PLC0415 - `list` and `show` start without
    from collector.report.backtraces import backtraces  # noqa: PLC0415
    from collector.report.trace_text import trace_lines  # noqa: PLC0415

    with ArchiveReader(archive) as opened:
        known = opened.resolve(incident)
        with archived_core(opened, known, opened.manifest(known)) as core:
            found = backtraces(core)
    if not found.threads:
        raise ArchiveError(f"incident {known} has no backtraces: {found.problem}")
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        click.echo("\n".join(trace_lines(found)))
    return 0
