"""Rows of the process table, read from ``/proc`` by directory descriptor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from collector.host.deadline import ExhaustedError, Guard, WedgedError
from collector.host.files import READ_FLAGS, Host
from collector.host.procfs import CLOCK_TICKS_PER_S, PAGE_BYTES, STAT_LIMIT, Stat, parse_stat, pids
from collector.host.unread import Unreads
from collector.model.artifact import Truncated
from collector.model.redaction import Redaction
from collector.model.text import escape

COLUMNS = (
    "pid", "ppid", "uid", "state", "comm", "threads", "nice", "cpu", "rss_kib", "shmem_kib", "swap_kib", "vsize_kib",
    "utime_s", "stime_s", "minor_faults", "major_faults", "start_ticks", "elapsed_s", "oom_score", "oom_score_adj",
    "wchan", "cgroup",
)  # fmt: skip
COMMAND_COLUMNS = ("pid", "start_ticks", "read_bytes", "write_bytes", "args")
STATUS_KEYS = (b"\nUid:", b"\nRssShmem:", b"\nVmSwap:")
FILE_LIMIT = 4096
# Command lines are cut there; the whole of one is the collector `process`'s to keep.
ARGS_LIMIT = 4096
# How many processes the guarded reader does per hand-over between threads: 10,084 of them took 0.62 s of CPU one
# by one, 0.41 s in batches of 64 and in batches of 512.
BATCH = 64


def uptime_s(host: Host) -> float:
    """Return the seconds since boot."""
    return float(host.read("/proc/uptime", limit=64).split()[0])


def rows(host: Host, now_s: float) -> Iterator[bytes]:
    """
    Yield the table, a header and one line per process, tabs between the fields.

    A field that could not be read is empty. None of the files read here takes the process's
    ``mmap_lock``, so none of these reads can hang on another process.

    Args:
        host: The door to the kernel.
        now_s: Seconds since boot, for the ages.
    """
    yield "\t".join(COLUMNS).encode() + b"\n"
    proc = os.open(host.path("/proc"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for pid in pids(host):
            row = _row(proc, pid, now_s)
            if row is not None:
                yield row
    finally:
        os.close(proc)


def _row(proc: int, pid: int, now_s: float) -> bytes | None:
    """Return a process's line; ``None`` if it is gone."""
    try:
        process = os.open(str(pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return None
    try:
        stat = parse_stat(_read(process, "stat", STAT_LIMIT))
    except (OSError, ValueError):
        return None
    else:
        return _line(process, stat, now_s)
    finally:
        os.close(process)


def _line(process: int, stat: Stat, now_s: float) -> bytes:
    uid, shmem, swap = _from_status(_optional(process, "status"))
    fields = (
        str(stat.pid),
        str(stat.ppid),
        uid,
        stat.state,
        escape(stat.comm),
        str(stat.threads),
        str(stat.nice),
        str(stat.processor),
        str(stat.rss_pages * PAGE_BYTES // 1024),
        shmem,
        swap,
        str(stat.vsize_bytes // 1024),
        f"{stat.utime_ticks / CLOCK_TICKS_PER_S:.2f}",
        f"{stat.stime_ticks / CLOCK_TICKS_PER_S:.2f}",
        str(stat.minor_faults),
        str(stat.major_faults),
        str(stat.start_ticks),
        f"{max(0.0, now_s - stat.start_ticks / CLOCK_TICKS_PER_S):.2f}",
        _optional(process, "oom_score").decode("ascii", "replace").strip(),
        _optional(process, "oom_score_adj").decode("ascii", "replace").strip(),
        escape(_optional(process, "wchan")),
        escape(_longest_path(_optional(process, "cgroup"))),
    )
    return "\t".join(fields).encode() + b"\n"


def _read(process: int, name: str, limit: int) -> bytes:
    fd = os.open(name, READ_FLAGS, dir_fd=process)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def _optional(process: int, name: str, limit: int = FILE_LIMIT) -> bytes:
    """Return a file's first bytes; nothing if it may not be read, or the process has just ended."""
    try:
        return _read(process, name, limit)
    except OSError:
        return b""


def _from_status(status: bytes) -> tuple[str, str, str]:
    """Return real uid, RssShmem and VmSwap. ``Name`` comes first and is escaped by the kernel: no line is forged."""
    uid, shmem, swap = (_number_after(status, key) for key in STATUS_KEYS)
    return uid, shmem, swap


def _longest_path(cgroup: bytes) -> bytes:
    """Return the most telling of a process's cgroup paths: the longest one of its hierarchies."""
    return max((line.split(b":", 2)[2] for line in cgroup.splitlines() if line.count(b":") >= 2), key=len, default=b"")


def commands(
    host: Host, redaction: Redaction, guard: Guard, unread: Unreads, remaining_s: Callable[[], float]
) -> Iterator[bytes]:
    """
    Yield what can only be read under another process's locks: command lines and I/O counters.

    A process whose locks are held costs one deadline and its own line; the stream then ends with
    `Truncated`. So it does when the step's own time is nearly used up, instead of with the worker.
    """
    stuck = 0
    yield "\t".join(COMMAND_COLUMNS).encode() + b"\n"
    listing = pids(host)
    while batch := list(islice(listing, BATCH)):
        while batch:
            if remaining_s() < guard.longest_s:
                raise Truncated("the step's time was used up")
            lines: list[bytes | None] = []
            try:
                guard.call_many(partial(_command, host, redaction), batch, lines)
            except ExhaustedError as exc:
                raise Truncated(str(exc)) from exc
            except WedgedError as exc:
                for pid in batch[len(lines) : len(lines) + 1]:
                    unread.add(f"/proc/{pid}/cmdline", exc)
                    lines.append(None)
                    stuck += 1
            yield from (line for line in lines if line is not None)
            batch = batch[len(lines) :]
    if stuck:
        raise Truncated(f"{stuck} processes hold locks that reading their command lines takes")


def _command(host: Host, redaction: Redaction, pid: int) -> bytes | None:
    """Return a process's line; ``None`` if it is gone."""
    try:
        process = os.open(host.path(f"/proc/{pid}"), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        start_ticks = parse_stat(_read(process, "stat", STAT_LIMIT)).start_ticks
        raw = _optional(process, "cmdline", ARGS_LIMIT)
        counters = _optional(process, "io")
    except (OSError, ValueError):
        return None
    finally:
        os.close(process)
    words = raw.rstrip(b"\0").split(b"\0") if raw else []
    args = escape(b" ".join(redaction.arguments(words)))
    fields = (
        str(pid),
        str(start_ticks),
        _number_after(counters, b"\nread_bytes:"),
        _number_after(counters, b"\nwrite_bytes:"),
        args,
    )
    return "\t".join(fields).encode() + b"\n"


def _number_after(text: bytes, key: bytes) -> str:
    """Return the word after *key*; empty without it."""
    at = text.find(key)
    words = text[at + len(key) : at + len(key) + 40].split(None, 1) if at >= 0 else []
    return words[0].decode("ascii", "replace") if words else ""
