"""An incident as one file: a tar archive compressed with Zstandard, written past the page cache."""

from __future__ import annotations

import contextlib
import os
import tarfile
from typing import BinaryIO

import zstandard

from collector.archive import directory
from collector.archive.read import Archive
from collector.host.directio import flush_and_drop
from collector.model.errors import ArchiveError

LEVEL = 3
DROP_BYTES = 8 << 20
"""How much may be cached of what is read, and dirty of what is written, at any time."""


class DroppingReader:
    """A file whose pages are dropped from the cache behind the reader."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = self._dropped = 0

    def read(self, size: int) -> bytes:
        """Return the next *size* bytes, fewer at the end."""
        data = os.pread(self._fd, size, self._at)
        self._at += len(data)
        if self._at - self._dropped >= DROP_BYTES or not data:
            os.posix_fadvise(self._fd, self._dropped, self._at - self._dropped, os.POSIX_FADV_DONTNEED)
            self._dropped = self._at
        return data


class DroppingWriter:
    """A file that is brought to the disk and dropped from the cache as it grows."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = self._dropped = 0

    def write(self, data: bytes) -> int:
        """Append *data*."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._at += len(data)
        if self._at - self._dropped >= DROP_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Bring what is dirty to the disk."""
        flush_and_drop(self._fd, self._dropped, self._at - self._dropped)
        self._dropped = self._at


def export(archive: Archive, incident: str, path: str) -> int:
    """
    Write *incident* to a new file at *path*, mode 0600: ``ID/…`` with every file in it.

    Args:
        archive: The archive.
        incident: A sealed incident's id; its manifest is checked first.
        path: Must not exist.

    Returns:
        The length of the new file in bytes.

    Raises:
        ArchiveError: If *path* cannot be made; nothing is left behind.
    """
    archive.manifest(incident)
    try:
        out = os.open(path, directory.CREATE_FLAGS, 0o600)
    except OSError as exc:
        raise ArchiveError(f"cannot create {path}: {exc.strerror}", hint="name a file that does not exist") from exc
    try:
        _write(archive, incident, DroppingWriter(out))
        os.fsync(out)
        return os.fstat(out).st_size
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(out)


def _write(archive: Archive, incident: str, out: DroppingWriter) -> None:
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    with (
        archive.incident(incident) as fd,
        compressor.stream_writer(out, closefd=False) as packed,  # type: ignore[arg-type]
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, status in directory.files(fd):
            with directory.opened_file(name, fd) as file:
                tar.addfile(_member(f"{incident}/{name}", status), _binary(file))
    out.flush()


def _member(name: str, status: os.stat_result) -> tarfile.TarInfo:
    """Describe a member: no owner, no other mode than the archive's own."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = status.st_size, status.st_mtime, 0o600
    return member


def _binary(fd: int) -> BinaryIO:
    reader: object = DroppingReader(fd)
    return reader  # type: ignore[return-value]  # tarfile only calls read()
