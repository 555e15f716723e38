"""Opening a core file by its inode, and reading it forwards, compressed or not."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from functools import partial

from collector.host.apport import read_report
from collector.host.apport_core import core_within
from collector.host.corehead import fingerprint, holds
from collector.host.elfcore import NT_FILE, CoreError, CoreReader, MappedFile, notes
from collector.host.filehandle import open_handle
from collector.host.files import PIECE, REGULAR_FLAGS, Host, OpenFd, open_regular
from collector.host.filesystem import nearest_directory
from collector.host.mapped_files import MappedFileTable
from collector.host.successor import is_kept, stem
from collector.host.syscalls import being_written
from collector.host.unpack import UnpackingReader, compression_of
from collector.model.artifact import Truncated
from collector.model.errors import StepError
from collector.model.marker import CoreRef
from collector.model.text import escape_name, printable

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Replaced by a symlink; deleted, or the handle's file system has no handles, or needs a privilege for them.
MISSING = frozenset({errno.ELOOP, errno.ESTALE, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM})
# A core's owner can delay others by a lease for 45 s. Source: proc_sys_fs(5), ``lease-break-time``.
LEASE_S = 50.0


def open_core(host: Host, core: CoreRef) -> int:
    """
    Open the core file that the marker names, by its inode, wherever it has been moved within its file system.

    Its name is for display only: it is escaped, and the file may have been renamed since. If the inode is gone, or
    holds another core by now, what was made from it is opened instead: the compressed file beside it, or a copy in
    another directory that the trigger watches.

    Raises:
        StepError: If there is none, or it cannot be opened.
    """
    directory, _, name = core.path.rpartition("/")
    try:
        with OpenFd(os.open(nearest_directory(host.path(directory or "/")), DIRECTORY)) as directory_fd:
            fd = _first(_originals(directory_fd, name, core), partial(holds, core=core))
            if fd is None:
                fd = _first(_successors(directory_fd, name, core), partial(_is_made_from, core=core))
        for other in core.watched:
            if fd is None and os.path.isdir(host.path(other)):
                with OpenFd(os.open(host.path(other), DIRECTORY)) as other_fd:
                    fd = _first(_successors(other_fd, name, core), partial(_is_made_from, core=core))
    except OSError as exc:
        raise StepError(f"core file {core.path!r} cannot be opened: {exc.strerror}") from exc
    if fd is None:
        raise StepError(
            f"core file {core.path!r} is gone, or was overwritten: inode {core.inode} does not hold it any more",
            hint="deleted, emptied, moved to another disk, or replaced by the next crash; put %P or %t into its name",
        )
    return fd


def _first(fds: Iterator[int], fits: Callable[[int], bool]) -> int | None:
    """Return the first descriptor that fits; the others are closed."""
    for fd in fds:
        taken = False
        try:
            taken = fits(fd)
        finally:
            if not taken:
                os.close(fd)
        if taken:
            return fd
    return None


def path_of(fd: int, host: Host, core: CoreRef) -> str:
    """Return where an open core is now, printable: it may have been moved or compressed since it was noticed."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(host.path(core.path)), os.fstat(fd)):
            # The trigger has escaped what is not printable; other sources of a path may not have.
            return core.path if core.path.isprintable() else escape_name(core.path)
    return escape_name(os.readlink(f"/proc/self/fd/{fd}"))


def written_once(fd: int) -> bool:
    """
    Return whether a core is systemd-coredump's, and nobody but root may write to it: it is never written again.

    systemd-coredump gives each core a name of its own, and attributes that only the owner can set. Root's own handler
    may write to the same file at the next crash.
    """
    info = os.fstat(fd)
    try:
        os.getxattr(fd, "user.coredump.pid")
        directory = os.stat(os.path.dirname(os.readlink(f"/proc/self/fd/{fd}")))
    except OSError:
        return False
    owned = all(one.st_uid == 0 and not one.st_mode & 0o022 for one in (info, directory))
    return owned and info.st_nlink == 1 and being_written(fd) is False


def _originals(directory_fd: int, name: str, core: CoreRef) -> Iterator[int]:
    """Open the marker's inode: by its name, by its handle, or under another name in its directory."""
    fd = _open_inode(partial(open_regular, name, dir_fd=directory_fd), core)
    if fd is None and core.handle and os.fstat(directory_fd).st_dev == core.device:
        fd = _open_inode(partial(open_handle, directory_fd, core.handle, REGULAR_FLAGS), core)
    if fd is not None:
        yield fd
        return
    for entry in _entries(directory_fd):
        if entry.inode() == core.inode:
            fd = _open_inode(partial(open_regular, entry.name, dir_fd=directory_fd), core)
            if fd is not None:
                yield fd


def _successors(directory_fd: int, name: str, core: CoreRef) -> Iterator[int]:
    """Open what its owner or root may have made from the core: its name differs by a suffix, or size and time agree."""
    for entry in _entries(directory_fd):
        info = _stat(entry)
        if info is None or info.st_uid not in {core.uid, 0} or (info.st_dev, info.st_ino) == (core.device, core.inode):
            continue
        copied = (info.st_size, info.st_mtime_ns) == (core.size_bytes, core.mtime_ns)
        if copied or stem(printable(entry.name)) == stem(name):
            fd = _open(partial(open_regular, entry.name, dir_fd=directory_fd))
            if fd is not None:
                yield fd


def _is_made_from(fd: int, core: CoreRef) -> bool:
    """Return whether a file unpacks to the marker's core; if that cannot be known, whether it has its time."""
    if core.head:
        with contextlib.suppress(CoreError):
            unpacked = fingerprint(core_reader(fd).read(int(core.head.partition(":")[0])))
            if unpacked == core.head or core.whole_bytes:  # of a core that was compressed itself, little is known
                return unpacked == core.head
    return is_kept(os.fstat(fd).st_mtime_ns, core.mtime_ns)


def _open_inode(opening: Callable[[], int], core: CoreRef) -> int | None:
    """Open a file; return ``None`` unless it is the marker's inode."""
    fd = _open(opening)
    if fd is None:
        return None
    now = os.fstat(fd)
    if (now.st_dev, now.st_ino) == (core.device, core.inode):
        return fd
    os.close(fd)
    return None


def _open(opening: Callable[[], int]) -> int | None:
    """
    Open a regular file; return ``None`` if it is not there.

    If its owner holds a lease on it, wait for the kernel to break that.
    """
    until_s = time.monotonic() + LEASE_S
    while True:
        try:
            return opening()
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise
            time.sleep(0.05)
        except (FileNotFoundError, StepError):
            return None
        except OSError as exc:
            if exc.errno in MISSING:
                return None
            raise


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:  # it has just been removed
        return None


def _entries(directory_fd: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(directory_fd) as entries:
        yield from entries


def core_reader(fd: int, *, whole: bool = False) -> CoreReader:
    """
    Return a reader of the core in *fd*, which the caller closes.

    A compressed one is read up to a limit, which is far behind its notes, unless *whole*: then the caller bounds it.

    Raises:
        CoreError: If its compression is unknown, or an Apport report has no core.
    """
    if (report := read_report(fd)) is not None:
        return core_within(fd, report, whole=whole)
    compression = compression_of(os.pread(fd, 16, 0))
    return UnpackingReader(fd, compression, whole=whole) if compression else FileReader(fd)


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
    yield from files_of(core_reader(fd))


def files_of(reader: CoreReader) -> Iterator[MappedFile]:
    """Yield the mapped files of NT_FILE; raise as `mapped_files` does."""
    header, found = notes(reader)
    note = next((note for note in found if note.type == NT_FILE), None)
    if note is None:
        if reader.is_cut_off(header.note_offset + header.note_bytes):
            raise Truncated("the core was cut off before its list of mapped files")
        raise Truncated("the core has no list of mapped files: the kernel leaves it out beyond 4 MiB")
    files = MappedFileTable(header.layout, note.desc)
    yield from files
    if note.size_bytes > len(note.desc):
        raise Truncated(f"only the first {len(note.desc)} bytes of the list of mapped files were read")
    if len(note.desc) < header.layout.word or header.layout.unpack("W", note.desc)[0] > len(files):
        raise Truncated(f"only {len(files)} entries of the list of mapped files can be read")


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
