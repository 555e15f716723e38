"""Every process of the machine, as ``ps`` would show them, without ``ps``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import ClassVar

from collector.collectors.base import Context
from collector.collectors.process_table.blocked import Suspects, blocked
from collector.collectors.process_table.commands import commands
from collector.collectors.process_table.fields import WHOLE, number_after, optional
from collector.host.files import Host
from collector.host.guarded_read import Guard
from collector.host.own_procfs import LIMIT_REASON, STAT_ONLY, Procfs, WalkError, batches, fits
from collector.host.process_stat import Stat, read_stat
from collector.host.procfs import CLOCK_TICKS_PER_S, PAGE_BYTES
from collector.host.read_errors import ReadErrors
from collector.model.artifact import Artifact, Footprint, SourceInfo, Truncated
from collector.model.errors import StepError
from collector.model.pressure import StepClass
from collector.model.text import escape, joined, jsonl
from collector.model.units import Seconds

COLUMNS = (
    "pid", "ppid", "uid", "state", "comm", "threads", "nice", "cpu", "rss_kib", "shmem_kib", "swap_kib", "vsize_kib",
    "utime_s", "stime_s", "minor_faults", "major_faults", "start_ticks", "elapsed_s", "oom_score", "oom_score_adj",
    "wchan", "cgroup",
)  # fmt: skip
STATUS_KEYS = (b"\nUid:", b"\nRssShmem:", b"\nVmSwap:")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTable:
    """
    List all processes, one line each, tabs between the fields, and the kernel stacks of tasks in state D.

    Args:
        read_timeout: Deadline for reading one process's command line, or one kernel stack; that takes a lock which the
            process can hold indefinitely.
    """

    name: ClassVar[str] = "process_table"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=8 << 20, timeout_s=10.0)
    read_timeout: Seconds = Seconds(1.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """Yield ``processes.tsv``, whose reads cannot hang; then ``blocked.jsonl`` and ``commands.tsv``, whose can."""
        source = SourceInfo(path="/proc")
        try:
            now_s = float(ctx.host.read("/proc/uptime", limit=64).split()[0])
        except OSError as exc:
            raise StepError(f"/proc/uptime: {exc.strerror}", hint="is /proc mounted?") from exc
        suspects, unread = Suspects(), ReadErrors()
        table = joined(rows(ctx.host, now_s, suspects.add))
        yield Artifact(path=PurePosixPath("processes.tsv"), body=table, source=source)
        with closing(Guard(self.read_timeout)) as guard:
            tasks = jsonl(blocked(ctx.host, suspects, guard, unread, ctx.remaining_s))
            yield Artifact(path=PurePosixPath("blocked.jsonl"), body=tasks, source=source, media="jsonl")
            lines = commands(ctx.host, ctx.redaction, guard, unread, ctx.remaining_s)
            yield Artifact(path=PurePosixPath("commands.tsv"), body=joined(lines), source=source)
        yield from unread.artifacts()


def rows(host: Host, now_s: float, notice: Callable[[Stat], None] = lambda _: None) -> Iterator[bytes]:
    """
    Yield the header, then one line per process, with tabs between the fields; *now_s* is seconds since boot.

    *notice* is called for each process. A field that could not be read is empty. No file read here takes the process's
    ``mmap_lock``, so no read can hang.

    Raises:
        Truncated: At the end, if processes or fields had to be left out.
    """
    yield "\t".join(COLUMNS).encode() + b"\n"
    whole = fits(host, WHOLE)
    read = optional if whole else _nothing
    try:
        with closing(batches(host, most=WHOLE if whole else STAT_ONLY)) as found:
            for procfs, listed in found:
                for pid in listed:
                    if (row := _row(procfs, pid, now_s, read, notice)) is not None:
                        yield row
    except WalkError as exc:
        raise Truncated(str(exc)) from exc
    if not whole:
        raise Truncated(f"only stat was read of each process, {LIMIT_REASON}")


def _row(
    procfs: Procfs, pid: int, now_s: float, read: Callable[[int, str], bytes], notice: Callable[[Stat], None]
) -> bytes | None:
    """Return a process's line; ``None`` if it has ended."""
    try:
        with procfs.process(pid) as process:
            stat = read_stat(process)
            notice(stat)
            return _line(stat, now_s, partial(read, process))
    except (OSError, ValueError):
        return None


def _line(stat: Stat, now_s: float, read: Callable[[str], bytes]) -> bytes:
    status = read("status")  # the kernel escapes its first line, Name: that cannot forge another one
    uid, shmem, swap = (number_after(status, key) for key in STATUS_KEYS)
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


def _nothing(process: int, name: str) -> bytes:  # noqa: ARG001 - stands in for `optional`
    return b""


def _longest_path(cgroup: bytes) -> bytes:
    """Return the longest of a process's cgroup paths, which is the most specific one."""
    return max((line.split(b":", 2)[2] for line in cgroup.splitlines() if line.count(b":") >= 2), key=len, default=b"")
