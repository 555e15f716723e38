"""
What a SIGSEGV was.

Source: arch/x86/mm/fault.c and kernel/traps.c, arch/arm64/mm/fault.c (Linux 6.18); siginfo codes in sigaction(2).
"""

from __future__ import annotations

from collector.collectors.core.diagnosis import Diagnosis, DiagnosisKind
from collector.collectors.core.diagnosis_facts import CrashFacts, allows, is_accessible
from collector.collectors.core.diagnosis_stack import REACH_BYTES, stack_overflow
from collector.host.core_segments import PF_R, PF_W, PF_X, Segment
from collector.host.memory import PAGE_BYTES, page

NULL_BYTES = PAGE_BYTES
"""An address in the first page is called near null: no process has it, unless it asks for it as root."""

LOWEST_MAPPING = 1 << 16
"""``vm.mmap_min_addr``: a process that has something below it uses small addresses on purpose."""

LONGEST_INSTRUCTION_BYTES = 15
# Those whose value is an address, or may be.
GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip",
           "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")  # fmt: skip
BY_CODE = {
    "SEGV_PKUERR": (DiagnosisKind.PROTECTION_KEY, "in memory that a protection key of the thread forbids"),
    "SEGV_CPERR": (DiagnosisKind.SHADOW_STACK, "a return address was not the one that the call left (shadow stack)"),
    "SEGV_MTEAERR": (DiagnosisKind.MEMORY_TAG, "a pointer with the wrong memory tag was used some time before"),
    "SEGV_MTESERR": (DiagnosisKind.MEMORY_TAG, "through a pointer with the wrong memory tag"),
}


def segv(facts: CrashFacts) -> Diagnosis | None:
    """Return what a SIGSEGV of the kernel was; ``None`` if the facts do not allow to say."""
    if (overflow := stack_overflow(facts)) is not None:
        return overflow
    code, address = facts.signal.code_name, facts.address
    if code == "SI_KERNEL":
        return _no_address(facts) if facts.is_x86 else None
    if code in BY_CODE:
        kind, text = BY_CODE[code]
        at = f"{facts.access} at {address:#x} " if text.startswith(("in ", "through ")) else ""
        return Diagnosis(kind, at + text + facts.by)
    if address is None or code not in {"SEGV_MAPERR", "SEGV_ACCERR"}:
        return None
    if facts.state is not None and facts.state.pc == address:
        return _jump(facts, address)
    return _not_mapped(facts, address) if code == "SEGV_MAPERR" else _not_permitted(facts, address)


def _jump(facts: CrashFacts, address: int) -> Diagnosis | None:
    """Return what it was if the processor could not fetch the instruction itself."""
    back = _return_place(facts)
    if facts.signal.code_name == "SEGV_MAPERR":
        if is_near_null(facts, address):
            text = f"a jump to {address:#x}: a call through a null pointer, or a return to one{back}"
            return Diagnosis(DiagnosisKind.NULL_CALL, text)
        return Diagnosis(DiagnosisKind.EXECUTE_UNMAPPED, f"a jump to {address:#x}, where nothing is mapped{back}")
    segment = facts.image.segments.find(address)
    if segment is None or allows(segment, PF_X):
        return None
    text = f"a jump into {_memory(facts, address)}, which is not executable{back}"
    return Diagnosis(DiagnosisKind.EXECUTE_DATA, text)


def _return_place(facts: CrashFacts) -> str:
    """Return where the top of the stack leads back to, as the end of a sentence."""
    found = facts.image.words(facts.state.sp, 1) if facts.state is not None and facts.is_x86 else ()
    segment = facts.image.segments.find(found[0]) if found else None
    back = f"; the top of the stack leads back to {facts.place(found[0])}" if segment and allows(segment, PF_X) else ""
    return back + facts.in_thread


def is_near_null(facts: CrashFacts, address: int) -> bool:
    lowest = facts.image.segments[0].start if len(facts.image.segments) else LOWEST_MAPPING
    return address < NULL_BYTES and lowest >= LOWEST_MAPPING


def _not_mapped(facts: CrashFacts, address: int) -> Diagnosis | None:
    segments = facts.image.segments
    bits = facts.image.layout.word * 8
    at = f"{facts.access} at {address:#x}"
    if segments.find(address) is not None:  # another thread may have mapped it since
        return None
    if is_near_null(facts, address) and not _is_of_the_stack(facts, address):
        return Diagnosis(DiagnosisKind.NULL_POINTER, null_pointer(facts.access, address) + facts.by)
    if address >= (1 << bits) - NULL_BYTES:
        text = f"{at}, which is the number {address - (1 << bits)} taken for a pointer{facts.by}"
        return Diagnosis(DiagnosisKind.NEGATIVE_ADDRESS, text)
    if facts.is_x86 and bits == 64 and address >> 63:
        return Diagnosis(DiagnosisKind.KERNEL_ADDRESS, f"{at}, which is the kernel's memory{facts.by}")
    before = segments.find(page(address) - 1)
    if before is not None and is_accessible(before):
        text = f"{at}, {address - before.end} bytes behind the end of {_memory(facts, before.end - 1, named=True)}"
        return Diagnosis(DiagnosisKind.PAST_MAPPING, text + facts.by)
    return Diagnosis(DiagnosisKind.UNMAPPED, f"{at}, where nothing is mapped{facts.by}")


def _is_of_the_stack(facts: CrashFacts, address: int) -> bool:
    """Return whether the stack pointer leads to the address: then that is what is wrong, not a pointer to data."""
    return facts.state is not None and facts.state.sp > 0 and abs(address - facts.state.sp) <= REACH_BYTES


def null_pointer(access: str, address: int) -> str:
    """Return the sentence on an access near null."""
    what = "a null pointer" if address == 0 else f"a null pointer plus {address:#x}, such as a structure's member"
    return f"{access} at {address:#x}: {what}"


def _not_permitted(facts: CrashFacts, address: int) -> Diagnosis | None:
    segment = facts.image.segments.find(address)
    if segment is None:
        return None
    memory = _memory(facts, address)
    if not is_accessible(segment):
        text = f"{facts.access} at {memory}, which allows no access (PROT_NONE), such as a guard"
        return Diagnosis(DiagnosisKind.NO_ACCESS, text + facts.by)
    if segment.flags & (PF_R | PF_W) == PF_R and not _runs_into(facts, segment, address):
        return Diagnosis(DiagnosisKind.WRITE_READ_ONLY, f"write to {memory}, which is read-only{facts.by}")
    return None


def _runs_into(facts: CrashFacts, segment: Segment, address: int) -> bool:
    """Return whether it may be an instruction that reaches into the next page, which is not executable."""
    before = facts.state is not None and 0 <= address - facts.state.pc <= LONGEST_INSTRUCTION_BYTES
    return before or facts.state is None or (allows(segment, PF_X) and facts.state.pc == address)


def _memory(facts: CrashFacts, address: int, *, named: bool = False) -> str:
    """Return what memory *address* is in; *named*: without the address itself."""
    file = facts.file(address)
    if named:
        return "anonymous memory" if file is None else "what is mapped of " + facts.place(address).rpartition("+")[0]
    return f"{address:#x} in anonymous memory" if file is None else f"{address:#x} ({facts.place(address)})"


def _no_address(facts: CrashFacts) -> Diagnosis:
    """Return a SIGSEGV of the kernel for which it names no address; its 0 is none."""
    strange = [f"{name} holds {value:#x}" for name in GENERAL if _is_no_address(value := facts.register(name) or 0)]
    perhaps = f" (perhaps: {', '.join(strange[:3])})" if strange else ""  # or it is a hash, a text, a number
    text = (
        f"the kernel gives no address: not a null pointer, but an address that cannot exist{perhaps}, a misaligned "
        "vector access, a privileged instruction, or a signal that could not be delivered"
    )
    return Diagnosis(DiagnosisKind.NO_ADDRESS, text + facts.by)


def _is_no_address(value: int) -> bool:
    """Return whether x86-64 has no such address, whether with four or five levels of page tables."""
    return 0 < value >> 56 < 0xFF
