"""Which of a process's files are read, in what order: those whose reads can hang come last."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from collector.host.files import OpenFd
from collector.host.procfs import Process
from collector.host.read_errors import ReadErrors
from collector.model.artifact import Truncated
from collector.model.errors import StepError
from collector.model.text import escape_lines, escape_name, jsonl

# These take no lock that a thread of the process could hold while it sleeps.
FILES = (
    "stat", "status", "statm", "comm", "wchan", "sched", "schedstat", "oom_score", "oom_score_adj", "cgroup", "cpuset",
    "limits", "timers", "loginuid", "sessionid", "autogroup", "attr/current", "auxv", "coredump_filter", "mountinfo",
    "uid_map", "gid_map", "setgroups", "arch_status",
)  # fmt: skip
# These take exec_update_lock, which is held during execve(2).
EXEC_FILES = ("io", "stack", "syscall", "personality")
# These take mmap_lock, which a thread may hold while it waits for a dead disk; the cheapest first.
MEMORY_FILES = ("cmdline", "environ", "maps", "ksm_stat", "smaps_rollup")
# So do these; of 20,000 mappings they take 16 MiB, and keep nothing else out.
LARGE_FILES = ("numa_maps", "smaps")
THREAD_FILES = ("stat", "status", "wchan", "schedstat")
THREAD_EXEC_FILES = ("stack", "syscall")
LINKS = ("exe", "cwd", "root")
SMALL_LIMIT = 4096


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """Targets of the process's symlinks, as text; none of them is followed."""

    links: dict[str, str]
    namespaces: dict[str, str]


class OpenFile(msgspec.Struct, frozen=True, kw_only=True):
    """One open descriptor: its target and its ``fdinfo`` lines."""

    fd: int
    target: str
    info: str


class ThreadRow(msgspec.Struct, frozen=True, kw_only=True):
    """One thread, with the text of its small files."""

    tid: int
    files: dict[str, str]


def links(process: Process, unread: ReadErrors) -> Links:
    found: dict[str, dict[str, str]] = {"": {}, "ns/": {}}
    for directory, names in (("", LINKS), ("ns/", _names(process, "ns", unread))):
        for name in names:
            try:
                found[directory][name] = escape_name(process.link(directory + name))
            except OSError as exc:
                unread.add(f"/proc/{process.pid}/{directory}{name}", exc)
    return Links(links=found[""], namespaces=found["ns/"])


def open_files(process: Process, unread: ReadErrors, *, limit: int) -> Iterator[OpenFile]:
    """Yield the process's open descriptors, at most *limit*."""
    for name in _names(process, "fd", unread, limit=limit):
        try:
            target = escape_name(process.link(f"fd/{name}"))
            info = process.read(f"fdinfo/{name}", limit=SMALL_LIMIT)
        except OSError:
            continue  # closed meanwhile
        process.check()
        yield OpenFile(fd=int(name), target=target, info=escape_lines(info))


def thread_ids(process: Process, unread: ReadErrors, *, limit: int) -> Iterator[int]:
    """Return the process's thread IDs, at most *limit*."""
    return map(int, _names(process, "task", unread, limit=limit))


def thread_row(process: Process, tid: int, names: Sequence[str], unread: ReadErrors) -> ThreadRow:
    files = {}
    for name in names:
        try:
            files[name] = escape_lines(process.read(f"task/{tid}/{name}", limit=SMALL_LIMIT))
        except OSError as exc:
            unread.add(f"/proc/{process.pid}/task/{tid}/{name}", exc)
    process.check()
    return ThreadRow(tid=tid, files=files)


def table(rows: Iterable[msgspec.Struct]) -> Iterator[bytes]:
    """Yield *rows* as JSON lines, up to the first one that may not be this process's."""
    return jsonl(_until_replaced(rows))


def _until_replaced(rows: Iterable[msgspec.Struct]) -> Iterator[msgspec.Struct]:
    try:
        yield from rows
    except (OSError, StepError) as exc:
        raise Truncated(str(exc)) from exc


def _names(process: Process, directory: str, unread: ReadErrors, *, limit: int | None = None) -> Iterator[str]:
    """Yield the names in one of the process's directories, at most *limit*."""
    try:
        fd = process.open(directory)
    except OSError as exc:
        unread.add(f"/proc/{process.pid}/{directory}", exc)
        return
    with OpenFd(fd), os.scandir(fd) as entries:
        for count, entry in enumerate(entries):
            if count == limit:
                unread.add(f"/proc/{process.pid}/{directory}", f"only the first {limit} were read")
                return
            yield entry.name
