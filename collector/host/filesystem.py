"""The file system that a descriptor is on, and how it treats pages."""

from __future__ import annotations

import array
import ctypes
import fcntl
import mmap
import os
import re

from collector.host.files import OpenFd
from collector.host.syscalls import LIBC, cachestat, call

TMPFS = "tmpfs"
HUGETLBFS = "hugetlbfs"
BTRFS = "btrfs"
EXT4 = "ext4"
OVERLAY = "overlay"

# Source: include/uapi/linux/magic.h
MAGIC = {
    0x01021994: TMPFS,
    0x858458F6: "ramfs",
    0x958458F6: HUGETLBFS,
    0xEF53: EXT4,
    0x58465342: "xfs",
    0x9123683E: BTRFS,
    0x794C7630: OVERLAY,
    0x6969: "nfs",
    0x65735546: "fuse",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x01021997: "9p",
    0x00C36400: "ceph",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0x9FA0: "procfs",
    0x62656572: "sysfs",
    0x64626720: "debugfs",
    0x74726163: "tracefs",
    0x27E0EB: "cgroup",
    0x63677270: "cgroup2",
    0x73636673: "securityfs",
    0xF97CFF8C: "selinuxfs",
    0x42494E4D: "binfmt_misc",
}
REMOTE = frozenset({"nfs", "fuse", "cifs", "smb2", "9p", "ceph"})
"""File times may be another machine's."""
MEMORY = frozenset({TMPFS, "ramfs", HUGETLBFS})
SIZE_UNKNOWN = frozenset(
    {"procfs", "sysfs", "debugfs", "tracefs", "cgroup", "cgroup2", "securityfs", "selinuxfs", "binfmt_misc"}
)
"""A file's size is 0 or a page, whatever its contents."""

# Source: include/uapi/linux/fs.h, FS_IOC_GETFLAGS, FS_NOCOW_FL, FS_EXTENT_FL, FS_INLINE_DATA_FL
GETFLAGS = 0x80086601
NOCOW = 0x00800000
EXTENTS = 0x00080000 | 0x10000000

SYNC_AND_WAIT = 1 | 2 | 4  # SYNC_FILE_RANGE_WAIT_BEFORE | _WRITE | _WAIT_AFTER


def kind(fd: int) -> str:
    """Return the name of the file system that *fd* is on; its magic number in hexadecimal if it is not in `MAGIC`."""
    statfs = (ctypes.c_long * 32)()
    call("fstatfs64", fd, ctypes.byref(statfs))
    magic = statfs[0] & 0xFFFFFFFF
    return MAGIC.get(magic, f"{magic:#x}")


def beneath(fd: int) -> tuple[str, int]:
    """
    Return kind and device (``st_dev``) of the file system that stores what is written to *fd*.

    For an overlay these are its upper layer's, or its own if the upper layer is not visible from here.
    """
    found = kind(fd)
    if found == OVERLAY and (upper := _upper_layer(_mount_id(fd))) is not None:
        try:
            upper_fd = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # mounted from within another mount namespace
            return found, os.fstat(fd).st_dev
        with OpenFd(upper_fd):
            return beneath(upper_fd)
    return found, os.fstat(fd).st_dev


def _mount_id(fd: int) -> bytes:
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
        return next((line.split()[1] for line in info if line.startswith(b"mnt_id:")), b"")


def _upper_layer(mount_id: bytes) -> bytes | None:
    """Return the directory in which an overlay stores writes. Source: proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            if line.split(b" ", 1)[0] == mount_id:
                found = re.search(rb"[ ,]upperdir=([^, \n]+)", line.partition(b" - ")[2])
                return found and re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), found[1])
    return None


def is_memory(fd: int) -> bool:
    """Return whether what is written to *fd* never leaves memory."""
    return beneath(fd)[0] in MEMORY


def nearest_directory(path: str) -> str:
    """Return the directory *path*, or the nearest one above it that exists."""
    while not os.path.isdir(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def holds_memory(path: str) -> bool:
    """Return whether what is written below *path* never leaves memory; needs no read permission."""
    with OpenFd(os.open(path, os.O_PATH | os.O_CLOEXEC)) as fd:
        return is_memory(fd)


def is_nocow(fd: int) -> bool:
    """Return whether a btrfs file is written in place, and so without checksums."""
    return bool(_flags(fd) & NOCOW)


def has_extents(fd: int) -> bool:
    """Return whether an ext4 file uses extents; those created on ext2 or ext3 do not."""
    return bool(_flags(fd) & EXTENTS)


def _flags(fd: int) -> int:
    flags = array.array("l", [0])
    try:
        fcntl.ioctl(fd, GETFLAGS, flags)
    except OSError:
        return 0
    return flags[0]


def cached_pages(fd: int, offset: int, length: int) -> int | None:
    """
    Return how many pages of a range of our own file are in the page cache; ``None`` if unknown.

    cachestat(2) sees nothing through an overlay, and needs Linux 6.5; mincore(2) looks at the file itself.
    """
    if kind(fd) != OVERLAY and (found := cachestat(fd, offset=offset, length=length)):
        return found.cached
    try:
        with OpenFd(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)) as readable:
            address = call("mmap", None, length, mmap.PROT_READ, mmap.MAP_SHARED, readable, offset)
    except OSError:
        return None
    there = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
    try:
        call("mincore", address, length, there)
    finally:
        LIBC.munmap(address, length)
    return sum(page & 1 for page in there)


def write_back(fd: int, offset: int, length: int) -> None:
    """Write back a range of the page cache, and wait for it."""
    if kind(fd) == OVERLAY:
        os.fdatasync(fd)  # sync_file_range looks for dirty pages in the overlay, which has none
    else:
        call("sync_file_range", fd, offset, length, SYNC_AND_WAIT)


def flush_and_drop(fd: int, offset: int, length: int) -> None:
    """Write back a range of the page cache, wait for it, and drop it."""
    write_back(fd, offset, length)
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
