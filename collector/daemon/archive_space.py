"""How much of the archive's disk is free."""

from __future__ import annotations

import os
from typing import NamedTuple

from collector.pipeline.generation import Generation


class ArchiveSpace(NamedTuple):
    """What is free, without what the file system keeps for root, and how much of it ``archive.reserve`` keeps free."""

    free_bytes: int
    reserve_bytes: int


def archive_space(generation: Generation) -> ArchiveSpace | None:
    """Return the space on the file system of the archive; ``None`` if it cannot be told."""
    try:
        disk = os.statvfs(generation.settings.archive)
    except OSError:
        return None
    reserve_bytes = generation.settings.reserve.bytes_of(disk.f_blocks * disk.f_frsize)
    return ArchiveSpace(disk.f_bavail * disk.f_frsize, reserve_bytes)
