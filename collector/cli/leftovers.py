"""The archive before a manual run: whether it can be created, and what a killed run left in it."""

from __future__ import annotations

import contextlib
import os

import click

from collector.archive.ledger_reader import LedgerReader
from collector.archive.read import UNFINISHED, ArchiveReader
from collector.cli.text import printable
from collector.daemon.requests import AS_ROOT
from collector.host.filesystem import nearest_directory
from collector.model.errors import ArchiveError, DeniedError
from collector.runner.coroutine import Task
from collector.runner.housekeeping import recover
from collector.runner.pool import Pool


def check_can_create(path: str) -> None:
    """
    Check that this user can create the archive; a worker's error would come later and not say who can.

    Raises:
        DeniedError: If nothing is at *path*, and this user cannot write to the directory above it.
    """
    if os.path.lexists(path):
        return
    above = nearest_directory(os.path.dirname(path))
    if os.geteuid() != 0 and not os.access(above, os.W_OK | os.X_OK):
        raise DeniedError(f"cannot create the archive {path}: this user cannot write to {above}", hint=AS_ROOT)


def unfinished(path: str) -> list[str]:
    """
    Return the ids of the incidents in the archive at *path* that are neither in progress nor sealed.

    Raises:
        DeniedError: If this user cannot read it.
    """
    try:
        opened = ArchiveReader(path)
    except ArchiveError:
        return []  # not created yet; any other fault is reported when it is written to
    with opened:
        return [incident for incident in opened.unfinished() if _is_left(opened, incident)]


def _of_daemon(archive: str) -> set[str]:
    """Return the incidents that the daemon has begun and not ended, as its ledger says."""
    with contextlib.suppress(ArchiveError), ArchiveReader(archive) as opened, LedgerReader(opened) as ledger:
        return ledger.incidents_under_way()
    return set()


def _is_left(archive: ArchiveReader, incident: str) -> bool:
    try:
        return archive.under_way(incident).state == UNFINISHED
    except ArchiveError:
        return incident in archive.unfinished()  # unreadable, unless it has just been sealed


def seal_left(pool: Pool, archive: str) -> Task[None]:
    """
    Seal unfinished incidents and print their ids.

    Those that another process holds are left alone, and those of the daemon: its next start goes on with them.
    """
    theirs = _of_daemon(archive)
    done = yield from recover(pool, archive, wait_s=0.0, spare=theirs)
    for incident in sorted(theirs & {*unfinished(archive)}):
        click.echo(f"{incident} is unfinished: the next start of the daemon goes on with it", err=True)
    for incident in done.sealed:
        click.echo(f"sealed {incident}, which a killed run left unfinished", err=True)
    if done.reason:
        click.echo(f"collector: {printable(done.reason)}", err=True)
