"""Which segments a live process has open, and opening one that has no name here."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial

from collector.collectors.shm.segment_names import Mapped, segment_name
from collector.host import filesystem
from collector.host.files import READ_FLAGS, OpenFd
from collector.host.guarded_read import Guard
from collector.host.procfs import Process
from collector.model.artifact import Truncated
from collector.model.errors import StepError

MAX_FDS = 10_000
"""Descriptors looked at. Each look-up leaves a dentry and an inode of 1 KiB behind until the process is gone."""

SHARED_MEMORY = frozenset({filesystem.TMPFS, filesystem.HUGETLBFS})
"""Where a memfd is, too; with `MFD_HUGETLB`, on the latter."""


def of_descriptors(process: Process) -> Iterator[Mapped]:
    """
    Yield the segments that a live process has open, mapped or not.

    Raises:
        OSError: If its descriptors may not be listed.
        Truncated: At the end, if it has more than `MAX_FDS`.
    """
    with OpenFd(process.open("fd")) as directory, os.scandir(directory) as entries:
        for count, entry in enumerate(entries):
            if count == MAX_FDS:
                raise Truncated(f"only the first {MAX_FDS} descriptors were looked at")
            try:
                path = os.fsencode(os.readlink(entry.name, dir_fd=directory))
                if segment_name(path, nameless=True) is None:
                    continue
                status = os.stat(entry.name, dir_fd=directory)
            except OSError:
                continue  # closed meanwhile
            yield Mapped(path=path, device=status.st_dev, inode=status.st_ino, link=f"fd/{entry.name}")


def open_mapped(process: Process, guard: Guard, mapped: Mapped) -> int:
    """
    Open a file that has no name here through a mapping or a descriptor of a process.

    The link leads to the inode itself, without resolving a path in the process's mount namespace. Source:
    proc_pid_map_files(5), which needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE; proc_pid_fd(5).

    Raises:
        StepError: If a lock that this takes is held too long, or the file is not shared memory: the process may have
            mounted any file system over its ``/dev/shm``, and may put any file under the number of a descriptor.
        OSError: From open(2).
    """
    with OpenFd(guard.call(partial(os.open, mapped.link, os.O_PATH | os.O_CLOEXEC, dir_fd=process.whole_fd))) as found:
        # Not opened before it is known what it is: opening a device has effects.
        if not stat.S_ISREG(os.fstat(found).st_mode) or filesystem.kind(found) not in SHARED_MEMORY:
            raise StepError("it is not shared memory, but on another file system")
        return os.open(f"/proc/self/fd/{found}", READ_FLAGS)
