"""Where a copy goes: a temporary name, direct writes where the file system supports them, one sync, one rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
from collections.abc import Callable, Iterable

from collector.copying.plan import PAGE, Extent
from collector.host import disk, filesystem, syscalls
from collector.host.syscalls import call, rename_noreplace
from collector.model.errors import CopyError

PART = ".part"
SMALL = "too small to benefit: through the cache, synced with others, dropped"
KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
NO_RESERVE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Sink:
    """
    A file that appears under its name only once it is complete, and never replaces another.

    Args:
        directory_fd: The destination; not on tmpfs, which is the memory to be spared.
        name: The file's name; ``NAME.part`` until `publish`.
        direct: False for a file too small to benefit from direct writes.

    Attributes:
        align: Offsets and lengths of writes must be multiples of this many bytes.
        direct: False once writes are known to pass through the page cache; *direct_reason* says why.

    Raises:
        CopyError: If the directory is on tmpfs, or a file of that name or a ``.part`` of it exists.
    """

    def __init__(self, directory_fd: int, name: str, *, direct: bool = True) -> None:
        self._directory_fd = directory_fd
        self._name = name
        self._part = name + PART
        self._refuse()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self.fd = os.open(self._part, flags, 0o600, dir_fd=directory_fd)
        except OSError as exc:
            raise failed(exc, f"cannot create {self._part!r}") from exc
        self._published = self._checked = self._buffered = False
        try:
            os.fchmod(self.fd, 0o600)
            self.align, self.direct, self.direct_reason = self._go_direct() if direct else (1, False, SMALL)
            self._buffered = self.align == 1
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; delete it unless it was published."""
        if not self._published:
            with contextlib.suppress(OSError):
                os.unlink(self._part, dir_fd=self._directory_fd)
        os.close(self.fd)

    def _refuse(self) -> None:
        if filesystem.is_memory(self._directory_fd):
            raise CopyError(
                f"the destination of {self._name!r} is on tmpfs: a copy there uses up the memory it is meant to spare",
                hint="put the archive on a disk",
                errno=errno.EOPNOTSUPP,
            )
        with contextlib.suppress(FileNotFoundError):
            os.stat(self._name, dir_fd=self._directory_fd, follow_symlinks=False)
            raise CopyError(f"{self._name!r} exists", hint="a copy never replaces a file", errno=errno.EEXIST)

    @functools.cached_property
    def _beneath(self) -> tuple[str, int]:
        return filesystem.beneath(self.fd)

    @property
    def kind(self) -> str:
        """Return the name of the file system that stores the file."""
        return self._beneath[0]

    @property
    def device(self) -> int:
        """Return the ``st_dev`` of that file system."""
        return self._beneath[1]

    def _go_direct(self) -> tuple[int, bool, str]:
        offered = syscalls.direct_alignment(self.fd)
        if offered is not None and not offered.offset:
            return 1, False, f"this file on {self.kind} does not support direct writes (statx DIOALIGN 0)"
        align = max(PAGE, offered.offset, offered.memory) if offered else PAGE
        try:
            fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_WRONLY | os.O_DIRECT)
        except OSError as exc:
            return 1, False, f"{self.kind} does not support direct writes ({exc.strerror})"
        # These cannot be helped, and none of the file's own pages stay: the kernel drops them itself.
        if self.kind == filesystem.BTRFS and not filesystem.is_nocow(self.fd):
            return align, False, "btrfs with checksums passes direct writes through the page cache"
        if self.kind == filesystem.EXT4 and not filesystem.has_extents(self.fd):
            return align, False, "a file without extents is filled through the page cache (a disk made as ext2 or ext3)"
        if disk.is_cached_below(self.device):
            return align, False, "the loop device under it passes writes through the page cache of its image"
        return align, True, "O_DIRECT"

    def reserve(self, extents: Iterable[Extent], *, shift: int, size: int) -> None:
        """
        Allocate the data extents, moved down by *shift*, of a file of *size* bytes.

        A lack of space shows here, before the first byte is written, and the ranges may then be written in parallel.

        Raises:
            CopyError: If there is no space; nothing is left behind.
        """
        try:
            for extent in extents:
                if not self._allocate(extent.start - shift, extent.end - extent.start):
                    break
            os.ftruncate(self.fd, -(-size // self.align) * self.align)
        except (OSError, OverflowError) as exc:
            known = exc if isinstance(exc, OSError) else OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            raise failed(known, f"cannot reserve {size} bytes for {self._name!r}") from exc

    def _allocate(self, offset: int, size: int) -> bool:
        """Allocate a range; return False if the file system cannot."""
        try:
            call("fallocate64", self.fd, KEEP_SIZE, offset, size)
        except OSError as exc:
            if exc.errno in NO_RESERVE:
                return False
            raise
        return True

    def write(self, address: int, size: int, offset: int) -> None:
        """
        Write *size* bytes of memory at *address*, both aligned if the file takes direct writes.

        Raises:
            OSError: As pwrite(2) gives it; ``EFAULT`` if the memory is a mapping whose file was truncated.
        """
        written = 0
        while written < size:
            written += call("pwrite64", self.fd, address + written, size - written, offset + written)
        self._settle(offset, size)

    def splice(self, pipe: int, size: int, offset: int) -> None:
        """Write the *size* bytes whose pages are in *pipe*; ``EINVAL`` if the file system takes no pages."""
        written = 0
        while written < size:
            written += os.splice(pipe, self.fd, size - written, offset_dst=offset + written)
        self._settle(offset, size)

    def _settle(self, offset: int, size: int) -> None:
        """Remove what a write left in the page cache."""
        if self._buffered:
            filesystem.flush_and_drop(self.fd, offset, size)
        elif not self._checked:
            self._check(offset, size)

    def _check(self, offset: int, size: int) -> None:
        """
        Check once whether direct writes stay in the page cache after all.

        Raises:
            OSError: ``EOPNOTSUPP`` if they cannot be removed: an overlay whose upper layer is hidden and on tmpfs.
        """
        self._checked = True
        found = filesystem.cached_pages(self.fd, offset, size) if self.direct else 0
        if not found:
            return
        filesystem.flush_and_drop(self.fd, offset, size)
        if self.kind == filesystem.OVERLAY and filesystem.cached_pages(self.fd, offset, size) == found:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        self.direct, self._buffered = False, True
        self.direct_reason = f"direct writes on {self.kind} fell back to the page cache"

    @property
    def flush(self) -> Callable[[], None] | None:
        """Return a function that flushes the disk's write cache, if it has one."""
        return self._flush if disk.has_write_cache(self.device) else None

    def _flush(self) -> None:
        try:
            os.fdatasync(self.fd)
        except OSError as exc:
            raise failed(exc, f"cannot flush {self._name!r}") from exc

    def flushes(self) -> int | None:
        """Return how often the disk was flushed so far, by anybody; ``None`` if it does not count."""
        return disk.flushes(self._disks)

    @functools.cached_property
    def _disks(self) -> tuple[str, ...]:
        return disk.disks(self.device)

    def put(self, data: memoryview, offset: int = 0) -> None:
        """Write *data* through the page cache; it stays there until it is synced."""
        while data:
            written = os.pwrite(self.fd, data, offset)
            data, offset = data[written:], offset + written

    def publish(self, size: int, *, sync: bool = True, failing: bool = False) -> None:
        """
        Set the exact length, *sync* the file, and give it its name. The caller syncs the directory.

        On a disk that is *failing*, a sync that fails too is ignored.

        Raises:
            CopyError: If the sync fails, or the name has been taken meanwhile; nothing is left behind.
        """
        ignored = (OSError,) if failing else ()
        try:
            if os.fstat(self.fd).st_size != size:
                os.ftruncate(self.fd, size)
            if sync:
                with contextlib.suppress(*ignored):
                    os.fdatasync(self.fd)
                # Truncating the last block zeroes its rest through the page cache: the only page that a copy dirties.
                with contextlib.suppress(*ignored):
                    filesystem.flush_and_drop(self.fd, 0, 0)
            self._rename()
        except OSError as exc:
            raise failed(exc, f"cannot finish {self._name!r}") from exc
        self._published = True

    def _rename(self) -> None:
        try:
            rename_noreplace(self._part, self._name, dir_fd=self._directory_fd)
        except OSError as exc:
            if exc.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            # NFS and some FUSE file systems do not know the flag; a link does not replace a file either.
            os.link(self._part, self._name, src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd)
            os.unlink(self._part, dir_fd=self._directory_fd)


KEPT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""After these errors the chunks written before are kept: they are valid and worth having."""

HINTS = {
    errno.ENOSPC: "free space there, or copy less; for a step, lower its max_total",
    errno.EDQUOT: "raise the quota of the destination's owner",
    errno.EROFS: "remount the file system read-write, or choose another destination",
    errno.EEXIST: "if no other copy is writing it, remove it: a killed one left it behind",
    errno.EIO: "see the kernel log: the disk is failing",
    errno.EOPNOTSUPP: "if the destination keeps its files in memory, choose one on a disk",
    errno.EACCES: "run as the owner of the destination's directory",
}


def failed(exc: OSError, message: str) -> CopyError:
    """Turn a kernel error into one with a hint."""
    return CopyError(f"{message}: {exc.strerror}", hint=HINTS.get(exc.errno or 0), errno=exc.errno)
