"""
Reports of several lines in the kernel's log: one line says what happened, and a later one in which process.

An oops, a warning and a lockup begin with a line that names nobody; ``CPU: 3 PID: 41 Comm: engine`` follows within some
lines. Which report that belongs to is certain where the kernel says who wrote each line, or both name the same CPU.
Elsewhere it is only if no other report has begun in between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from collector.host.kmsg import KmsgRecord
from collector.triggers.kernel_catalogue import DIED, IN_CONTEXT
from collector.triggers.kernel_lines import KernelEvent, ProcessLine, bytes_of, context_of, oom_summary_of

HOLD_S = 1.0
"""How long an event waits for its process, by the log's own clock: a slow serial console takes 10 ms per line."""

HOLD_LINES = 64
"""Lines of one writer; on arm64, with all it says about the fault, the process is named by the 17th."""

MAX_REPORTS = 16
"""Events that wait at a time. In a storm the oldest goes without its process."""

# Events that a dump of registers or of a stack follows.
_DUMPED = IN_CONTEXT | {"segfault"}
_DIES = re.compile(rf".*{DIED}")
# What begins another report, or a dump that belongs to none of the events.
_BEGINS = re.compile(
    r"-+\[ cut here \]|WARNING: |BUG: |UBSAN: |(?:rcu: )?INFO: (?!task )|(?:watchdog|NMI watchdog|sysrq): |"
    r"NMI backtrace for cpu|CPU[0-9]+: stopping|.{0,15} invoked oom-killer: |.{0,15}: page allocation ",
    re.DOTALL,
)
_CUT_HERE = re.compile(r"-+\[ cut here \]")
# kernel/rcu/tree_stall.h, print_cpu_stall_info(): of a stall that a CPU finds on itself, that CPU.
_STALLED_CPU = re.compile(r"(?:rcu: )?\\x09(?P<cpu>[0-9]{1,5})-[.A-Za-z?!]{4}: \(")


class Reported(NamedTuple):
    """An event, the record that reports it, and the line that names its process."""

    record: KmsgRecord
    event: KernelEvent
    named_by: str = ""


class _Report:
    """A report that has begun; without an *event*, of something that is not one of ours."""

    def __init__(self, record: KmsgRecord, event: KernelEvent | None, *, mixed: bool) -> None:
        self.record = record
        self.event = event
        self.mixed = mixed
        """Whether its lines cannot be told apart from those of another report."""
        self.lines = 0

    def is_over(self, record: KmsgRecord) -> bool:
        return self.lines > HOLD_LINES or record.time_s - self.record.time_s > HOLD_S

    def goes_on_with(self, found: KernelEvent | None, message: str) -> bool:
        """Return whether *message* is a further line of this report: what failed, then why the kernel dies."""
        dies = _DIES.match(message) is not None
        if self.event is None:
            follows = found is not None and (dies or found.event not in {"oops", "rcu_stall"})
            return follows and _CUT_HERE.match(self.record.message) is not None
        if self.event.event == "list_corruption":
            return _CUT_HERE.match(message) is not None or (found is not None and (dies or found.event != "oops"))
        return dies and self.event.event in {"oops", "bug"} and _DIES.match(self.record.message) is None

    def ended(self, why: str | None = None) -> Iterator[Reported]:
        if self.event is not None:
            yield Reported(self.record, self.event if why is None else self.event._replace(unclear=why))

    def names(self, line: ProcessLine) -> bool:
        """Return whether nothing that the report says contradicts *line*."""
        event = self.event
        if event is None:
            return True
        said = ((event.cpu, line.cpu), (event.pid, line.pid), (event.comm, line.comm))
        return all(ours in {None, theirs} for ours, theirs in said)


class OpenReports:
    """Events that wait for the line which names their process, by who writes them."""

    def __init__(self) -> None:
        self._open: dict[str, _Report] = {}
        self._summary: ProcessLine | None = None
        """What the kernel said ahead of an OOM kill, which follows at once."""

    @property
    def oldest_seq(self) -> int | None:
        """The number of the first record whose event has not been passed on; ``None`` if there is none."""
        return min((report.record.seq for report in self._open.values() if report.event is not None), default=None)

    def take(self, record: KmsgRecord, found: KernelEvent | None) -> Iterator[Reported]:
        """Yield the events that are complete with *record*, which reports *found*."""
        yield from self._end_old(record)
        if found is None:
            yield from self._continue(record)
        elif _waits(found, record.message):
            yield from self._begin(record, found)
        else:
            yield Reported(record, self._with_summary(found))
            if not record.caller and _BEGINS.match(bytes_of(record.message)):
                yield from self._begin(record, None)

    def give_up(self) -> Iterator[Reported]:
        """Yield all events that wait, without their process."""
        for report in self._open.values():
            yield from report.ended()
        self._open.clear()

    def _end_old(self, record: KmsgRecord) -> Iterator[Reported]:
        if (own := self._open.get(record.caller)) is not None:
            own.lines += 1
        for caller in [caller for caller, report in self._open.items() if report.is_over(record)]:
            yield from self._open.pop(caller).ended()

    def _begin(self, record: KmsgRecord, found: KernelEvent | None) -> Iterator[Reported]:
        """Open a report, unless it is more of the one that its writer has open."""
        before = self._open.get(record.caller)
        if before is not None and before.goes_on_with(found, record.message):
            if before.event is None:
                before.record, before.event = record, found
            return
        if before is not None and found is None:
            before.mixed = True
            return
        if before is not None:
            yield from self._open.pop(record.caller).ended()
        elif len(self._open) >= MAX_REPORTS:
            yield from self._open.pop(next(iter(self._open))).ended()
        self._open[record.caller] = _Report(record, found, mixed=before is not None and not record.caller)

    def _continue(self, record: KmsgRecord) -> Iterator[Reported]:
        if (line := context_of(record.message)) is not None:
            yield from self._complete(record, line)
        elif (stalled := _STALLED_CPU.match(record.message)) is not None:
            self._note_cpu(record, int(stalled["cpu"]))
        elif (summary := oom_summary_of(record.message)) is not None:
            self._summary = summary
        elif not record.caller and _BEGINS.match(bytes_of(record.message)):
            yield from self._begin(record, None)

    def _note_cpu(self, record: KmsgRecord, cpu: int) -> None:
        """Take in which CPU a stall is about: what follows are dumps of several."""
        report = self._open.get(record.caller)
        if report is not None and report.event is not None and report.event.event == "rcu_stall":
            report.event = report.event._replace(cpu=cpu)

    def _complete(self, record: KmsgRecord, line: ProcessLine) -> Iterator[Reported]:
        """End the report that *line* belongs to."""
        writer = self._writer_of(record, line)
        report = None if writer is None else self._open.pop(writer)
        if report is None or report.event is None:
            return
        if report.mixed and report.event.cpu is None:
            yield from report.ended("the lines of several reports are mixed")
        else:
            # The idle task of a CPU is no process.
            event = report.event._replace(pid=line.pid or None, comm=line.comm)
            yield Reported(report.record, event, record.message)

    def _writer_of(self, record: KmsgRecord, line: ProcessLine) -> str | None:
        """Return who writes the report that *line* belongs to: its own writer, or whoever reports on that CPU."""
        own = self._open.get(record.caller)
        if own is not None and own.names(line):
            return record.caller
        others = ((writer, report.event) for writer, report in self._open.items() if report.names(line))
        return next((writer for writer, event in others if event is not None and event.cpu is not None), None)

    def _with_summary(self, found: KernelEvent) -> KernelEvent:
        """Return an OOM kill with what the kernel said of the same process right before."""
        summary = self._summary
        if found.event != "oom_kill" or summary is None or (summary.pid, summary.comm) != (found.pid, found.comm):
            return found
        self._summary = None
        return found._replace(facts=summary.facts)


def _waits(found: KernelEvent, message: str) -> bool:
    """Return whether a later line will say in which process; whoever notices that another CPU is stalled is not it."""
    if found.event == "rcu_stall":
        return "self-detected" in message
    if found.event == "hard_lockup" and found.cpu is None:
        return False
    return found.event in _DUMPED and (found.pid is None or found.comm is None)
