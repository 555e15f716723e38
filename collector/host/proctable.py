"""Rows of the process table, read from ``/proc`` by directory descriptor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

from collector.host.files import Host
from collector.host.guarded_read import ExhaustedError, Guard, WedgedError
from collector.host.own_procfs import NO_MORE, STAT_ALONE, Procfs, WalkError, affordable, batches, fits
from collector.host.procfs import CLOCK_TICKS_PER_S, PAGE_BYTES, STAT_LIMIT, Stat, parse_stat, read_at
from collector.host.read_errors import Unreads
from collector.model.artifact import Truncated
from collector.model.redaction import Redaction
from collector.model.text import escape

COLUMNS = (
    "pid", "ppid", "uid", "state", "comm", "threads", "nice", "cpu", "rss_kib", "shmem_kib", "swap_kib", "vsize_kib",
    "utime_s", "stime_s", "minor_faults", "major_faults", "start_ticks", "elapsed_s", "oom_score", "oom_score_adj",
    "wchan", "cgroup",
)  # fmt: skip
COMMAND_COLUMNS = ("pid", "start_ticks", "read_bytes", "write_bytes", "args")
# The names looked up of a process, for both files: its directory, the six files of a row, cmdline and io. Without a
# procfs of one's own, so many processes are read in full.
WHOLE = affordable(names=9)
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

    Raises:
        Truncated: At the end, if what was read of how many processes had to be limited.
    """
    yield "\t".join(COLUMNS).encode() + b"\n"
    whole = fits(host, WHOLE)
    read = _optional if whole else _nothing
    try:
        with closing(batches(host, most=WHOLE if whole else STAT_ALONE)) as found:
            for procfs, listed in found:
                yield from (row for pid in listed if (row := _row(procfs, pid, now_s, read)) is not None)
    except WalkError as exc:
        raise Truncated(str(exc)) from exc
    if not whole:
        raise Truncated(f"only stat was read of each process, {NO_MORE}")


def _row(procfs: Procfs, pid: int, now_s: float, read: Callable[[int, str], bytes]) -> bytes | None:
    """Return a process's line; ``None`` if it is gone."""
    try:
        process = procfs.open(pid)
    except OSError:
        return None
    try:
        stat = parse_stat(read_at(process, "stat", STAT_LIMIT))
    except (OSError, ValueError):
        return None
    else:
        return _line(stat, now_s, partial(read, process))
    finally:
        os.close(process)


def _line(stat: Stat, now_s: float, read: Callable[[str], bytes]) -> bytes:
    uid, shmem, swap = _from_status(read("status"))
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
        read("oom_score").decode("ascii", "replace").strip(),
        read("oom_score_adj").decode("ascii", "replace").strip(),
        escape(read("wchan")),
        escape(_longest_path(read("cgroup"))),
    )
    return "\t".join(fields).encode() + b"\n"


def _optional(process: int, name: str, limit: int = FILE_LIMIT) -> bytes:
    """Return a file's first bytes; nothing if it may not be read, or the process has just ended."""
    try:
        return read_at(process, name, limit)
    except OSError:
        return b""


def _nothing(process: int, name: str) -> bytes:  # noqa: ARG001 - in the place of `_optional`
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
    yield "\t".join(COMMAND_COLUMNS).encode() + b"\n"
    if not fits(host, WHOLE):
        raise Truncated(f"command lines and I/O counters were not read, {NO_MORE}")
    try:
        with closing(batches(host, most=WHOLE)) as found:
            for procfs, listed in found:
                read = partial(_command, procfs, redaction)
                for at in range(0, len(listed), BATCH):
                    yield from _guarded(read, listed[at : at + BATCH], guard, unread, remaining_s)
    except WalkError as exc:
        raise Truncated(str(exc)) from exc
    if len(unread):
        raise Truncated(f"{len(unread)} processes hold locks that reading their command lines takes")


def _guarded(
    read: Callable[[int], bytes | None],
    batch: list[int],
    guard: Guard,
    unread: Unreads,
    remaining_s: Callable[[], float],
) -> Iterator[bytes]:
    """Yield the lines of *batch*; a process whose locks are held is noted in *unread*."""
    while batch:
        if remaining_s() < guard.longest_s:
            raise Truncated("the step's time was used up")
        lines: list[bytes | None] = []
        try:
            guard.call_many(read, batch, lines)
        except ExhaustedError as exc:
            raise Truncated(str(exc)) from exc
        except WedgedError as exc:
            for pid in batch[len(lines) : len(lines) + 1]:
                unread.add(f"/proc/{pid}/cmdline", exc)
                lines.append(None)
        yield from (line for line in lines if line is not None)
        batch = batch[len(lines) :]


def _command(procfs: Procfs, redaction: Redaction, pid: int) -> bytes | None:
    """Return a process's line; ``None`` if it is gone."""
    try:
        process = procfs.open(pid)
    except OSError:
        return None
    try:
        start_ticks = parse_stat(read_at(process, "stat", STAT_LIMIT)).start_ticks
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
