"""Patterns for the lines in which the kernel reports crashes and errors."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from collector.model.text import parse_number

EventName = Literal[
    "core_lost",
    "segfault",
    "oom_kill",
    "hung_task",
    "soft_lockup",
    "hard_lockup",
    "rcu_stall",
    "oops",
    "bug",
    "machine_check",
    "io_error",
]

# A name is at most 15 bytes; the log escapes what is not printable as \xNN, and so does Kmsg.
_COMM = r"(?P<comm>.{1,60}?)"
_PID = r"(?P<pid>[0-9]{1,10})"

EVENTS: dict[EventName, str] = {
    # Lines about processes come first: a process's name may be chosen to look like any of the others.
    # fs/coredump.c, coredump_report_failure(); before 6.11 "Pid 42(engine) over core_pipe_limit"
    "core_lost": (
        rf"(?:coredump: |Pid ){_PID}\({_COMM}\):? "
        r"(?:over core_pipe_limit|.*(?:failed|abort|skipping|cannot|[Uu]nsafe|truncated))"
    ),
    # arch/x86/mm/fault.c, show_signal_msg(); arch/x86/kernel/traps.c; arch/arm64/kernel/traps.c
    "segfault": (
        rf"(?:traps: )?{_COMM}\[{_PID}\]:? (?:segfault at |general protection fault|trap |bad frame|unhandled )"
    ),
    # mm/oom_kill.c, __oom_kill_process()
    "oom_kill": (
        rf"(?:Out of memory|Memory cgroup out of memory): Killed process {_PID} \({_COMM}\)"
        r"(?:.*[ ,]UID:(?P<uid>[0-9]+))?"
    ),
    # kernel/hung_task.c
    "hung_task": rf"INFO: task {_COMM}:{_PID} (?:blocked|is blocked) ",
    # kernel/watchdog.c, kernel/rcu/tree_stall.h
    "soft_lockup": rf"watchdog: BUG: soft lockup - CPU#[0-9]+ stuck for [0-9]+s! \[{_COMM}:{_PID}\]",
    "hard_lockup": r"(?:NMI )?watchdog: (?:Watchdog detected|CPU[0-9]+: Watchdog detected) hard LOCKUP",
    "rcu_stall": r"rcu: INFO: .*detected (?:expedited )?stalls? on ",
    # arch/*/kernel/dumpstack.c, arch/*/mm/fault.c, lib/bug.c
    "oops": (
        r"(?:Oops: |BUG: unable to handle |Unable to handle kernel |general protection fault[,:]|"
        r"Internal error: Oops)"
    ),
    "bug": r"(?:kernel BUG at |BUG: (?!soft lockup))",
    # arch/x86/kernel/cpu/mce/core.c, drivers/edac/edac_mc.c
    "machine_check": r"(?:mce: \[Hardware Error\]|\[Hardware Error\]|EDAC .*[0-9]+ (?:CE|UE) )",
    # block/blk-core.c, fs/ext4/super.c, fs/xfs/xfs_error.c, fs/btrfs, drivers/nvme/host/pci.c
    "io_error": (
        r"(?:(?:critical )?(?:I/O|medium|target|nexus|timeout) error, dev |Buffer I/O error on |EXT4-fs error |"
        r"XFS \(.*\): (?:Corruption|Metadata I/O Error|log I/O error)|BTRFS (?:error|critical) |"
        r"nvme .*: I/O .* timeout)"
    ),
}


class KernelEvent(NamedTuple):
    """What a line reports, and about which process."""

    event: str
    pid: int | None = None
    comm: str | None = None
    uid: int | None = None


class LinePatterns:
    """The patterns of some events and the user's own, compiled; `ValueError` if one is not a regular expression."""

    def __init__(self, events: tuple[EventName, ...], patterns: tuple[str, ...]) -> None:
        self._known: list[tuple[str, re.Pattern[str]]] = [
            (event, re.compile(EVENTS[event])) for event in EVENTS if event in events
        ]
        for pattern in patterns:
            try:
                self._known.append(("pattern", re.compile(pattern)))
            except re.error as exc:
                raise ValueError(f"{pattern!r} is not a regular expression: {exc}") from exc

    def find(self, message: str) -> KernelEvent | None:
        """Return what *message* reports; events match at its start, the user's own patterns anywhere."""
        for event, pattern in self._known:
            found = pattern.search(message) if event == "pattern" else pattern.match(message)
            if found is not None:
                groups = found.groupdict()
                pid, uid = parse_number(groups.get("pid")), parse_number(groups.get("uid"))
                return KernelEvent(event, pid, groups.get("comm"), uid)
        return None
