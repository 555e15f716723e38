"""The list of incidents for somebody who may not read the archive: asked of the daemon."""

from __future__ import annotations

import os

import click

from collector.archive.summary import IncidentSummary
from collector.cli.text import escape_name
from collector.config.directories import effective_runtime_directory
from collector.config.load import find, load_lenient
from collector.daemon.messages import Summaries
from collector.daemon.requests import summaries_of
from collector.model.errors import DeniedError, UnreachableError


def told_summaries(config: str | None, archive: str | None) -> list[IncidentSummary | str] | None:
    """Return what the daemon tells members of `archive.group`; ``None`` to root, and to who may not ask it."""
    told = None if os.geteuid() == 0 or archive is not None else _told(config)
    if told is None:
        return None
    older = f", and {told.left_out} more" if told.left_out else ""
    click.echo(
        f"collector: the archive {escape_name(told.archive)} is root's: this is what the daemon tells members of"
        f" archive.group, without reasons{older}",
        err=True,
    )
    return list(told.incidents)


def _told(config: str | None) -> Summaries | None:
    """Return what root's daemon says; ``None`` if it is not there, or this user may not ask it."""
    known = load_lenient(find(config))
    try:
        return summaries_of(effective_runtime_directory(known, is_root=True, environ={}))
    except (DeniedError, UnreachableError):
        return None
