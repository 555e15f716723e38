"""The whole machine as ``/proc`` and ``/sys`` show it, verbatim."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import ClassVar

from collector.collectors.base import Context, names_of
from collector.collectors.proc_files.values import NODES, value_rows
from collector.host.files import READ_FLAGS, Host, body, open_regular
from collector.host.read_errors import ReadErrors
from collector.model.artifact import Artifact, Footprint, SourceInfo, Truncated
from collector.model.errors import StepError
from collector.model.pressure import StepClass
from collector.model.redaction import Redaction
from collector.model.text import joined

COMMAND_LINE = "/proc/cmdline"
# The fastest-changing come first; those that take a lock that may be held for long (slab_mutex, module_mutex, flc_lock)
# come last. Left out on purpose: pagetypeinfo (holds the zone lock while it walks the free lists), vmallocinfo, net/tcp
# and net/unix (walk every socket under locks).
PATHS = (
    "/proc/meminfo", "/proc/vmstat", "/proc/zoneinfo", "/proc/buddyinfo",
    "/proc/pressure/memory", "/proc/pressure/io", "/proc/pressure/cpu", "/proc/pressure/irq",
    "/proc/loadavg", "/proc/stat", "/proc/diskstats", "/proc/interrupts", "/proc/softirqs",
    "/proc/net/sockstat", "/proc/net/sockstat6", "/proc/net/dev", "/proc/net/snmp", "/proc/net/netstat",
    "/proc/net/softnet_stat", "/proc/schedstat",
    "/proc/sysvipc/shm", "/proc/sysvipc/sem", "/proc/sysvipc/msg",
    "/proc/self/mountinfo", "/proc/mounts", "/proc/swaps", "/proc/partitions", "/proc/filesystems",
    COMMAND_LINE, "/proc/version", "/proc/uptime", "/proc/cpuinfo", "/proc/mdstat",
    "/proc/cgroups",
)  # fmt: skip
LAST = ("/proc/locks", "/proc/modules", "/proc/slabinfo")
VALUES = PurePosixPath("values.tsv")
NODE_FILES = ("meminfo", "numastat", "vmstat")
# The largest, zoneinfo and interrupts, take 1 to 2 MiB on machines with hundreds of cores.
MAX_BYTES = 4 << 20

_ALLOWED = re.compile(r"/(?:proc|sys)(?:/[^/\0]+)+")
# Reading these consumes data that another reader is waiting for.
_CONSUMED = re.compile(r"/proc/kmsg|/sys/.*/trace_pipe(?:_raw)?")
_OF_A_PROCESS = re.compile(r"/proc/(?:[0-9]+|self|thread-self)(?:/|\Z)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcFiles:
    """
    Copy system-wide files of ``/proc`` and ``/sys`` verbatim; in the kernel's command line, secrets are hidden.

    Those of one value each, such as sysctls, are the lines of one table.

    Args:
        paths: Further files below ``/proc`` or ``/sys``, except those of a process.
    """

    name: ClassVar[str] = "proc_files"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=4 << 20, timeout_s=10.0)
    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path in self.paths:
            if not _ALLOWED.fullmatch(path) or {".", ".."} & set(path.split("/")):
                raise ValueError(f"{path!r} is not below /proc or /sys; for other files use the collector `files`")
            if _OF_A_PROCESS.match(path):
                raise ValueError(f"{path!r} belongs to a process; use the collector `process`")
            if _CONSUMED.fullmatch(path):
                raise ValueError(f"{path!r} is consumed by reading it; for the kernel log use the collector `dmesg`")

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """Yield one artifact per file; of its own list, those that this kernel lacks are skipped."""
        unread = ReadErrors()
        missing: list[str] = []
        yield from self._files(ctx, (*PATHS, *_node_files(ctx.host)), unread, missing)
        values = joined(value_rows(ctx.host))  # at most 100 KiB
        if first := next(values, b""):
            yield Artifact(path=VALUES, body=chain((first,), values))
        yield from self._files(ctx, (*self.paths, *LAST), unread, missing)
        yield from unread.artifacts()
        if missing:
            raise Truncated(f"not read: {names_of(missing)}; see unread.jsonl")

    def _files(
        self, ctx: Context, paths: tuple[str, ...], unread: ReadErrors, missing: list[str]
    ) -> Iterator[Artifact]:
        for path in paths:
            try:
                yield _read(ctx.host, path, ctx.redaction)
            except FileNotFoundError:
                if path in self.paths:
                    missing.append(path)
                    unread.add(path, "this kernel does not have it")
            except (OSError, StepError) as exc:
                if path in self.paths:
                    missing.append(path)
                unread.add(path, exc)


def _read(host: Host, path: str, redaction: Redaction) -> Artifact:
    # O_NONBLOCK: reading some of these files would wait for an event.
    fd = open_regular(host.path(path), flags=READ_FLAGS | os.O_NONBLOCK)
    names = (re.sub(r"[^A-Za-z0-9._-]", "_", part) for part in path.split("/")[1:])
    content = body(fd, limit=MAX_BYTES)
    if path == COMMAND_LINE and isinstance(content, bytes):  # at most 32 KiB: COMMAND_LINE_SIZE
        content = redaction.text(content)
    return Artifact(path=PurePosixPath(*names), body=content, source=SourceInfo(path=path))


def _node_files(host: Host) -> list[str]:
    """Return the paths of the memory files of all NUMA nodes."""
    try:
        names = host.listdir(NODES)
    except OSError:
        return []
    return [f"{NODES}/{name}/{file}" for name in names if re.fullmatch(r"node[0-9]+", name) for file in NODE_FILES]
