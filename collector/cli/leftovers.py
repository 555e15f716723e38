"""The archive before a run by hand: may it be made, and what has a killed run left behind in it."""

from __future__ import annotations

import os

import click

from collector.archive.read import UNFINISHED, ArchiveReader
from collector.cli.text import escape_control
from collector.daemon.requests import AS_ROOT
from collector.host.filesystem import nearest_directory
from collector.model.errors import ArchiveError, DeniedError
from collector.runner.coroutine import Task
from collector.runner.housekeeping import recover
from collector.runner.pool import Pool


def check_may_make(path: str) -> None:
    """
    Refuse to begin where this user may not make the archive: a worker would say so too, but not who may.

    Raises:
        DeniedError: If nothing is at *path*, and the directory above is not this user's to write.
    """
    if os.path.lexists(path):
        return
    above = nearest_directory(os.path.dirname(path))
    if os.geteuid() != 0 and not os.access(above, os.W_OK | os.X_OK):
        raise DeniedError(f"cannot make the archive {path}: this user may not write to {above}", hint=AS_ROOT)


def unfinished(path: str) -> list[str]:
    """
    Return the ids of the incidents in the archive at *path* that nobody works on and nobody has sealed.

    Raises:
        DeniedError: If this user may not read it.
    """
    try:
        opened = ArchiveReader(path)
    except ArchiveError:
        return []  # there is none yet; what else is wrong is told by whoever writes to it
    with opened:
        return [incident for incident in opened.unfinished() if _is_left(opened, incident)]


def _is_left(archive: ArchiveReader, incident: str) -> bool:
    try:
        return archive.under_way(incident).state == UNFINISHED
    except ArchiveError:
        return incident in archive.unfinished()  # unreadable, if it was not just sealed


def seal_left(pool: Pool, archive: str) -> Task[None]:
    """Seal them, and say so; no time is spent on waiting for those that are still held."""
    done = yield from recover(pool, archive, wait_s=0.0)
    for incident in done.sealed:
        click.echo(f"sealed {incident}, which a killed run had left unfinished", err=True)
    if done.reason:
        click.echo(f"collector: {escape_control(done.reason)}", err=True)
