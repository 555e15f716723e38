"""A compressed core, unpacked into a file that has no name: whatever ends its last reader, it is gone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from collector.host.compressed_end import MAX_BEHIND_BYTES
from collector.host.corefile import core_reader
from collector.host.elfcore import CoreReader, read_header
from collector.host.filesystem import flush_and_drop, holds_memory
from collector.model.errors import ArchiveError
from collector.model.units import size

DIRECTORY = "/var/tmp"  # noqa: S108 - the file has no name there
PIECE_BYTES = 1 << 20
DROP_BYTES = 8 << 20
"""Most bytes of it that are in the page cache at any time while it is written."""

SPARE_BYTES = 1 << 30
"""What stays free on the disk."""


@contextmanager
def unpacked(fd: int) -> Iterator[int]:
    """
    Unpack the core in *fd*, with holes where it is zero; yield the descriptor of the file.

    It is in ``$TMPDIR``, else in /var/tmp, never in memory.

    Raises:
        ArchiveError: If there is no disk with enough room for it.
        CoreError: If it cannot be unpacked.
    """
    directory = os.environ.get("TMPDIR") or DIRECTORY
    if holds_memory(directory):
        hint = "set TMPDIR to a directory on a disk"
        raise ArchiveError(f"{directory} is in memory: the core is not unpacked there", hint=hint)
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        target = file.fileno()
        _write(core_reader(fd, whole=True), target, read_header(core_reader(fd))[0].end_bytes, directory)
        yield target


def _write(reader: CoreReader, target: int, core_bytes: int, directory: str) -> None:
    """Write what the core says it has, and a little for what debuggers put behind it."""
    at = dropped = 0
    zeros = bytes(PIECE_BYTES)
    while at < core_bytes + MAX_BEHIND_BYTES and (piece := reader.read(PIECE_BYTES)):
        if piece != zeros:
            _fit(target, directory)
            os.pwrite(target, piece, at)
        at += len(piece)
        if at - dropped >= DROP_BYTES:
            flush_and_drop(target, dropped, at - dropped)
            dropped = at
    os.ftruncate(target, at)
    flush_and_drop(target, dropped, at - dropped)


def _fit(target: int, directory: str) -> None:
    disk = os.fstatvfs(target)
    if disk.f_bavail * disk.f_frsize < SPARE_BYTES:
        hint = "set TMPDIR to a directory on a disk with more room"
        raise ArchiveError(f"{directory} has less than {size(SPARE_BYTES)} left: the core is not unpacked", hint=hint)
