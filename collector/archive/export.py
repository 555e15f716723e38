"""Export of an incident: one tar archive, compressed with Zstandard, that does not fill the page cache."""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple, cast

from collector.archive import directory, tree
from collector.archive.read import ArchiveReader
from collector.archive.sparse import SparseMap, describe_sparse
from collector.host.compression import zstd
from collector.host.filesystem import flush_and_drop, holds_memory
from collector.host.holes import data_ranges
from collector.model.errors import ArchiveError

LEVEL = 3
DROP_BYTES = 8 << 20
"""Most bytes that are in the page cache, or dirty, at any time."""


class DroppingReader:
    """
    Ranges of a file for `tarfile`, which only calls `read`; their pages are dropped from the cache once they are read.

    Args:
        fd: The file.
        name: For errors.
        ranges: What to read of it, in order: first byte, and last byte plus one.
        head: What comes first.
        check: Called before each read.

    Raises:
        ArchiveError: If the file cannot be read, or has become shorter.
    """

    def __init__(
        self, fd: int, name: str, ranges: Iterable[tuple[int, int]], head: bytes, check: Callable[[], None]
    ) -> None:
        self._fd = fd
        self._name = name
        self._ranges = iter(ranges)
        self._head = head
        self._check = check
        self._at = self._end = self._dropped = 0

    def read(self, size: int) -> bytes:
        """Return the next *size* bytes."""
        self._check()
        data, self._head = self._head[:size], self._head[size:]
        while len(data) < size:
            if self._at == self._end:
                self._drop()
                self._at, self._end = next(self._ranges)
                self._dropped = self._at
            data += self._read(min(size - len(data), self._end - self._at))
        if self._at - self._dropped >= DROP_BYTES:
            self._drop()
        return data

    def _read(self, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, self._at)
        except OSError as exc:
            raise ArchiveError(f"cannot read {self._name}: {exc.strerror}") from exc
        if not data:
            raise ArchiveError(f"cannot read {self._name}: it has become shorter")
        self._at += len(data)
        return data

    def _drop(self) -> None:
        os.posix_fadvise(self._fd, self._dropped, self._at - self._dropped, os.POSIX_FADV_DONTNEED)
        self._dropped = self._at


class Exported(NamedTuple):
    """The new file's length in bytes, and the artifacts that are missing from it or have another length."""

    size_bytes: int
    missing: tuple[str, ...]


class DroppingWriter:
    """
    A file that is synced and dropped from the cache as it grows.

    Raises:
        ArchiveError: From all methods, if the file cannot be written.
    """

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self._at = self._dropped = 0

    def write(self, data: bytes) -> int:
        with _writing(self._path):
            directory.write_all(self._fd, data)
        self._at += len(data)
        if self._at - self._dropped >= DROP_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Sync what is not on the disk yet."""
        with _writing(self._path):
            flush_and_drop(self._fd, self._dropped, self._at - self._dropped)
        self._dropped = self._at


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ArchiveError(f"cannot write {path}: {exc.strerror}", hint="export it to a disk with more room") from exc


def export(archive: ArchiveReader, incident: str, path: str, *, check: Callable[[], None]) -> Exported:
    """
    Write *incident* to a new file at *path*, mode 0600: ``ID/…`` with every file in it.

    Args:
        incident: A sealed incident's id; its manifest is checked first.
        path: Must not exist.
        check: Called before each read; what it raises ends the export.

    Raises:
        ArchiveError: If *path* cannot be created or written; nothing is left behind.
    """
    manifest = archive.manifest(incident)
    _refuse_memory(path)
    try:
        out = os.open(path, directory.CREATE_FLAGS, 0o600)
    except FileExistsError as exc:
        raise ArchiveError(f"{path} exists already", hint="name a file that does not exist") from exc
    except OSError as exc:
        raise ArchiveError(
            f"cannot create {path}: {exc.strerror}", hint="name a file in a directory that you may write to"
        ) from exc
    try:
        there = _write(archive, incident, DroppingWriter(out, path), check)
        with _writing(path):
            os.fsync(out)
        lengths = {artifact.path: artifact.size_bytes for artifact in manifest.artifacts()}
        missing = tuple(sorted(artifact for artifact, size in lengths.items() if there.get(artifact) != size))
        return Exported(os.fstat(out).st_size, missing)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(out)


def _refuse_memory(path: str) -> None:
    with contextlib.suppress(OSError):  # creating the file gives a better message
        if holds_memory(os.path.dirname(path)):
            raise ArchiveError(f"{path} is on tmpfs: the export would take memory", hint="name a file on a disk")


def _write(archive: ArchiveReader, incident: str, out: DroppingWriter, check: Callable[[], None]) -> dict[str, int]:
    """Write all files; return their lengths by path."""
    there: dict[str, int] = {}
    with (
        archive.incident(incident) as fd,
        zstd.ZstdFile(out, "w", level=LEVEL) as packed,  # type: ignore[call-overload]  # only write() is called
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, _ in tree.files(fd):
            with directory.opened_file(name, fd) as file:
                status = os.fstat(file)
                _add(tar, _member(f"{incident}/{name}", status), file, check)
            there[name] = status.st_size
    out.flush()
    return there


def _add(tar: tarfile.TarFile, member: tarfile.TarInfo, file: int, check: Callable[[], None]) -> None:
    """Add a file, without its holes."""
    found = SparseMap(data_ranges(file, 0, member.size), member.size)
    ranges, head, name = [(0, member.size)], b"", member.name
    if found.has_holes:
        ranges, head = found.ranges, found.text()
        describe_sparse(member, head, found)
    tar.addfile(member, cast("BinaryIO", DroppingReader(file, name, ranges, head, check)))


def _member(name: str, status: os.stat_result) -> tarfile.TarInfo:
    """Describe a member: no owner, and mode 0600 like everything in the archive."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = status.st_size, status.st_mtime, 0o600
    return member
