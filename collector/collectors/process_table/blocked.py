"""
Tasks in uninterruptible sleep (state D), with what each waits for: its kernel stack.

``/proc/PID/stat`` has the state of the first thread only, so those of processes with several are looked at one by one.
Nothing counts them: ``procs_blocked`` in ``/proc/stat`` leaves out who waits for a lock, as on a frozen file system.
Source: proc_pid_stack(5); fs/proc/base.c, proc_pid_stack (Linux 6.18), which takes ``exec_update_lock`` and never
``mmap_lock``.
"""

from __future__ import annotations

import array
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from itertools import islice

import msgspec

from collector.collectors.process_table.fields import optional, owner_in
from collector.host.files import READ_FLAGS, Host, OpenFd, read_at
from collector.host.guarded_read import ExhaustedError, Guard, WedgedError
from collector.host.own_procfs import Procfs, affordable
from collector.host.process_stat import STAT_LIMIT, Stat, read_stat
from collector.host.read_errors import ReadErrors
from collector.host.subordinates import owners
from collector.model.artifact import Truncated
from collector.model.owners import Owners, by_owner
from collector.model.shares import FairChoice, has_room
from collector.model.text import escape, escape_lines

UNINTERRUPTIBLE = "D"
# A stack takes about 0.5 KiB: as many as a machine has whose disk is gone, and 256 KiB of the memory for evidence.
MAX_BLOCKED = 512
# Looking at one takes 16 us of CPU (2,040 threads: 33 ms).
MAX_THREADS = 16_384
# Of one process at most this part of them, so that what a user takes beyond the share stays small.
PART_OF_ONE = 8
# Threads per private procfs: each leaves its directory and its stat, about 2 KB.
RENEW_AFTER_THREADS = 2000
# Without a private procfs: an eighth of what the tables may leave in the kernel's caches.
AFFORDABLE_THREADS = affordable(names=3) // 8


class BlockedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A line of ``blocked.jsonl``; *start_ticks* is the task's own, the process's if it is the first thread."""

    pid: int
    tid: int
    comm: str
    state: str
    start_ticks: int
    cpu: int
    wchan: str
    syscall: str
    stack: str


class Suspects:
    """Processes that have blocked tasks, or may have: 4 bytes each, so that the table's memory does not grow."""

    def __init__(self) -> None:
        self._blocked = array.array("i")
        self._threaded = array.array("i")

    def add(self, stat: Stat) -> None:
        """Note a process if its first thread is blocked, or if it has others."""
        if stat.state == UNINTERRUPTIBLE:
            self._blocked.append(stat.pid)
        elif stat.threads > 1:
            self._threaded.append(stat.pid)

    def __iter__(self) -> Iterator[int]:
        """Yield their PIDs, those that are known to be blocked first."""
        yield from self._blocked
        yield from self._threaded


def blocked(
    host: Host, suspects: Suspects, guard: Guard, unread: ReadErrors, remaining_s: Callable[[], float]
) -> Iterator[BlockedTask]:
    """
    Yield the blocked tasks of *suspects*; one that runs again by now is left out.

    Raises:
        Truncated: At the end, if some were not looked at, or their stacks not read.
    """
    users = owners(host)
    chosen: FairChoice[tuple[int, int]] = FairChoice(MAX_BLOCKED, rank=lambda _: 0.0)
    reasons = _search(host, suspects, users, chosen)
    before = len(unread)
    if left_out := chosen.left_out:
        reasons.append(f"{left_out.total()} beyond {MAX_BLOCKED} tasks were left out ({by_owner(left_out)})")
    with closing(Procfs.best(host)[0]) as procfs:
        for pid, tid in chosen.chosen():
            owner = owner_in(procfs, users, pid)
            if remaining_s() < guard.longest_s:
                raise Truncated("the step's time was used up")
            if not guard.may_read(owner):
                unread.add(f"/proc/{pid}/task/{tid}/stack", f"not tried: others of {owner} hold their locks", owner)
                continue
            try:
                task = guard.call(partial(_task, procfs, pid, tid))
            except ExhaustedError as exc:
                raise Truncated(str(exc)) from exc
            except WedgedError as exc:
                guard.blame(owner)
                unread.add(f"/proc/{pid}/task/{tid}/stack", exc, owner)
                continue
            if task is not None:
                yield task
    if stuck := len(unread) - before:
        reasons.append(f"{stuck} tasks were not read: their processes or others of their user hold their locks")
    if reasons:
        raise Truncated("; ".join(reasons))


def _search(host: Host, suspects: Suspects, users: Owners, chosen: FairChoice[tuple[int, int]]) -> list[str]:
    """Add the blocked tasks of *suspects* to *chosen*; return why some were not looked at."""
    looked_at: Counter[str] = Counter()
    unseen: Counter[str] = Counter()
    procfs, private = Procfs.best(host)
    most = MAX_THREADS if private else AFFORDABLE_THREADS
    since_renewed = 0
    try:
        for pid in suspects:
            owner = owner_in(procfs, users, pid)
            if not has_room(looked_at, owner, most):
                unseen[owner] += 1
                continue
            states = _states(procfs, pid)
            for tid, state in islice(states, most // PART_OF_ONE):
                looked_at[owner] += 1
                since_renewed += 1
                if state == UNINTERRUPTIBLE:
                    chosen.add((pid, tid), owner)
            unseen[owner] += next(states, None) is not None
            states.close()
            if private and since_renewed > RENEW_AFTER_THREADS:
                procfs.close()
                (procfs, private), since_renewed = Procfs.best(host), 0
    finally:
        procfs.close()
    if not (unseen := +unseen):
        return []
    limit = f"{most} threads, and {most // PART_OF_ONE} of one process"
    return [f"threads of {unseen.total()} processes beyond {limit} were not looked at ({by_owner(unseen)})"]


def _states(procfs: Procfs, pid: int) -> Generator[tuple[int, str], None, None]:
    """Yield the threads of a process, and the state of each."""
    try:
        with procfs.process(pid) as process:
            tasks = os.open("task", READ_FLAGS | os.O_DIRECTORY, dir_fd=process)
    except OSError:
        return
    with OpenFd(tasks), os.scandir(tasks) as entries:
        for entry in entries:
            try:
                stat = read_at(tasks, f"{entry.name}/stat", STAT_LIMIT)
            except OSError:  # it has ended
                continue
            yield int(entry.name), stat[stat.rfind(b") ") + 2 :][:1].decode("ascii", "replace")


def _task(procfs: Procfs, pid: int, tid: int) -> BlockedTask | None:
    """Return a task that is still blocked, all of it read through one descriptor; ``None`` if it is not."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        with procfs.process(pid) as process, OpenFd(os.open(f"task/{tid}", flags, dir_fd=process)) as task:
            stat = read_stat(task)
            if stat.state != UNINTERRUPTIBLE:
                return None
            return BlockedTask(
                pid=pid,
                tid=tid,
                comm=escape(stat.comm),
                state=stat.state,
                start_ticks=stat.start_ticks,
                cpu=stat.processor,
                wchan=escape(optional(task, "wchan")),
                syscall=escape(optional(task, "syscall").strip()),
                stack=escape_lines(optional(task, "stack")),
            )
    except (OSError, ValueError):
        return None
