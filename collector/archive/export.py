"""Export of an incident: one tar archive, compressed with Zstandard, that does not fill the page cache."""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple, cast

from collector.archive import directory
from collector.archive.dropping import DroppingReader, DroppingWriter, writing
from collector.archive.new_file import new_file
from collector.archive.read import ArchiveReader
from collector.archive.sparse import SparseMap, describe_sparse
from collector.host.compression import zstd
from collector.host.filesystem import holds_memory, is_memory
from collector.host.holes import data_ranges
from collector.model.errors import ArchiveError

PACKING = {zstd.CompressionParameter.compression_level: 3, zstd.CompressionParameter.checksum_flag: 1}
"""The checksum lets ``zstd -t``, and whoever unpacks it, notice a damaged file; it takes 4 bytes."""

STDOUT = 1


class Composed(NamedTuple):
    """A member that is written for the export: its name below ``ID/``, its content, and its time since the epoch."""

    name: str
    content: bytes
    at_s: float


class Copied(NamedTuple):
    """A member that is a file of the incident: its *path* there, and its *name* below ``ID/``."""

    path: str
    name: str


Member = Composed | Copied


@contextlib.contextmanager
def created(path: str) -> Iterator[int]:
    """
    Yield a descriptor of a new file at *path*, mode 0600, which is removed if the block raises, else synced.

    Raises:
        ArchiveError: If it exists, cannot be created, or is on tmpfs.
    """
    with contextlib.suppress(OSError):  # creating the file gives a better message
        _refuse_memory(path, in_memory=holds_memory(os.path.dirname(path)))
    with new_file(path) as out:
        yield out
        with writing(path):
            os.fsync(out)


@contextlib.contextmanager
def standard_output() -> Iterator[int]:
    """Yield standard output; raise `ArchiveError` if that is a file on tmpfs."""
    _refuse_memory("standard output", in_memory=os.path.isfile("/dev/fd/1") and is_memory(STDOUT))
    yield STDOUT


def _refuse_memory(name: str, *, in_memory: bool) -> None:
    if in_memory:
        raise ArchiveError(f"{name} is on tmpfs: the export would take memory", hint="name a file on a disk")


def export(
    archive: ArchiveReader, incident: str, members: Iterable[Member], out: DroppingWriter, *, check: Callable[[], None]
) -> dict[str, int]:
    """
    Write *members*, in their order, as ``ID/NAME`` to *out*; return the lengths of those copied, by their paths.

    Args:
        check: Called before each read; what it raises ends the export.

    Raises:
        ArchiveError: If a file cannot be read, or *out* cannot be written.
        BrokenPipeError: If nobody reads *out* any more.
    """
    there: dict[str, int] = {}
    with (
        archive.incident(incident) as fd,
        zstd.ZstdFile(out, "w", options=PACKING) as packed,  # type: ignore[call-overload]  # only write() is called
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for member in members:
            if isinstance(member, Composed):
                info = _described(f"{incident}/{member.name}", len(member.content), member.at_s)
                tar.addfile(info, BytesIO(member.content))
                continue
            with directory.opened_file(member.path, fd) as file:
                status = os.fstat(file)
                _add(tar, _described(f"{incident}/{member.name}", status.st_size, status.st_mtime), file, check)
            there[member.path] = status.st_size
    out.flush()
    return there


def _add(tar: tarfile.TarFile, member: tarfile.TarInfo, file: int, check: Callable[[], None]) -> None:
    """Add a file, without its holes."""
    found = SparseMap(data_ranges(file, 0, member.size), member.size)
    ranges, head, name = [(0, member.size)], b"", member.name
    if found.has_holes:
        ranges, head = found.ranges, found.text()
        describe_sparse(member, head, found)
    reader = DroppingReader(file, name, ranges, head, check)
    tar.addfile(member, cast("BinaryIO", reader))
    reader.finish()


def _described(name: str, size: int, mtime_s: float) -> tarfile.TarInfo:
    """Describe a member: no owner, and mode 0600 like everything in the archive."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, mtime_s, 0o600
    return member
