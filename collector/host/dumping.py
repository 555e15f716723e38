"""
What ``/proc`` shows of a process while the kernel dumps its core: that it does, why, and which thread crashed.

Nothing here takes the process's ``mmap_lock``. Source: fs/proc/array.c, fs/coredump.c (Linux 6.18).
"""

from __future__ import annotations

import itertools
import os
import re

from collector.host.files import Host, OpenFd, read_at
from collector.host.living_thread import THREADS_LOOKED_AT, whole_process
from collector.host.process_stat import STAT_LIMIT, parse_stat, read_stat
from collector.host.procfs import PAGE_BYTES

PF_DUMPCORE = 0x200
"""Of the thread that dumps alone, which is the one that crashed. Source: include/linux/sched.h"""

IS_DUMPING = re.compile(rb"^CoreDumping:\t1$", re.MULTILINE)
PIDFD_PID = re.compile(rb"^Pid:\t([0-9]+)$", re.MULTILINE)


def is_dumping(host: Host, pid: int) -> bool:
    """Return whether the process dumps core now (Linux 4.15)."""
    try:
        return IS_DUMPING.search(_read_whole(host, pid, "status", 4096)) is not None
    except (OSError, ValueError):
        return False


def death_signal(host: Host, pid: int) -> int | None:
    """Return the signal that a process dies of, which ``stat`` has from the beginning of the dump on."""
    try:
        fields = host.read(f"/proc/{pid}/stat", limit=STAT_LIMIT).rpartition(b") ")[2].split()
        return int(fields[49]) & 0x7F or None  # field 52 of the manual page, "exit_code"
    except (OSError, ValueError, IndexError):
        return None


def crashed_thread(host: Host, pid: int) -> int | None:
    """Return the thread that dumps, if it is among the first `THREADS_LOOKED_AT`."""
    try:
        with os.scandir(host.path(f"/proc/{pid}/task")) as tasks:
            names = [task.name for task in itertools.islice(tasks, THREADS_LOOKED_AT)]
        return next((int(name) for name in names if _dumps(host, f"/proc/{pid}/task/{name}/stat")), None)
    except OSError:
        return None


def private_bytes(host: Host, pid: int) -> int:
    """Return the memory that a process shares with nobody, and that its death frees for certain."""
    try:
        _, resident, shared, *_ = map(int, _read_whole(host, pid, "statm", 256).split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * PAGE_BYTES


def pidfd_process(host: Host, pidfd: int) -> int | None:
    """Return the PID behind a descriptor; ``None`` if it is not a pidfd, or its process is gone."""
    try:
        found = PIDFD_PID.search(host.read(f"/proc/self/fdinfo/{pidfd}", limit=4096))
    except OSError:
        return None
    return int(found[1]) if found else None


def _read_whole(host: Host, pid: int, name: str, limit: int) -> bytes:
    """Read a file that shows the whole process, also if its first thread has exited."""
    with OpenFd(host.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as dir_fd:
        return read_at(dir_fd, whole_process(dir_fd, read_stat(dir_fd)) + name, limit)


def _dumps(host: Host, path: str) -> bool:
    try:
        return bool(parse_stat(host.read(path, limit=STAT_LIMIT)).flags & PF_DUMPCORE)
    except (OSError, ValueError):
        return False
