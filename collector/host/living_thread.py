"""
A thread that lives, of a process whose first one has exited by itself: `pthread_exit` in ``main``, or ``exit(2)``.

The first thread is a zombie then, and its ``/proc/PID`` shows neither memory nor descriptors, program or namespaces;
the others still have them all. Source: fs/proc/base.c, do_exit in kernel/exit.c (Linux 6.18).
"""

from __future__ import annotations

import itertools
import os
import re

from collector.host.files import READ_FLAGS, Host, OpenFd, read_at
from collector.host.process_stat import DEAD_STATES, STAT_LIMIT, Stat, parse_stat

# The kernel escapes line breaks in the name, in the first line.
TGID = re.compile(rb"\nTgid:\t([0-9]+)")
THREADS_LOOKED_AT = 256
"""Threads that have exited are not listed, except for the first one: nearly always the second entry lives."""


def living_thread(dir_fd: int, first: Stat) -> int | None:
    """
    Return a thread that lives, of the process whose directory is *dir_fd*.

    Args:
        first: Of its first thread. If that lives, or there is no other, nothing is looked up and there is no result.
    """
    if first.state not in DEAD_STATES or first.threads < 2:
        return None
    try:
        with OpenFd(os.open("task", READ_FLAGS | os.O_DIRECTORY, dir_fd=dir_fd)) as tasks, os.scandir(tasks) as entries:
            names = [entry.name for entry in itertools.islice(entries, THREADS_LOOKED_AT)]
            return next((int(name) for name in names if _lives(tasks, name)), None)
    except OSError:
        return None


def whole_process(dir_fd: int, first: Stat) -> str:
    """Return the prefix, below *dir_fd*, of the files that show the whole process: empty if its first thread lives."""
    thread = living_thread(dir_fd, first)
    return "" if thread is None else f"task/{thread}/"


def thread_directory(host: Host, thread: int, process: int) -> int | None:
    """
    Open ``/proc/THREAD``, which has ``map_files`` where ``/proc/PID/task/THREAD`` has none.

    It belongs to that thread, whoever has the number later; ``None`` if it is not one of *process*, or is gone.
    """
    try:
        fd = os.open(host.path(f"/proc/{thread}"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = TGID.search(read_at(fd, "status", 4096))
        if found is not None and int(found[1]) == process:
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def _lives(tasks: int, name: str) -> bool:
    try:
        return parse_stat(read_at(tasks, f"{name}/stat", STAT_LIMIT)).state not in DEAD_STATES
    except (OSError, ValueError):
        return False
