"""Deleting incidents: by directory descriptor, a symlink at no level followed."""

from __future__ import annotations

import contextlib
import os

from collector.archive import directory, layout
from collector.archive.read import Archive
from collector.archive.retention import Kept, to_delete
from collector.model.errors import ArchiveError
from collector.model.retention import RetentionRules

BATCH = 500
"""Deleted at a time: a worker's reply names them, and is bounded."""


def inventory(archive: Archive) -> list[Kept]:
    """Return every sealed incident with the bytes that it takes on disk; what is none, whatever its name, is left."""
    found = []
    for incident in archive.ids():
        try:
            with archive.incident(incident) as fd:
                # A core that is kept by a link takes nothing until its first name is gone, and frees nothing.
                size = sum(status.st_blocks * 512 for _, status in directory.files(fd) if status.st_nlink == 1)
                ended = os.fstat(fd).st_mtime
        except OSError:
            continue  # not a directory: the others are deleted all the same
        with contextlib.suppress(ArchiveError, OSError):  # an unreadable one ages by its directory
            ended = archive.manifest(incident).ended_s
        found.append(Kept(id=incident, ended_s=ended, size_bytes=size))
    return found


def prune(
    archive: Archive,
    rules: RetentionRules,
    *,
    now_s: float,
    need_bytes: int = 0,
    spare: str = "",
    dry_run: bool = False,
) -> list[str]:
    """
    Delete what the rules do not keep, and what an earlier deletion left half-way.

    Returns:
        The ids deleted, the oldest `BATCH` at most, or those that would be in all if *dry_run*.
    """
    doomed = to_delete(inventory(archive), rules, now_s=now_s, need_bytes=need_bytes, spare=spare)
    if dry_run:
        return doomed
    doomed = doomed[:BATCH]
    for incident in doomed:
        # From here on no reader takes what is left of it for an incident.
        os.rename(incident, incident + layout.DELETING, src_dir_fd=archive.fd, dst_dir_fd=archive.fd)
    for name in sorted(os.listdir(archive.fd)):
        if name.endswith(layout.DELETING):
            directory.remove_tree(name, archive.fd)
    return doomed
