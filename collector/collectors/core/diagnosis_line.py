"""
What a line of the kernel's log says about a crash: without a core, that is all there is.

Source: show_signal_msg() in arch/x86/mm/fault.c, show_signal() in arch/x86/kernel/traps.c, __oom_kill_process() in
mm/oom_kill.c (Linux 6.18).
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import NamedTuple

from collector.collectors.core.diagnosis import Diagnosis, DiagnosisKind
from collector.collectors.core.diagnosis_segv import NULL_BYTES, null_pointer
from collector.collectors.core.diagnosis_stack import REACH_BYTES
from collector.model.marker import Marker, MarkerKind
from collector.model.out_of_memory import killed_for_memory

# A name of 15 bytes, escaped, cannot hold what follows it: the last of two readings is the kernel's.
_SEGFAULT = re.compile(
    r".{0,60}\[([0-9]+)\]: segfault at +([0-9a-f]+) ip +([0-9a-f]+) sp +([0-9a-f]+) error ([0-9a-f]+)(?: in ([^ ]+))?.*"
)
_TRAP = re.compile(
    r"traps: .{0,60}\[([0-9]+)\] (general protection|trap [a-zA-Z0-9 /#-]+?)(?: fault)? ip:[0-9a-f]+ sp:[0-9a-f]+"
    r" error:[0-9a-f]+(?: in ([^ ]+))?.*"
)
_OVERFLOWED = re.compile(r"(?:signal: )?.{0,60}\[([0-9]+)\] overflowed sigaltstack")
_OOM = re.compile(r"(?:((?:Memory cgroup o|O)ut of memory)(?: \(oom_kill_allocating_task\))?: )?Killed process .*")

# Bits of the error code. Source: arch/x86/include/asm/trap_pf.h
PRESENT, WRITE, USER, FETCH = 1, 2, 4, 16
TRAPS = {
    "general protection": (
        DiagnosisKind.GENERAL_PROTECTION,
        "general protection fault: not a null pointer, but an address that cannot exist, a misaligned vector access, "
        "or a privileged instruction",
    ),
    "trap stack segment": (
        DiagnosisKind.GENERAL_PROTECTION,
        "stack segment fault: an address that cannot exist, in the stack pointer or the frame pointer",
    ),
    "trap divide error": (DiagnosisKind.DIVIDE, "an integer was divided by zero, or the result did not fit"),
    "trap invalid opcode": (DiagnosisKind.ILLEGAL_INSTRUCTION, "illegal instruction"),
    "trap int3": (DiagnosisKind.BREAKPOINT, "a breakpoint instruction"),
    "trap alignment check": (DiagnosisKind.MISALIGNED, "misaligned access"),
}

ABOVE_BYTES = 2048
"""
How far above the stack pointer there always is a stack: on top of a thread's lies its thread block, of 2304 bytes in
glibc, on top of the first one's what the kernel passes to the program.
"""


class PageFault(NamedTuple):
    """The fault of a process, as x86 logs it."""

    address: int
    ip: int
    sp: int
    error: int
    where: str


def kernel_line(marker: Marker) -> Diagnosis | None:
    """Return what the kernel's line about a process says; ``None`` if the marker is none, or does not allow to say."""
    if marker.kind is not MarkerKind.KERNEL_LOG:
        return None
    if found := _OOM.fullmatch(marker.reason):
        return Diagnosis(DiagnosisKind.OUT_OF_MEMORY, killed_for_memory(found[1]))
    return fault_line(marker.reason)


def fault_line(line: str, tids: Container[int | None] | None = None) -> Diagnosis | None:
    """
    Return what *line* says of the fault of a thread.

    Args:
        line: Of the kernel's log, written by the kernel.
        tids: Of the threads that it may be about; ``None``: of any.
    """
    found = _SEGFAULT.fullmatch(line) or _TRAP.fullmatch(line) or _OVERFLOWED.fullmatch(line)
    if found is None or (tids is not None and int(found[1]) not in tids):
        return None
    if found.re is _SEGFAULT:
        address, ip, sp, error = (int(found[number], 16) for number in range(2, 6))
        return page_fault(PageFault(address, ip, sp, error, _by(found[6])))
    if found.re is _OVERFLOWED:
        return Diagnosis(DiagnosisKind.STACK_OVERFLOW, "stack overflow: the alternate stack of a signal handler")
    if found[2] not in TRAPS:
        return None
    kind, text = TRAPS[found[2]]
    return Diagnosis(kind, text + _by(found[3]))


def _by(module: str | None) -> str:
    """Return ``name[offset,start+length]`` as the end of a sentence."""
    return f", by the code in {module}" if module else ""


def page_fault(fault: PageFault) -> Diagnosis | None:
    """Return what a page fault was, as far as the kernel's line tells: it does not say what is mapped."""
    address = fault.address
    if (
        fault.error & ~(PRESENT | WRITE | FETCH) != USER
    ):  # the kernel's own access, or a protection key, or a shadow stack
        return None
    mapped = bool(fault.error & PRESENT)
    if fault.error & FETCH or address == fault.ip:
        return _fetch(fault, mapped=mapped)
    access = "write" if fault.error & WRITE else "read"
    at = f"{access} at {address:#x}"
    if address >> 63:  # the kernel pretends that its own memory is mapped
        return _beyond(fault, at)
    if mapped:
        text = f"{at}, which is mapped and may not be written to{fault.where}"
        return Diagnosis(DiagnosisKind.WRITE_READ_ONLY, text) if access == "write" else None
    if address < NULL_BYTES:
        return Diagnosis(DiagnosisKind.NULL_POINTER, null_pointer(access, address) + fault.where)
    text = f"{at}, where the stack pointer is: the stack has overflowed, or the pointer is wrong{fault.where}"
    return Diagnosis(DiagnosisKind.STACK_POINTER, text) if _is_at_stack_pointer(fault) else None


def _is_at_stack_pointer(fault: PageFault) -> bool:
    return -REACH_BYTES <= fault.address - fault.sp <= ABOVE_BYTES


def _beyond(fault: PageFault, at: str) -> Diagnosis:
    number = fault.address - (1 << 64)
    if number >= -NULL_BYTES:
        text = f"{at}, which is the number {number} taken for a pointer{fault.where}"
        return Diagnosis(DiagnosisKind.NEGATIVE_ADDRESS, text)
    return Diagnosis(DiagnosisKind.KERNEL_ADDRESS, f"{at}, which is the kernel's memory{fault.where}")


def _fetch(fault: PageFault, *, mapped: bool) -> Diagnosis | None:
    if mapped and not fault.address >> 63:
        return Diagnosis(DiagnosisKind.EXECUTE_DATA, f"a jump to {fault.address:#x}, which is not executable")
    if fault.address < NULL_BYTES:
        text = f"a jump to {fault.address:#x}: a call through a null pointer, or a return to one"
        return Diagnosis(DiagnosisKind.NULL_CALL, text)
    return None
