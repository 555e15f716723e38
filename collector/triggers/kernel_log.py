"""Crashes in the kernel's log, read from the last position on, and what a panic left in pstore."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from collector.host.cgroup_membership import memory_cgroup
from collector.host.clock import boot_s
from collector.host.files import Host
from collector.host.identity import identify
from collector.host.kmsg import Kmsg, KmsgRecord
from collector.host.process_identity import identify_task, system_unit_of, thread_group
from collector.host.procfs import CLOCK_TICKS_PER_S
from collector.model.errors import DeniedError
from collector.model.identity import is_the_named, with_identity
from collector.model.knowledge import FACTS, Knowledge
from collector.model.marker import OOM_CGROUP, SYSTEM_UNIT, Marker, MarkerKind, ProcessRef
from collector.model.text import printable, unescape_name
from collector.triggers.base import TriggerContext, Watch
from collector.triggers.kernel_catalogue import DEFAULT, IN_CONTEXT, EventName
from collector.triggers.kernel_lines import OOM_TASK_MEMCG, KernelEvent, LinePatterns
from collector.triggers.kernel_reports import HOLD_S, OpenReports, Reported

PSTORE = "/sys/fs/pstore"
RECORDS_PER_READ = 256
LONGEST_FACT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLog:
    """
    Watch the kernel's log. Only the kernel's own lines count; lines that processes write to ``/dev/kmsg`` do not.

    Args:
        events: Which of the known events are markers; by default all but ``warning``, ``ubsan``, ``list_corruption``,
            ``md``, ``multipath``, ``ata`` and ``netdev_watchdog``.
        patterns: Further regular expressions, found anywhere in a line; groups named ``pid`` and
            ``comm`` give the process.
        pstore: At the start, one marker for the files that a panic left in ``/sys/fs/pstore``.
    """

    name: ClassVar[str] = "kernel_log"
    events: tuple[EventName, ...] = DEFAULT
    patterns: tuple[str, ...] = ()
    pstore: bool = True

    def __post_init__(self) -> None:
        LinePatterns(self.events, self.patterns)

    @property
    def knows(self) -> Knowledge:
        """Every fact but the signal, which only an OOM kill has."""
        told = frozenset(FACTS) if "oom_kill" in self.events else frozenset(FACTS) - {"signal"}
        return Knowledge(facts=told, signals=frozenset({int(signal.SIGKILL)}))

    def open(self, ctx: TriggerContext) -> KernelLogWatch:
        """Start reading; raise `DeniedError` if the log is not readable."""
        patterns = LinePatterns(self.events, self.patterns)
        boot_id = identify(ctx.host).boot_id
        kept = ctx.recall(f"{ctx.id}.kmsg")
        try:
            # Without a position, start at the end: what was logged before the installation is old.
            kmsg = Kmsg(ctx.host, at_end=kept is None)
        except OSError as exc:
            hint = "run with CAP_SYSLOG, or set kernel.dmesg_restrict=0"
            raise DeniedError(f"trigger {ctx.id}: /dev/kmsg: {exc.strerror}", hint=hint) from exc
        boot, _, seq = (kept or "").partition(" ")
        left_at = int(seq) if boot == boot_id and seq.isdigit() else None
        return KernelLogWatch(self, ctx, patterns, kmsg, boot_id, left_at, kept is None)


@dataclass(slots=True)
class KernelLogWatch(Watch):
    """
    An opened `KernelLog`; *left_at* is the last record that an earlier run of this boot has read.

    Once *caught_up*, what is read has just been logged.
    """

    trigger: KernelLog
    ctx: TriggerContext
    patterns: LinePatterns
    kmsg: Kmsg
    boot_id: str
    left_at: int | None
    caught_up: bool
    _missed: int = 0
    _reports: OpenReports = field(default_factory=OpenReports)
    _read_to: int | None = None
    """The last record that was read."""
    _heard_s: float = 0.0
    """When the kernel last wrote, by CLOCK_MONOTONIC: while it writes, the log's own clock says what is over."""
    _started: bool = False

    @property
    def lost(self) -> int:
        """Records overwritten before they were read, even while no daemon ran, and cores that the kernel gave up."""
        return self.kmsg.lost + self._missed

    def fileno(self) -> int:
        return self.kmsg.fileno()

    @property
    def poll_s(self) -> float | None:
        """Only while an event waits for its process."""
        return None if self._reports.oldest_seq is None else HOLD_S

    def read(self) -> Iterator[Marker | None]:
        """Yield the markers among the next 256 records, and store the new position."""
        lost = self.kmsg.lost
        count = 0
        for record in itertools.islice(self.kmsg.records(), RECORDS_PER_READ):
            count += 1
            if self.kmsg.lost != lost:
                lost = self.kmsg.lost  # and with them, perhaps, the end of one report and the beginning of another
                yield from map(self._marker, self._reports.give_up())
            if self._is_new(record) and record.facility == "kern":
                self._heard_s = time.monotonic()
                yield from map(self._marker, self._reports.take(record, self.patterns.find(record.message)))
            self._read_to = record.seq
            yield None
        self.caught_up = self.caught_up or count < RECORDS_PER_READ
        self._remember()

    def poll(self) -> Iterator[Marker]:
        """
        Yield the events that have waited long enough for their process.

        At the start, yield the marker of a panic; store the end of a log that was never read as the position.
        """
        if not self._started:
            self._started = True
            if self.ctx.recall(f"{self.ctx.id}.kmsg") is None:
                self.ctx.remember(f"{self.ctx.id}.kmsg", f"{self.boot_id} ")
            if self.trigger.pstore:
                yield from _panic(self.ctx)
        elif time.monotonic() - self._heard_s >= HOLD_S:
            yield from map(self._marker, self._reports.give_up())
            self._remember()

    def _remember(self) -> None:
        """Store up to where the log was read; an event that waits is read again after a restart."""
        held = self._reports.oldest_seq
        if self._read_to is not None:
            position = self._read_to if held is None else held - 1
            self.ctx.remember(f"{self.ctx.id}.kmsg", f"{self.boot_id} {position}")

    def close(self) -> None:
        self.kmsg.close()

    def _is_new(self, record: KmsgRecord) -> bool:
        """Return whether no earlier run has read the record; count the records overwritten since."""
        if self.left_at is None:
            return True
        if record.seq <= self.left_at:
            return False
        self._missed += record.seq - self.left_at - 1
        self.left_at = None
        return True

    def _marker(self, reported: Reported) -> Marker:
        record, found = reported.record, reported.event
        self._missed += found.event == "core_lost"
        facts = dict(found.facts)
        group = facts.pop(OOM_TASK_MEMCG, "")
        more = {key: printable(value, limit=LONGEST_FACT) for key, value in facts.items()}
        if 0 < len(group) <= LONGEST_FACT:  # a path that was cut off would be another's
            more[OOM_CGROUP] = memory_cgroup(self.ctx.host, group, identify=self.caught_up)
            unit = system_unit_of(b"0::" + os.fsencode(unescape_name(group)))
            more |= {} if unit is None else {SYSTEM_UNIT: unit}
        if found.event == "segfault":
            more["core_dumped"] = "pending"
        if found.unclear:
            more["no_process"] = found.unclear
        if reported.named_by:
            more["named_by"] = printable(reported.named_by, limit=256)
        if record.caller:
            more["caller"] = printable(record.caller, limit=32)
        # The kernel's clock stops during suspend, and so does this one.
        age_s = max(0.0, time.monotonic() - record.time_s)
        marker = Marker(
            kind=MarkerKind.KERNEL_LOG,
            trigger=self.ctx.id,
            at_s=time.time() - age_s,
            reason=printable(record.message, limit=512),
            comm=printable(found.comm) if found.comm and found.event not in IN_CONTEXT else None,
            uid=found.uid,
            unit=more.get(SYSTEM_UNIT),
            signal=signal.SIGKILL if found.event == "oom_kill" and found.pid else None,
            attributes={
                "event": found.event,
                "level": record.level,
                "identity": f"{self.boot_id}:{record.seq}",
                **more,
            },
        )
        return marker if found.pid is None else _naming(marker, found, found.pid, self.ctx.host, age_s)


def _naming(marker: Marker, found: KernelEvent, number: int, host: Host, age_s: float) -> Marker:
    """
    Return *marker*, naming the process that the line is about, which the kernel calls by the number of a thread.

    A lost core has the number that the process has in its own PID namespace, and an OOM kill that of the process.
    Whoever is gone in whose context an event of the machine happened is not named: with nothing but a claim, the event
    would be taken for a witness of whatever crash is being collected.
    """
    if found.event == "core_lost":
        return msgspec.structs.replace(marker, inner_pid=number)
    seen = identify_task(host, number)
    at_ticks = int((boot_s() - age_s) * CLOCK_TICKS_PER_S)
    if seen is not None and is_the_named(seen, comm=found.comm, at_ticks=at_ticks):
        process = thread_group(host, seen, image=found.event == "segfault")
        if process is not None:
            comm = printable(found.comm) if found.comm else None
            return with_identity(msgspec.structs.replace(marker, thread=number, comm=comm), process)
    if found.event in IN_CONTEXT:
        return marker
    if found.event == "oom_kill":
        return msgspec.structs.replace(marker, process=ProcessRef(pid=number))
    return msgspec.structs.replace(marker, process=ProcessRef(pid=number), thread=number, doubtful=True)


def _panic(ctx: TriggerContext) -> Iterator[Marker]:
    """Yield one marker for the files in pstore, if they are new."""
    try:
        names = ctx.host.listdir(PSTORE)
        newest_s = max((os.stat(ctx.host.path(f"{PSTORE}/{name}")).st_mtime for name in names), default=0.0)
    except OSError:
        return  # not mounted, or no backend
    state = f"{int(newest_s)} {len(names)}"
    key = f"{ctx.id}.pstore"
    if not names or ctx.recall(key) == state:
        return
    yield Marker(
        kind=MarkerKind.KERNEL_LOG,
        trigger=ctx.id,
        at_s=newest_s,
        reason=f"the kernel left {len(names)} files in {PSTORE}",
        attributes={"event": "panic", "identity": f"pstore:{state}", "files": printable(" ".join(names[:64]))},
    )
    ctx.remember(key, state)
