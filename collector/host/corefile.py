"""Opening a core file that may have been swapped, and reading it forwards, compressed or not."""

from __future__ import annotations

import errno
import io
import os
import time

import zstandard

from collector.host.elfcore import CoreError, Reader
from collector.host.files import PIECE, Host
from collector.model.errors import StepError
from collector.model.marker import CoreRef

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
OTHER_MAGICS = {b"\x04\x22\x4d\x18": "lz4 -d", b"\xfd7zX": "xz -d", b"\x1f\x8b": "gzip -d"}
# systemd-coredump compresses at zstd's default level, whose window is 2 MiB; 8 MiB is the most
# that any decoder must accept (RFC 8878). A hostile frame may ask for gigabytes.
MAX_WINDOW_BYTES = 8 << 20
# Of a compressed core only so much is unpacked in search of its notes, which stand at its front.
MAX_UNPACKED_BYTES = 256 << 20
LEASE_S = 50.0
"""The owner of a core may keep others out by a lease, for 45 s. Source: proc_sys_fs(5), ``lease-break-time``."""


def open_core(host: Host, core: CoreRef) -> int:
    """
    Open the core file that the marker saw, and no other.

    Its name is for display: what is not printable in it is escaped, and it may have been renamed
    since. What counts is the inode, so the directory is searched for that where the name fails.

    Raises:
        StepError: If it is gone, or another file has its name now, or it cannot be opened.
    """
    directory, _, name = core.path.rpartition("/")
    try:
        directory_fd = os.open(host.path(directory or "/"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise StepError(f"core file {core.path!r}: {exc.strerror}", hint="was its directory removed?") from exc
    try:
        fd = _open_inode(host, directory_fd, name, core)
        return fd if fd is not None else _search(host, directory_fd, core)
    except OSError as exc:
        raise StepError(f"core file {core.path!r} cannot be opened: {exc.strerror}") from exc
    finally:
        os.close(directory_fd)


def _open_inode(host: Host, directory_fd: int, name: str, core: CoreRef) -> int | None:
    """Open a name if it is that of the marker's inode."""
    try:
        fd = _open_patiently(host, directory_fd, name)
    except (FileNotFoundError, StepError):
        return None
    except OSError as exc:
        if exc.errno == errno.ELOOP:  # a symlink has taken its name
            return None
        raise
    now = os.fstat(fd)
    if (now.st_dev, now.st_ino) == (core.device, core.inode):
        return fd
    os.close(fd)
    return None


def _open_patiently(host: Host, directory_fd: int, name: str) -> int:
    """Open a regular file; where its owner holds a lease on it, as soon as the kernel has broken that."""
    until_s = time.monotonic() + LEASE_S
    while True:
        try:
            return host.open_regular(name, dir_fd=directory_fd)
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise
            time.sleep(0.05)


def _search(host: Host, directory_fd: int, core: CoreRef) -> int:
    """Look for the marker's inode under another name of its directory."""
    with os.scandir(directory_fd) as entries:
        for entry in entries:
            if entry.inode() == core.inode and (fd := _open_inode(host, directory_fd, entry.name, core)) is not None:
                return fd
    raise StepError(
        f"core file {core.path!r} is gone: inode {core.inode} is not in its directory",
        hint="deleted, moved, or overwritten by the next crash; put %p or %t into core_pattern",
    )


def core_reader(fd: int) -> Reader:
    """
    Return a reader over the core in *fd* from its start; *fd* stays the caller's.

    Raises:
        CoreError: If it is compressed by something that cannot be read here.
    """
    magic = os.pread(fd, 4, 0)
    if magic == ZSTD_MAGIC:
        return ZstdReader(fd)
    for known, command in OTHER_MAGICS.items():
        if magic.startswith(known):
            raise CoreError(f"a compressed core that is not read here; unpack it with `{command}`")
    return FileReader(fd)


class FileReader:
    """Reads a regular file forwards through one buffer of 64 KiB, by pread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0
        self._buffer = b""
        self._start = 0

    def read(self, size: int) -> bytes:
        """Return exactly *size* bytes, fewer only at the end."""
        offset = self._position - self._start
        if not 0 <= offset <= len(self._buffer) - size:
            self._buffer = os.pread(self._fd, max(size, PIECE), self._position)
            self._start, offset = self._position, 0
        piece = self._buffer[offset : offset + size]
        self._position += len(piece)
        return piece

    def skip(self, size: int) -> None:
        """Pass over *size* bytes without reading them."""
        self._position = min(self._position + size, 1 << 62)


class ZstdReader:
    """Reads a zstd-compressed file forwards, at most `MAX_UNPACKED_BYTES` of what it holds."""

    def __init__(self, fd: int) -> None:
        file = io.FileIO(os.dup(fd))
        file.seek(0)
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        self._stream = decompressor.stream_reader(file, read_size=PIECE)
        self._left = MAX_UNPACKED_BYTES

    def read(self, size: int) -> bytes:
        """Return exactly *size* bytes, fewer only at the end, at damage, or at the limit."""
        size = min(size, self._left)
        parts: list[bytes] = []
        try:
            while size > 0 and (part := self._stream.read(size)):
                parts.append(part)
                size -= len(part)
                self._left -= len(part)
        except zstandard.ZstdError as exc:
            if not parts:
                raise CoreError(f"damaged: {exc}") from exc
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Unpack and drop *size* bytes."""
        while size > 0 and (part := self.read(min(size, PIECE))):
            size -= len(part)
