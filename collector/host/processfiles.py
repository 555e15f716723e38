"""Which of a process's files are read, and in what order: what can hang comes last."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from collector.host.files import body
from collector.host.guarded_read import Guard
from collector.host.procfs import Process
from collector.host.read_errors import Unreads
from collector.model.text import escape_lines, escape_name

# These take no lock that another thread of the process could hold across a sleep.
FILES = (
    "stat", "status", "statm", "comm", "wchan", "sched", "schedstat", "oom_score", "oom_score_adj", "cgroup", "cpuset",
    "limits", "timers", "loginuid", "sessionid", "autogroup", "attr/current", "auxv", "coredump_filter", "mountinfo",
    "uid_map", "gid_map", "setgroups", "arch_status",
)  # fmt: skip
# These take exec_update_lock, which an execve(2) in progress holds.
EXEC_FILES = ("io", "stack", "syscall", "personality")
# These take mmap_lock, which a thread may hold while it waits for a dead disk; cheapest first.
MEMORY_FILES = ("cmdline", "environ", "maps", "ksm_stat", "smaps_rollup", "numa_maps", "smaps")
THREAD_FILES = ("stat", "status", "wchan", "schedstat")
THREAD_EXEC_FILES = ("stack", "syscall")
LINKS = ("exe", "cwd", "root")
SMALL_LIMIT = 4096


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """Where the process's links point, as text; none of them is ever followed."""

    links: dict[str, str]
    namespaces: dict[str, str]


class OpenFile(msgspec.Struct, frozen=True, kw_only=True):
    """One open descriptor: where it points, and its ``fdinfo`` lines."""

    fd: int
    target: str
    info: str


class ThreadRow(msgspec.Struct, frozen=True, kw_only=True):
    """One thread, with the text of its small files."""

    tid: int
    files: dict[str, str]


def read_file(process: Process, name: str, *, limit: int, guard: Guard | None = None) -> bytes | Iterator[bytes]:
    """
    Read one file; each piece is checked to be this process's before it is passed on.

    Args:
        process: Whose file.
        name: Below its ``/proc/PID``.
        limit: At most so many bytes; then the stream ends with `Truncated`.
        guard: Runs each read in a helper thread, with a deadline.

    Raises:
        StepError: If it is another process by now, or the guard gave up.
        OSError: As the kernel gives it.
    """
    if guard is None:
        return body(process.open(name), limit=limit, check=process.check)
    fd = guard.call(partial(process.open, name))
    return body(fd, limit=limit, check=process.check, read=partial(_guarded_read, guard))


def _guarded_read(guard: Guard, fd: int, size: int) -> bytes:
    return guard.call(partial(os.read, fd, size))


def links(process: Process, unread: Unreads) -> Links:
    """Read where the process's links point."""
    found: dict[str, dict[str, str]] = {"": {}, "ns/": {}}
    for directory, names in (("", LINKS), ("ns/", _names(process, "ns", unread))):
        for name in names:
            try:
                found[directory][name] = escape_name(process.link(directory + name))
            except OSError as exc:
                unread.add(f"/proc/{process.pid}/{directory}{name}", exc)
    return Links(links=found[""], namespaces=found["ns/"])


def open_files(process: Process, unread: Unreads, *, limit: int) -> Iterator[OpenFile]:
    """Yield at most *limit* of the process's descriptors."""
    for count, name in enumerate(_names(process, "fd", unread)):
        if count == limit:
            unread.add(f"/proc/{process.pid}/fd", f"only the first {limit} descriptors were read")
            return
        try:
            target = escape_name(process.link(f"fd/{name}"))
            info = process.read(f"fdinfo/{name}", limit=SMALL_LIMIT)
        except OSError:
            continue  # closed meanwhile
        process.check()
        yield OpenFile(fd=int(name), target=target, info=escape_lines(info))


def thread_ids(process: Process, unread: Unreads, *, limit: int) -> Iterator[int]:
    """Yield at most *limit* of the process's threads."""
    for count, name in enumerate(_names(process, "task", unread)):
        if count == limit:
            unread.add(f"/proc/{process.pid}/task", f"only the first {limit} threads were read")
            return
        yield int(name)


def thread_row(process: Process, tid: int, names: Sequence[str], unread: Unreads) -> ThreadRow:
    """Read the small files *names* of one thread."""
    files = {}
    for name in names:
        try:
            files[name] = escape_lines(process.read(f"task/{tid}/{name}", limit=SMALL_LIMIT))
        except OSError as exc:
            unread.add(f"/proc/{process.pid}/task/{tid}/{name}", exc)
    process.check()
    return ThreadRow(tid=tid, files=files)


def _names(process: Process, directory: str, unread: Unreads) -> Iterator[str]:
    """Yield the names in one of the process's directories, as they come."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process.dir_fd)
    except OSError as exc:
        unread.add(f"/proc/{process.pid}/{directory}", exc)
        return
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                yield entry.name
    finally:
        os.close(fd)
