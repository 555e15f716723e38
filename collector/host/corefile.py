"""Opening a core file by its inode, and reading it forwards, compressed or not."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator

from collector.host.apport import read_report
from collector.host.apport_core import core_within
from collector.host.elfcore import NT_FILE, CoreReader, MappedFile, notes, parse_mapped_files
from collector.host.files import PIECE, Host, OpenFd, open_regular
from collector.host.unpack import UnpackingReader, compression_of
from collector.model.artifact import Truncated
from collector.model.errors import StepError
from collector.model.marker import CoreRef

# A core's owner can delay others by a lease for 45 s. Source: proc_sys_fs(5), ``lease-break-time``.
LEASE_S = 50.0


def open_core(host: Host, core: CoreRef) -> int:
    """
    Open the core file that the marker names, by its inode.

    Its name is for display only: it is escaped, and the file may have been renamed since. If the name leads to no
    file or another one, the directory is searched for the inode.

    Raises:
        StepError: If it is gone, or cannot be opened.
    """
    directory, _, name = core.path.rpartition("/")
    try:
        directory_fd = os.open(host.path(directory or "/"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise StepError(f"core file {core.path!r}: {exc.strerror}", hint="was its directory removed?") from exc
    with OpenFd(directory_fd):
        try:
            fd = _open_inode(directory_fd, name, core)
            return fd if fd is not None else _search(directory_fd, core)
        except OSError as exc:
            raise StepError(f"core file {core.path!r} cannot be opened: {exc.strerror}") from exc


def _open_inode(directory_fd: int, name: str, core: CoreRef) -> int | None:
    """Open *name*; return ``None`` unless it is the marker's inode."""
    try:
        fd = _open_patiently(directory_fd, name)
    except (FileNotFoundError, StepError):
        return None
    except OSError as exc:
        if exc.errno == errno.ELOOP:  # replaced by a symlink
            return None
        raise
    now = os.fstat(fd)
    if (now.st_dev, now.st_ino) == (core.device, core.inode):
        return fd
    os.close(fd)
    return None


def _open_patiently(directory_fd: int, name: str) -> int:
    """Open a regular file; if its owner holds a lease on it, wait for the kernel to break that."""
    until_s = time.monotonic() + LEASE_S
    while True:
        try:
            return open_regular(name, dir_fd=directory_fd)
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise
            time.sleep(0.05)


def _search(directory_fd: int, core: CoreRef) -> int:
    """Look for the marker's inode under another name in the directory."""
    with os.scandir(directory_fd) as entries:
        for entry in entries:
            if entry.inode() == core.inode and (fd := _open_inode(directory_fd, entry.name, core)) is not None:
                return fd
    raise StepError(
        f"core file {core.path!r} is gone: inode {core.inode} is not in its directory",
        hint="deleted, moved, or overwritten by the next crash; put %p or %t into core_pattern",
    )


def core_reader(fd: int) -> CoreReader:
    """
    Return a reader of the core in *fd*, which the caller closes.

    Raises:
        CoreError: If its compression is unknown, or an Apport report has no core.
    """
    if (report := read_report(fd)) is not None:
        return core_within(fd, report)
    compression = compression_of(os.pread(fd, 16, 0))
    return UnpackingReader(fd, compression) if compression else FileReader(fd)


def mapped_files(fd: int) -> Iterator[MappedFile]:
    """
    Yield the mapped files that the core in *fd* lists, or the Apport report around it, which knows their inodes.

    Raises:
        CoreError: If it is not a core.
        Truncated: At the end, if it has no such list, or only part of it was read.
    """
    count = 0
    if (report := read_report(fd)) is not None:
        for file in report.mapped_files():
            yield file
            count += 1
        if report.ends_within_maps:
            raise Truncated(f"the report ends within its list of mapped files, after {count} entries")
        if count:
            return
    reader = core_reader(fd)
    header, found = notes(reader)
    note = next((note for note in found if note.type == NT_FILE), None)
    if note is None:
        if reader.is_cut_off(header.end_bytes):
            raise Truncated("the core was cut off before its list of mapped files")
        raise Truncated("the core has no list of mapped files: the kernel leaves it out beyond 4 MiB")
    for file in parse_mapped_files(header.layout, note.desc):
        yield file
        count += 1
    if note.size_bytes > len(note.desc):
        raise Truncated(f"only the first {len(note.desc)} bytes of the list of mapped files were read")
    if len(note.desc) < header.layout.word or header.layout.unpack("W", note.desc)[0] > count:
        raise Truncated(f"only {count} entries of the list of mapped files can be read")


class FileReader:
    """Reads a regular file forwards by pread, through one buffer of 64 KiB."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0
        self._buffer = b""
        self._start = 0

    def read(self, size: int) -> bytes:
        """Return *size* bytes, fewer only at the end."""
        offset = self._position - self._start
        if not 0 <= offset <= len(self._buffer) - size:
            self._buffer = os.pread(self._fd, max(size, PIECE), self._position)
            self._start, offset = self._position, 0
        piece = self._buffer[offset : offset + size]
        self._position += len(piece)
        return piece

    def skip(self, size: int) -> None:
        self._position = min(self._position + size, 1 << 62)

    def is_cut_off(self, end_bytes: int) -> bool:
        return os.fstat(self._fd).st_size < end_bytes
