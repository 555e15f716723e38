"""What file system a descriptor is on, and what that means for its pages."""

from __future__ import annotations

import array
import ctypes
import fcntl
import os

from collector.host.libc import call

TMPFS = "tmpfs"
BTRFS = "btrfs"
OVERLAY = "overlay"

# Source: include/uapi/linux/magic.h
MAGIC = {
    0x01021994: TMPFS,
    0x858458F6: "ramfs",
    0x958458F6: "hugetlbfs",
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: BTRFS,
    0x794C7630: OVERLAY,
    0x6969: "nfs",
    0x65735546: "fuse",
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
MEMORY = frozenset({TMPFS, "ramfs", "hugetlbfs"})
MADE_WHILE_READ = frozenset(
    {"procfs", "sysfs", "debugfs", "tracefs", "cgroup", "cgroup2", "securityfs", "selinuxfs", "binfmt_misc"}
)
"""The size of a file there is 0, or a page, whatever its content."""

# Source: include/uapi/linux/fs.h, FS_IOC_GETFLAGS and FS_NOCOW_FL
GETFLAGS = 0x80086601
NOCOW = 0x00800000


def kind(fd: int) -> str:
    """Name the file system of *fd*; the magic number in hexadecimal where it has no name here."""
    statfs = (ctypes.c_long * 32)()
    call("fstatfs64", fd, ctypes.byref(statfs))
    magic = statfs[0] & 0xFFFFFFFF
    return MAGIC.get(magic, f"{magic:#x}")


def is_memory(fd: int) -> bool:
    """Tell whether what is written to *fd* stays in memory for good."""
    return kind(fd) in MEMORY


def holds_memory(path: str) -> bool:
    """Tell whether what is written below the directory *path* stays in memory; it is not opened for reading."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return is_memory(fd)
    finally:
        os.close(fd)


def is_nocow(fd: int) -> bool:
    """Tell whether a btrfs file is written in place, and so without checksums."""
    flags = array.array("l", [0])
    try:
        fcntl.ioctl(fd, GETFLAGS, flags)
    except OSError:
        return False
    return bool(flags[0] & NOCOW)
