"""How a process ended, or what else happened, and why: in a few words, and in the sentence that was found for it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable

from collector.collectors.core.diagnosis import Diagnosis
from collector.collectors.core.diagnosis_line import fault_line
from collector.model.case import merge
from collector.model.marker import Marker, MarkerKind
from collector.model.out_of_memory import killed_for_memory
from collector.model.signals import signal_name
from collector.model.text import printable
from collector.report.core_facts import CoreFacts
from collector.report.limits import LimitFacts
from collector.report.story import Cause, LogLine
from collector.report.text import one_line

SHOWN = 200
"""Maximum characters of what is shown in a head, of which others choose the text."""

DIAGNOSIS_SHOWN = 1000

SHORT = {
    "null_pointer": "null pointer",
    "null_call": "call through a null pointer",
    "negative_address": "negative number used as a pointer",
    "kernel_address": "address of the kernel",
    "unmapped": "nothing is mapped there",
    "past_mapping": "past the end of a mapping",
    "no_access": "no access is allowed there",
    "write_read_only": "write to read-only memory",
    "execute_unmapped": "jump to where nothing is mapped",
    "execute_data": "jump into data",
    "stack_overflow": "stack overflow",
    "stack_pointer": "near the stack pointer: overflow?",
    "general_protection": "address that cannot exist",
    "protection_key": "protection key",
    "shadow_stack": "shadow stack",
    "memory_tag": "memory tag",
    "past_end_of_file": "past the end of a file",
    "tmpfs_full": "the tmpfs is full",
    "file_system_full": "the file system is full",
    "huge_pages": "no huge page left",
    "file_page": "a page of a file cannot be read",
    "hardware_memory": "memory error of the hardware",
    "misaligned": "misaligned access",
    "divide": "division by zero",
    "floating_point": "floating point",
    "illegal_instruction": "illegal instruction",
    "breakpoint": "breakpoint",
    "system_call": "forbidden system call",
    "cpu_limit": "CPU time limit",
    "file_size_limit": "file size limit",
    "terminal": "quit key",
    "abort": "abort",
    "out_of_memory": "out of memory",
}
EVENTS = {
    "oom_kill": "killed for memory by the kernel",
    "segfault": "fault",
    "core_lost": "crashed, and its core was lost",
    "hung_task": "hung: blocked in the kernel",
    "soft_lockup": "soft lockup of a CPU",
    "hard_lockup": "hard lockup of a CPU",
    "rcu_stall": "RCU stall",
    "oops": "kernel oops",
    "bug": "kernel bug",
    "panic": "kernel panic",
    "machine_check": "hardware error",
    "io_error": "I/O error",
    "warning": "kernel warning",
    "ubsan": "undefined behaviour in the kernel",
    "list_corruption": "list corruption in the kernel",
}
RESULTS = {
    "exit-code": "exit status of failure",
    "core-dump": "dumped core",
    "oom-kill": "killed for memory by the kernel",
    "timeout": "timeout: systemd ended it",
    "watchdog": "watchdog: it did not report in time",
    "start-limit-hit": "started too often",
    "resources": "systemd could not start it",
    "protocol": "it did not do what its type promises",
}
"""Of systemd's SERVICE_RESULT. Source: systemd.exec(5)."""

ENDED_IT = frozenset({"timeout", "watchdog", "oom-kill"})
"""Results in which the signal is only how the service was ended, not why."""

FAULTS = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP})
"""What the processor refuses; the kernel logs most of these."""

MOMENT_S = 5.0
"""A line is that much before or after its crash at most; later, somebody else may have the number."""

OUT_OF_MEMORY = "out_of_memory"
SIGKILL = 9
_KILLED = re.compile(r"(Memory cgroup out of memory|Out of memory)?.*Killed process ([0-9]+)\b")


def cause_of(
    markers: tuple[Marker, ...], core: CoreFacts, kernel: tuple[LogLine, ...], limits: tuple[LimitFacts, ...]
) -> Cause:
    """
    Return the cause of an incident.

    Args:
        markers: Its markers.
        core: What its core says, as far as there is one.
        kernel: Lines of the kernel's log.
        limits: Of its cgroups, those that were met.
    """
    marker = merge(markers)
    event = printable(marker.attributes.get("event", ""), limit=SHOWN)
    kind, diagnosis = core.diagnosis_kind, core.diagnosis
    if not kind and marker.signal == SIGKILL and marker.process:
        said = [one.reason for one in markers if one.kind is MarkerKind.KERNEL_LOG] + [line.text for line in kernel]
        diagnosis = _killed(marker.process.pid, said) or diagnosis
        kind = OUT_OF_MEMORY if diagnosis else ""
    if not diagnosis and (fault := _fault(marker, kernel)) is not None:
        kind, diagnosis = fault.kind, fault.text
    if kind == OUT_OF_MEMORY and limits:
        diagnosis += f"{';' if ':' in diagnosis else ':'} {limits[0].sentence}"
    info = core.signal
    address = (info.fault_address if info else None) or ""
    name = info.name if info else signal_name(marker.signal) if marker.signal is not None else ""
    head = one_line(_said(marker, name, address, kind, event), limit=SHOWN)
    reported = _reported(marker, "REASON")
    if not diagnosis and one_line(reported, limit=SHOWN) != head:
        diagnosis = reported
    return Cause(
        said=head,
        kind=printable(kind, limit=SHOWN),
        diagnosis=one_line(diagnosis, limit=DIAGNOSIS_SHOWN),
        signal=printable(name, limit=SHOWN),
        code=printable(info.code_name, limit=SHOWN) if info else "",
        address=printable(address, limit=SHOWN),
        exit_status=marker.exit_status,
        event=event,
        result=printable(_reported(marker, "SERVICE_RESULT"), limit=SHOWN),
    )


def _fault(marker: Marker, kernel: tuple[LogLine, ...]) -> Diagnosis | None:
    """Return what the kernel's line of that moment says of the fault, for a service that leaves no core."""
    if marker.signal not in FAULTS or marker.process is None:
        return None
    tids = {marker.process.pid, marker.thread}
    of_then = (line.text for line in kernel if line.at and abs(line.at.timestamp() - marker.at_s) <= MOMENT_S)
    return next(filter(None, (fault_line(text, tids) for text in of_then)), None)


def _reported(marker: Marker, key: str) -> str:
    """Return a fact that a notification or an exit file gave, by the name it has of the unit itself or of another."""
    return marker.attributes.get(key) or marker.attributes.get(f"MONITOR_{key}", "")


def _said(marker: Marker, signal: str, address: str, kind: str, event: str) -> str:
    """Return the few words; *kind* is the diagnosis's."""
    if kind == OUT_OF_MEMORY:
        return EVENTS["oom_kill"]
    if marker.kind is MarkerKind.MANUAL:
        return "run by hand" if marker.reason in {"", "by hand"} else f"run by hand: {marker.reason}"
    result = _reported(marker, "SERVICE_RESULT")
    at, why = f" at {address}" if address else "", RESULTS[result] if result in ENDED_IT else SHORT.get(kind, "")
    short = f" ({why})" if why else ""
    known = (
        f"{signal}{at}{short}" if signal else "",
        "" if marker.exit_status is None else f"exit status {marker.exit_status}",
        "memory pressure" if marker.kind is MarkerKind.PRESSURE else "",
        EVENTS.get(event, event),
        RESULTS.get(result, result),
        marker.reason,
    )
    return next(filter(None, known), "crash")


def _killed(pid: int, lines: Iterable[str]) -> str:
    """Return why the kernel killed a process, if one of its lines says that it did."""
    for line in lines:
        found = _KILLED.match(line)
        if found and int(found[2][:10]) == pid:
            return killed_for_memory(found[1])
    return ""
