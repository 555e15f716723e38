"""
What other signals than SIGSEGV and SIGBUS were about, and those that a process sent.

Source: sigaction(2), ``siginfo_t``; arch/x86/kernel/traps.c, kernel/seccomp.c, kernel/time/posix-cpu-timers.c,
fs/attr.c (Linux 6.18).
"""

from __future__ import annotations

import errno

from collector.collectors.core.diagnosis import Diagnosis, DiagnosisKind
from collector.collectors.core.diagnosis_facts import CrashFacts
from collector.collectors.core.notes import SENT

TRAP_INSTRUCTION = b"\x0f\x0b"
FILE_TOO_LARGE = (1 << 64) - errno.EFBIG
"""What the call that would make a file too large returns on x86-64, in rax."""

BY_KERNEL = {
    "SIGXCPU": Diagnosis(
        DiagnosisKind.CPU_LIMIT,
        "a limit of CPU time was reached: RLIMIT_CPU, RLIMIT_RTTIME, or the runtime of a deadline task",
    ),
    "SIGQUIT": Diagnosis(DiagnosisKind.TERMINAL, "the quit key of its terminal was pressed"),
}
FLOATING = {
    "FPE_INTOVF": "an integer overflowed",
    "FPE_FLTDIV": "a floating-point number was divided by zero",
    "FPE_FLTOVF": "a floating-point number overflowed",
    "FPE_FLTUND": "a floating-point number underflowed",
    "FPE_FLTRES": "a floating-point result was not exact",
    "FPE_FLTINV": "a floating-point operation was invalid",
    "FPE_FLTSUB": "a subscript was out of range",
    "FPE_FLTUNK": "a floating-point operation failed",
    "FPE_CONDTRAP": "a trap on a condition",
}


def other_signal(facts: CrashFacts) -> Diagnosis | None:
    """Return what a signal that the kernel raised was about; ``None`` if the facts do not allow to say."""
    name, code = facts.signal.name, facts.signal.code_name
    if name == "SIGFPE":
        return _arithmetic(facts)
    if name == "SIGILL" and code.startswith("ILL_") and facts.address is not None:
        return _illegal(facts, facts.address)
    if name == "SIGSYS" and code == "SYS_SECCOMP":
        text = f"seccomp forbids system call {facts.signal.system_call}{facts.by}"
        return Diagnosis(DiagnosisKind.SYSTEM_CALL, text)
    if name == "SIGTRAP" and (code == "TRAP_BRKPT" or (code == "SI_KERNEL" and facts.is_x86)):
        return Diagnosis(DiagnosisKind.BREAKPOINT, f"a breakpoint instruction{facts.by}")
    return BY_KERNEL.get(name) if code == "SI_KERNEL" else None


def _arithmetic(facts: CrashFacts) -> Diagnosis | None:
    code = facts.signal.code_name
    if code == "FPE_INTDIV":
        what = "an integer was divided by zero" + (", or the result did not fit" if facts.is_x86 else "")
        return Diagnosis(DiagnosisKind.DIVIDE, what + facts.by)
    return Diagnosis(DiagnosisKind.FLOATING_POINT, FLOATING[code] + facts.by) if code in FLOATING else None


def _illegal(facts: CrashFacts, address: int) -> Diagnosis:
    known = facts.is_x86 and facts.image.memory.read(address, 2) == TRAP_INSTRUCTION
    what = " (ud2: the compiler's trap for what must not happen)" if known else ""
    return Diagnosis(
        DiagnosisKind.ILLEGAL_INSTRUCTION, f"illegal instruction{what} at {facts.place(address)}{facts.in_thread}"
    )


def sent_signal(facts: CrashFacts, why: str) -> Diagnosis | None:
    """
    Return who sent a signal, if a process did: it tells nothing about the process's own code.

    Args:
        facts: Of the crash.
        why: What it aborted with, if that is known, as the end of a sentence.
    """
    signal = facts.signal
    if signal.code not in SENT:
        return None
    own = facts.pid is not None and signal.sender_pid == facts.pid
    if own and signal.name == "SIGABRT":
        text = f"aborted{why}" if why else "aborted by its own code"
        return Diagnosis(DiagnosisKind.ABORT, text + facts.in_thread)
    if own and signal.name == "SIGXFSZ" and signal.code_name == "SI_USER":
        return _file_size(facts)
    if own:
        text = f"{signal.name} was sent by the process itself, perhaps by its handler of an earlier one"
        return Diagnosis(DiagnosisKind.SENT, text)
    sender = f"by process {signal.sender_pid} (uid {signal.sender_uid})"
    sender = sender if signal.sender_pid else "from outside the process's PID namespace"
    return Diagnosis(DiagnosisKind.SENT, f"{signal.name} was sent {sender}")


def _file_size(facts: CrashFacts) -> Diagnosis | None:
    """Return what a SIGXFSZ was: the kernel sends it in the process's own name, as the call that writes fails."""
    if facts.image.layout.machine != "x86_64":
        return None
    if facts.register("rax") == FILE_TOO_LARGE:
        return Diagnosis(DiagnosisKind.FILE_SIZE_LIMIT, "a file was to become longer than its limit (RLIMIT_FSIZE)")
    return Diagnosis(DiagnosisKind.SENT, "SIGXFSZ was sent by the process itself")
