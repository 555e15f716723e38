"""Deleting incidents, by directory descriptor: symlinks are not followed at any level."""

from __future__ import annotations

import os

from collector.archive import clock, directory, layout
from collector.archive.read import ArchiveReader
from collector.archive.retention import Kept, to_delete
from collector.model.retention import RetentionRules

BATCH = 500
"""Most incidents deleted at a time: a worker's reply lists them, and its length is limited."""


def inventory(archive: ArchiveReader) -> list[Kept]:
    """Return every sealed incident that is a directory, with the bytes that it takes on disk."""
    found = []
    now_s = clock.read(archive.fd).clock_s
    for incident in archive.names():
        try:
            with archive.incident(incident) as fd:
                # A hard-linked core frees nothing until its original name is gone.
                size = sum(status.st_blocks * 512 for _, status in directory.files(fd) if status.st_nlink == 1)
                stamp = clock.stamp_of(fd)
        except OSError:
            continue  # not a directory
        age_s = None if stamp.archive_clock_s is None else now_s - stamp.archive_clock_s
        found.append(Kept(id=incident, number=stamp.number, age_s=age_s, size_bytes=size))
    return found


def prune(
    archive: ArchiveReader, rules: RetentionRules, *, need_bytes: int = 0, spare: str = "", dry_run: bool = False
) -> list[str]:
    """
    Delete what the rules do not keep, and finish deletions that were cut short.

    Return the ids deleted, at most the oldest `BATCH`; with *dry_run* all that would be deleted in the end.
    """
    found = inventory(archive)
    doomed = to_delete(found, rules, need_bytes=need_bytes, spare=spare)
    if dry_run:
        return doomed
    clock.advance(archive.fd, seen=max((kept.number for kept in found), default=0))
    doomed = doomed[:BATCH]
    for incident in doomed:
        # From here on, no reader takes the remains for an incident.
        os.rename(incident, incident + layout.DELETING, src_dir_fd=archive.fd, dst_dir_fd=archive.fd)
    for name in sorted(os.listdir(archive.fd)):
        if name.endswith(layout.DELETING):
            directory.remove_tree(name, archive.fd)
    return doomed
