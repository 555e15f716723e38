"""Every process of the machine, as ``ps`` would show them, without ``ps``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import ClassVar

from collector.collectors.base import Context
from collector.host.files import Host, read_at
from collector.host.guarded_read import ExhaustedError, Guard, WedgedError
from collector.host.own_procfs import LIMIT_REASON, STAT_ONLY, Procfs, WalkError, affordable, batches, fits
from collector.host.process_identity import real_uid
from collector.host.process_stat import Stat, read_stat
from collector.host.procfs import CLOCK_TICKS_PER_S, PAGE_BYTES
from collector.host.read_errors import ReadErrors
from collector.host.subordinates import owners
from collector.model.artifact import Artifact, Footprint, SourceInfo, Truncated
from collector.model.errors import StepError
from collector.model.owners import Owners
from collector.model.pressure import StepClass
from collector.model.redaction import Redaction
from collector.model.text import escape, joined
from collector.model.units import Seconds

COLUMNS = (
    "pid", "ppid", "uid", "state", "comm", "threads", "nice", "cpu", "rss_kib", "shmem_kib", "swap_kib", "vsize_kib",
    "utime_s", "stime_s", "minor_faults", "major_faults", "start_ticks", "elapsed_s", "oom_score", "oom_score_adj",
    "wchan", "cgroup",
)  # fmt: skip
COMMAND_COLUMNS = ("pid", "start_ticks", "read_bytes", "write_bytes", "args")
# The number of processes that can be read in full without a private procfs. Both files together look up nine names per
# process: its directory, the six files of a row, cmdline and io.
WHOLE = affordable(names=9)
STATUS_KEYS = (b"\nUid:", b"\nRssShmem:", b"\nVmSwap:")
FILE_LIMIT = 4096
# Longer command lines are cut; the collector `process` keeps whole ones.
ARGS_LIMIT = 4096
# Processes per hand-over to the helper thread: 10,084 of them took 0.62 s of CPU one by one, 0.41 s in batches of 64 or
# of 512.
BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTable:
    """
    List all processes, one line each, tabs between the fields.

    Args:
        read_timeout: Deadline for reading one process's command line; that takes a lock which the process can
            hold indefinitely.
    """

    name: ClassVar[str] = "process_table"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=8 << 20, timeout_s=10.0)
    read_timeout: Seconds = Seconds(1.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """Yield ``processes.tsv``, whose reads cannot hang, then ``commands.tsv``, whose reads can."""
        source = SourceInfo(path="/proc")
        try:
            now_s = float(ctx.host.read("/proc/uptime", limit=64).split()[0])
        except OSError as exc:
            raise StepError(f"/proc/uptime: {exc.strerror}", hint="is /proc mounted?") from exc
        yield Artifact(path=PurePosixPath("processes.tsv"), body=joined(rows(ctx.host, now_s)), source=source)
        unread = ReadErrors()
        with closing(Guard(self.read_timeout)) as guard:
            lines = commands(ctx.host, ctx.redaction, guard, unread, ctx.remaining_s)
            yield Artifact(path=PurePosixPath("commands.tsv"), body=joined(lines), source=source)
        yield from unread.artifacts()


def rows(host: Host, now_s: float) -> Iterator[bytes]:
    """
    Yield the header, then one line per process, with tabs between the fields; *now_s* is seconds since boot.

    A field that could not be read is empty. No file read here takes the process's ``mmap_lock``, so no read can hang.

    Raises:
        Truncated: At the end, if processes or fields had to be left out.
    """
    yield "\t".join(COLUMNS).encode() + b"\n"
    whole = fits(host, WHOLE)
    read = _optional if whole else _nothing
    try:
        with closing(batches(host, most=WHOLE if whole else STAT_ONLY)) as found:
            for procfs, listed in found:
                yield from (row for pid in listed if (row := _row(procfs, pid, now_s, read)) is not None)
    except WalkError as exc:
        raise Truncated(str(exc)) from exc
    if not whole:
        raise Truncated(f"only stat was read of each process, {LIMIT_REASON}")


def _row(procfs: Procfs, pid: int, now_s: float, read: Callable[[int, str], bytes]) -> bytes | None:
    """Return a process's line; ``None`` if it has ended."""
    try:
        with procfs.process(pid) as process:
            return _line(read_stat(process), now_s, partial(read, process))
    except (OSError, ValueError):
        return None


def _line(stat: Stat, now_s: float, read: Callable[[str], bytes]) -> bytes:
    status = read("status")  # the kernel escapes its first line, Name: that cannot forge another one
    uid, shmem, swap = (_number_after(status, key) for key in STATUS_KEYS)
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
    """Return a file's first bytes; nothing if it may not be read or the process has ended."""
    try:
        return read_at(process, name, limit)
    except OSError:
        return b""


def _nothing(process: int, name: str) -> bytes:  # noqa: ARG001 - stands in for `_optional`
    return b""


def _longest_path(cgroup: bytes) -> bytes:
    """Return the longest of a process's cgroup paths, which is the most specific one."""
    return max((line.split(b":", 2)[2] for line in cgroup.splitlines() if line.count(b":") >= 2), key=len, default=b"")


def commands(
    host: Host, redaction: Redaction, guard: Guard, unread: ReadErrors, remaining_s: Callable[[], float]
) -> Iterator[bytes]:
    """
    Yield command lines and I/O counters, which can only be read under the process's own locks.

    A process that holds them costs one deadline and its own line; the stream then ends with `Truncated`. It does so
    too when the step's time is nearly used up, before the worker is killed. Of a user who has several such processes,
    no further ones are read.
    """
    yield "\t".join(COMMAND_COLUMNS).encode() + b"\n"
    if not fits(host, WHOLE):
        raise Truncated(f"command lines and I/O counters were not read, {LIMIT_REASON}")
    try:
        users = owners(host)
        with closing(batches(host, most=WHOLE)) as found:
            for procfs, listed in found:
                read, owner = partial(_command, procfs, redaction), partial(_owner, procfs, users)
                for at in range(0, len(listed), BATCH):
                    yield from _guarded(read, listed[at : at + BATCH], owner, guard, unread, remaining_s)
    except WalkError as exc:
        raise Truncated(str(exc)) from exc
    if len(unread):
        raise Truncated(f"{len(unread)} processes were not read: they or others of their user hold their locks")


def _guarded(  # noqa: PLR0917 - what one batch needs
    read: Callable[[int], bytes | None],
    batch: list[int],
    owner: Callable[[int], str],
    guard: Guard,
    unread: ReadErrors,
    remaining_s: Callable[[], float],
) -> Iterator[bytes]:
    """Yield the lines of *batch*; record in *unread* a process that holds its locks, and those not read for that."""
    while batch:
        if guard.gave_up:
            batch = list(_permitted(batch, owner, guard, unread))
        if remaining_s() < guard.longest_s:
            raise Truncated("the step's time was used up")
        lines: list[bytes | None] = []
        try:
            guard.call_many(read, batch, lines)
        except ExhaustedError as exc:
            raise Truncated(str(exc)) from exc
        except WedgedError as exc:
            for pid in batch[len(lines) : len(lines) + 1]:
                guard.blame(owner(pid))
                unread.add(f"/proc/{pid}/cmdline", exc, owner(pid))
                lines.append(None)
        yield from (line for line in lines if line is not None)
        batch = batch[len(lines) :]


def _permitted(batch: list[int], owner: Callable[[int], str], guard: Guard, unread: ReadErrors) -> Iterator[int]:
    for pid in batch:
        if guard.may_read(owner(pid)):
            yield pid
        else:
            why = f"not tried: other processes of {owner(pid)} hold their locks"
            unread.add(f"/proc/{pid}/cmdline", why, owner(pid))


def _owner(procfs: Procfs, users: Owners, pid: int) -> str:
    """Return whose process it is, by its real uid."""
    try:
        with procfs.process(pid) as process:
            return users.of(real_uid(read_at(process, "status", FILE_LIMIT)))
    except OSError:  # it has ended
        return users.of(None)


def _command(procfs: Procfs, redaction: Redaction, pid: int) -> bytes | None:
    """Return a process's line; ``None`` if it has ended."""
    try:
        with procfs.process(pid) as process:
            start_ticks = read_stat(process).start_ticks
            raw = _optional(process, "cmdline", ARGS_LIMIT)
            counters = _optional(process, "io")
    except (OSError, ValueError):
        return None
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
    """Return the word after *key*; empty if *key* is missing."""
    at = text.find(key)
    words = text[at + len(key) : at + len(key) + 40].split(None, 1) if at >= 0 else []
    return words[0].decode("ascii", "replace") if words else ""
