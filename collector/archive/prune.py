"""Deleting incidents, by directory descriptor: symlinks are not followed at any level."""

from __future__ import annotations

import contextlib
import os

from collector.archive import directory, layout
from collector.archive.read import ArchiveReader
from collector.archive.retention import Kept, to_delete
from collector.model.errors import ArchiveError
from collector.model.retention import RetentionRules

BATCH = 500
"""Most incidents deleted at a time: a worker's reply lists them, and its length is limited."""


def inventory(archive: ArchiveReader) -> list[Kept]:
    """Return every sealed incident that is a directory, with the bytes that it takes on disk."""
    found = []
    for incident in archive.ids():
        try:
            with archive.incident(incident) as fd:
                # A hard-linked core frees nothing until its original name is gone.
                size = sum(status.st_blocks * 512 for _, status in directory.files(fd) if status.st_nlink == 1)
                ended = os.fstat(fd).st_mtime
        except OSError:
            continue  # not a directory
        with contextlib.suppress(ArchiveError, OSError):  # an unreadable one ages by its directory
            ended = archive.manifest(incident).ended_s
        found.append(Kept(id=incident, ended_s=ended, size_bytes=size))
    return found


def prune(
    archive: ArchiveReader,
    rules: RetentionRules,
    *,
    now_s: float,
    need_bytes: int = 0,
    spare: str = "",
    dry_run: bool = False,
) -> list[str]:
    """
    Delete what the rules do not keep, and finish deletions that were cut short.

    Return the ids deleted, at most the oldest `BATCH`; with *dry_run* all that would be deleted in the end.
    """
    doomed = to_delete(inventory(archive), rules, now_s=now_s, need_bytes=need_bytes, spare=spare)
    if dry_run:
        return doomed
    doomed = doomed[:BATCH]
    for incident in doomed:
        # From here on, no reader takes the remains for an incident.
        os.rename(incident, incident + layout.DELETING, src_dir_fd=archive.fd, dst_dir_fd=archive.fd)
    for name in sorted(os.listdir(archive.fd)):
        if name.endswith(layout.DELETING):
            directory.remove_tree(name, archive.fd)
    return doomed
