"""Patterns for the lines in which the kernel reports crashes and errors."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from collector.model.text import escape, parse_number

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

# Lines about processes are read like ``stat``: by the kernel's whole format, with a name of at most 15 bytes, whatever
# it looks like. No format fits into 15 bytes, so no name can hold a PID that would be read as the line's.
_COMM = r"(?P<comm>.{0,15})"
_PID = r"(?P<pid>[0-9]{1,10})"
_HEX = r"(?:0x)?[0-9a-f]+"
_POINTER = rf" *(?:{_HEX}|\(null\))"
# fs/coredump.c prints it with %*pE, which escapes what is not printable.
_COMM_PE = r"(?P<comm>(?:\\(?:[0-7]{3}|[abefnrtv])|.){0,15})"

EVENTS: dict[EventName, tuple[str, ...]] = {
    # fs/coredump.c, coredump_report_failure(); other wording before 6.11. An unsafe core_pattern is no crash.
    "core_lost": (
        rf"Pid {_PID}\({_COMM}\) (?:over core_pipe_limit|can only dump core to fully qualified path)",
        rf"Process {_PID}\({_COMM}\) has RLIMIT_CORE set to ",
        rf"coredump: {_PID}\({_COMM_PE}\): (?:over core_pipe_limit|RLIMIT_CORE is set to |Core dump |Coredump socket "
        r"|\||(?!written to |Unsafe core_pattern )(?:(?!\): ).)*"
        r"(?:failed|abort|skipping|cannot|disabled|truncated|exceed|has not been created))",
        r"Core dump to .* (?:aborted: |pipe failed|disabled)|format_corename failed",
    ),
    "segfault": (
        # arch/x86/mm/fault.c, arch/sparc/mm/fault_64.c
        rf"{_COMM}\[{_PID}\]: segfault at {_POINTER} ip {_POINTER} (?:\(rpc {_POINTER}\) )?sp {_POINTER} error ",
        # arch/x86/kernel/traps.c, cet.c, signal.c
        rf"traps: {_COMM}\[{_PID}\] (?:trap [A-Za-z0-9 /#-]+|general protection(?: fault)?) ip:{_POINTER} sp:",
        rf"(?:traps: |(?!traps: )){_COMM}\[{_PID}\] control protection ip:{_POINTER} sp:",
        rf"{_COMM}\[{_PID}\] bad frame in [A-Za-z0-9_ ]+ frame:{_POINTER} ip:",
        rf"(?:signal: |(?!signal: )){_COMM}\[{_PID}\] overflowed sigaltstack\Z",
        # arch/arm64/kernel/traps.c; before 4.17 arch/arm64/mm/fault.c. The ESR is appended, and can be cut off.
        rf"{_COMM}\[{_PID}\]: unhandled exception:",
        rf"{_COMM}\[{_PID}\]: unhandled [a-zA-Z0-9 (),/-]+ \([0-9]+\) at {_HEX}, esr ",
        rf"{_COMM}\[{_PID}\]: undefined instruction: pc=",
        # arch/arm/mm/fault.c and kernel/traps.c, with user_debug
        rf"{_COMM}: unhandled page fault \([0-9]+\) at {_HEX}, code ",
        rf"{_COMM} \({_PID}\): undefined instruction: pc=",
        # arch/powerpc/kernel/traps.c and signal.c, arch/riscv/kernel/traps.c
        rf"{_COMM}\[{_PID}\]: (?:[A-Za-z ]+ \([0-9]+\)|unhandled signal [0-9]+) at {_HEX} nip {_HEX} lr ",
        rf"{_COMM}\[{_PID}\]: bad frame in [A-Za-z0-9_ ]+: {_POINTER} nip ",
        rf"{_COMM}\[{_PID}\]: unhandled signal [0-9]+ code {_HEX} at {_HEX}",
        # arch/mips/mm/fault.c, arch/loongarch/mm/fault.c
        rf"do_page_fault\(\): sending SIGSEGV to {_COMM} for invalid (?:read access from|write access to) {_HEX}",
        # arch/s390/mm/fault.c names nobody
        r"User process fault: interruption code (?:0x)?[0-9A-Fa-f]{2,4} ",
    ),
    # mm/oom_kill.c, __oom_kill_process(); alone on the line before 5.0, ", UID 1000, " in RHEL 7. "Kill process", which
    # those kernels print first, may be about the parent of the process killed.
    "oom_kill": (
        r"(?:(?:Out of memory|Memory cgroup out of memory|Out of memory \(oom_kill_allocating_task\)): )?"
        rf"Killed process {_PID} \({_COMM}\),? (?:UID (?P<uid_before>[0-9]+), )?"
        r"total-vm:[0-9]+kB, anon-rss:[0-9]+kB, file-rss:[0-9]+kB(?:, shmem-rss:[0-9]+kB)?(?:, UID:(?P<uid>[0-9]+))?",
        r"(?:Out of memory|Memory cgroup out of memory) and no killable processes",
    ),
    # kernel/hung_task.c
    "hung_task": (
        rf"INFO: task {_COMM}:{_PID} blocked (?:in I/O wait )?for more than [0-9]+ seconds",
        rf"INFO: task {_COMM}:{_PID} (?:is|<(?:reader|writer)>) blocked on an? [a-z-]+(?: likely |, but )",
    ),
    # kernel/watchdog.c; "NMI watchdog" until 4.9
    "soft_lockup": (rf"(?:(?:NMI )?watchdog: )?BUG: soft lockup - CPU#[0-9]+ stuck for [0-9]+s! \[{_COMM}:{_PID}\]\Z",),
    # kernel/watchdog.c, arch/powerpc/kernel/watchdog.c
    "hard_lockup": (
        r"(?:NMI )?watchdog: (?:CPU ?[0-9]+:? )?(?:Watchdog |self-)?detected hard LOCKUP",
        r"[Ww]atchdog:? CPU[: ][0-9]+ (?:detected )?Hard LOCKUP",
    ),
    # kernel/rcu/tree_stall.h and tasks.h; without "rcu: " until 4.18
    "rcu_stall": (r"(?:rcu: )?INFO: [A-Za-z0-9_-]+ (?:self-)?detected (?:expedited )?stalls?\b",),
    # arch/*/kernel/traps.c and dumpstack.c, arch/*/mm/fault.c. What die() prints has a number in brackets.
    "oops": (
        r"BUG: (?:unable to handle |Unable to handle kernel |[Kk]ernel NULL pointer dereference)",
        r"(?:CPU [0-9]+ )?Unable to handle kernel |Unhandled fault: |Bad mode in [A-Za-z ]+ handler detected",
        r"(?:traps: )?PANIC: double fault",
        r"(?:Oops: .*|Oops|general protection fault[,:].*) ?\[#[0-9]+\]",
        r"(?:Internal error: .+|[A-Za-z][A-Za-z0-9 ,/-]*): [0-9a-f]{4,16} (?:ilc:[0-9] )?\[#[0-9]+\]",
        r"(?:Kernel bug detected|[A-Za-z ]+ in kernel code|Unhandled kernel unaligned access) ?\[#[0-9]+\]",
    ),
    # kernel/sched/core.c; kernel/panic.c, __warn(), and its wording of 6.19; lib/bug.c; mm/slub.c, slab_bug()
    "bug": (
        rf"BUG: scheduling while atomic: {_COMM}/{_PID}/0x[0-9a-f]{{8}}\Z",
        rf"BUG: using [A-Za-z0-9_]+\(\) in preemptible \[[0-9a-f]{{8}}\] code: {_COMM}/{_PID}\Z",
        rf"BUG: (?:spin|rw)lock [a-z ]+ on CPU#[0-9]+, {_COMM}/{_PID}(?:, [0-9a-f]+)?\Z",
        rf"WARNING: CPU: [0-9]+ PID: {_PID} at ",
        rf"WARNING: (?:[^ ]+:[0-9]+ )?at [^ ]+(?: \[[^ ]+\])?, CPU#[0-9]+: {_COMM}/{_PID}\Z",
        r"[Kk]ernel BUG (?:at |\[#[0-9]+\])|BUG: (?!soft lockup)|BUG [^ :]+ \(.*\): |UBSAN: ",
    ),
    # mm/memory-failure.c, arch/x86/kernel/cpu/mce/core.c, drivers/acpi/apei/ghes.c, drivers/edac/edac_mc.c,
    # arch/arm64/kernel/traps.c, arch/powerpc/kernel/mce.c
    "machine_check": (
        rf"(?:Memory failure: {_HEX}|MCE {_HEX}|MCE): (?:Sending SIGBUS to|Killing|forcibly killing) {_COMM}:{_PID} "
        r"(?:due to hardware memory corruption|because of failure to unmap)",
        r"(?:mce: |\{[0-9]+\})?\[Hardware Error\]|mce: Uncorrected hardware memory error |EDAC .*[0-9]+ (?:CE|UE) ",
        rf"Memory failure: {_HEX}: |SError Interrupt on CPU[0-9]+|MCE: CPU[0-9]+: machine check ",
    ),
    # block/blk-core.c and blk-mq.c (a request that is not supported, or is tried again, is no error), fs/buffer.c,
    # fs/ext4/super.c, fs/jbd2/journal.c, fs/xfs, fs/btrfs/messages.c, drivers/nvme/host, drivers/ata/libata-eh.c,
    # drivers/md, drivers/scsi, drivers/pci/pcie/aer.c
    "io_error": (
        r"(?:(?:blk_update_request|print_req_error|end_request): )?"
        r"(?:I/O|timeout|critical [a-z ]+|recoverable transport|reservation conflict|protection|device offline|"
        r"duration limit exceeded) error, dev |Buffer I/O error on ",
        r"EXT[234]-fs (?:error |\([^ ]+\): (?:Remounting filesystem read-only|(?:previous )?I/O error |"
        r"failed to convert|Delayed block allocation failed )|warning .*I/O error )",
        r"FAT-fs \([^ ]+\): error|SQUASHFS error: ",
        r"Aborting journal on device |JBD2: (?:Detected IO errors|I/O error|Error -[0-9]+ detected) ",
        r"XFS \([^ ]+\): (?:Corruption|Metadata corruption|Internal error|[Mm]etadata I/O [Ee]rror|[Ll]og I/O [Ee]rror|"
        r"writeback error|I/O Error Detected|Filesystem has been shut down|xfs_do_force_shutdown|xfs_.*I/O error)",
        r"BTRFS:? (?:error|critical) \(|BTRFS: Transaction aborted|"
        r"BTRFS warning \(.*\): (?:csum failed|checksum|lost page write)",
        r"nvme [^ ]+: (?:I/O .* timeout|Removing after probe failure|Disabling device after reset failure|"
        r"controller is down|Device not ready|frozen state error)|nvme[^ ]+: [^ ]+.* @ LBA .* \(sct 0x",
        r"ata[0-9.]+: (?:exception Emask |disable)|device-mapper: multipath: .*Failing path ",
        r"md/raid[^ ]+ Disk failure on |sd [0-9:]+: (?:rejecting I/O to offline device|Device offlined)",
        r"[^ ]+ [0-9a-f:.]+: (?:AER: (?:Multiple )?Uncorrect|PCIe Bus Error: severity=Uncorrect|DPC: containment)",
    ),
}

_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|\\)")


class KernelEvent(NamedTuple):
    """What a line reports, and about which process; *unclear* is why it names none."""

    event: str
    pid: int | None = None
    comm: str | None = None
    uid: int | None = None
    unclear: str | None = None


class LinePatterns:
    """The patterns of some events and the user's own, compiled; `ValueError` if one is not a regular expression."""

    def __init__(self, events: tuple[EventName, ...], patterns: tuple[str, ...]) -> None:
        self._chosen = frozenset(events)
        known = [(event, re.compile(line, re.DOTALL)) for event, lines in EVENTS.items() for line in lines]
        # Lines about processes come first, chosen or not: a name may be chosen to look like any other line.
        self._known = [(event, pattern) for event, pattern in known if pattern.groups]
        self._known += [(event, pattern) for event, pattern in known if not pattern.groups and event in events]
        self._own: list[re.Pattern[str]] = []
        for pattern in patterns:
            try:
                self._own.append(re.compile(pattern))
            except re.error as exc:
                raise ValueError(f"{pattern!r} is not a regular expression: {exc}") from exc

    def find(self, message: str) -> KernelEvent | None:
        """Return what *message*, escaped, reports; events match at its start, the user's own patterns anywhere."""
        known = _first_known(self._known, _bytes_of(message))
        if known and known.event in self._chosen:
            return known
        return next(filter(None, (_first_own(own, message) for own in self._own)), None)


def _first_known(known: list[tuple[EventName, re.Pattern[str]]], line: str) -> KernelEvent | None:
    for event, pattern in known:
        if found := pattern.match(line):
            groups = found.groupdict()
            comm, uid = groups.get("comm"), groups.get("uid") or groups.get("uid_before")
            comm = None if comm is None else escape(comm.encode("latin-1"))
            return KernelEvent(event, parse_number(groups.get("pid")), comm, parse_number(uid))
    return None


def _first_own(pattern: re.Pattern[str], message: str) -> KernelEvent | None:
    """Return the event of a user's own pattern; where it can be read in two ways, about nobody."""
    found = pattern.search(message)
    if found is None:
        return None
    groups = found.groupdict()
    pid, uid = parse_number(groups.get("pid")), parse_number(groups.get("uid"))
    if pid is not None:
        # Hide the PID that was found: what still matches is another reading.
        start, end = found.span("pid")
        other = pattern.search(message[:start] + "#" * (end - start) + message[end:])
        second = parse_number(other["pid"]) if other else None
        if second not in (None, pid):
            return KernelEvent("pattern", unclear=f"the line can be read as naming PID {pid} or PID {second}")
    return KernelEvent("pattern", pid, groups.get("comm"), uid)


def _bytes_of(message: str) -> str:
    """Return an escaped message as the kernel's bytes, one character (U+0000 to U+00FF) each."""
    raw = message.encode("utf-8", "surrogateescape").decode("latin-1")
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "\\", raw)
