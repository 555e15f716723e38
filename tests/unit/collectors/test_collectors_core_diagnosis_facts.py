"""What a test machine cannot bring about: other machines, broken memory, guards within a stack, forged lines."""

from __future__ import annotations

import struct

import pytest
from crash_facts import CODE, DATA, PAGES, PID, STACK, TID, SparseMemory, crash_facts
from fake_core import AARCH64, I386, X86_64

from collector.collectors.core.cpp_exception import readable_type
from collector.collectors.core.diagnosis_facts import CrashFacts, MappedFileState
from collector.collectors.core.diagnosis_line import kernel_line
from collector.collectors.core.diagnosis_of import diagnose, with_line
from collector.host.core_segments import Segment
from collector.model.marker import Marker, MarkerKind
from collector.model.redaction import Redaction

R9 = 8
SEGV, BUS, ILL, TRAP, ABRT, FPE, SYS, QUIT = 11, 7, 4, 5, 6, 8, 31, 3
MAPERR, ACCERR, SI_KERNEL, SI_USER, SI_TKILL = 1, 2, 0x80, 0, -6
THREAD_STACK = Segment(0x7F00_0010_0000, 0x10_0000, 0, 0, 6)
GUARD = Segment(0x7F00_000F_F000, 0x1000, 0, 0, 0)
THREAD = {"segments": (*PAGES[:2], GUARD, THREAD_STACK, PAGES[2]), "tid": TID, "tls": THREAD_STACK.end - 0x900}


def said(facts: CrashFacts) -> tuple[str, str]:
    """Return kind and sentence, both empty if there is none."""
    found = diagnose(facts, Redaction())
    return ("", "") if found is None else (str(found.kind), found.text)


@pytest.mark.parametrize(
    ("facts", "kind", "words"),
    [
        ((SEGV, MAPERR, 0xFFF), "null_pointer", "null pointer plus 0xfff"),
        ((SEGV, MAPERR, 0x1000), "unmapped", "access at 0x1000, where nothing is mapped"),
        ((SEGV, SI_KERNEL, 0), "no_address", "not a null pointer"),
        ((SEGV, 4, 0x10), "protection_key", "access at 0x10 in memory that a protection key"),
        ((SEGV, 10, 0), "shadow_stack", "a return address was not the one that the call left"),
        ((SEGV, 9, 0x10), "memory_tag", "access at 0x10 through a pointer with the wrong memory tag"),
        ((SEGV, 8, 0), "memory_tag", "was used some time before, by the code"),
        ((SEGV, 3, 0x10), "", ""),
        ((SEGV, ACCERR, DATA), "", ""),
        ((SEGV, ACCERR, 0x10), "", ""),
        ((SEGV, MAPERR, DATA), "", ""),
        ((BUS, 4, CODE), "hardware_memory", f"hardware memory error at {CODE:#x} (/opt/engine+0x0), by the code"),
        ((BUS, 5, CODE), "hardware_memory", f"hardware memory error at {CODE:#x} (/opt/engine+0x0)"),
        ((BUS, 1, 0x1001), "misaligned", "misaligned access at 0x1001, by the code"),
        ((BUS, 2, DATA), "", ""),
        ((BUS, 3, CODE), "", ""),
        ((BUS, SI_KERNEL, 0), "", ""),
        ((ILL, 2, CODE), "illegal_instruction", "illegal instruction at /opt/engine+0x0"),
        ((ILL, SI_USER, PID), "sent", "SIGILL was sent by the process itself"),
        ((TRAP, 2, 0), "", ""),
        ((FPE, 1, CODE), "divide", "divided by zero, or the result did not fit"),
        ((FPE, 3, CODE), "floating_point", "a floating-point number was divided by zero"),
        ((FPE, 99, CODE), "", ""),
        ((SYS, 2, CODE), "", ""),
        ((QUIT, SI_KERNEL, 0), "terminal", "the quit key"),
        ((SEGV, -2, 0x10), "", ""),
        ((ILL, -2, 0x10), "", ""),
        ((ABRT, SI_TKILL, PID), "abort", "aborted by its own code"),
        ((ABRT, SI_USER, 1), "sent", "SIGABRT was sent by process 1 (uid 0)"),
        ((ABRT, SI_USER, 0), "sent", "from outside the process's PID namespace"),
        ((ABRT, SI_KERNEL, 0), "", ""),
        ((SEGV, SI_USER, PID), "sent", "by the process itself"),
    ],
)
def test_diagnosis_says_what_the_codes_mean(facts: tuple[int, int, int], kind: str, words: str) -> None:
    found = said(crash_facts(*facts))
    assert found[0] == kind, found
    assert words in found[1]


def test_diagnosis_blames_no_register_for_a_fault_without_address() -> None:
    """A hash or a text in a register is no address either; the fault may be a misaligned access all the same."""
    found = said(crash_facts(SEGV, SI_KERNEL, 0, registers={R9: 0x6F77_206F_6C6C_6568}))
    assert found[0] == "no_address"
    assert "cannot exist (perhaps: r9 holds 0x6f77206f6c6c6568), a misaligned vector access, " in found[1]


def test_diagnosis_calls_no_pointer_null_where_the_stack_pointer_is() -> None:
    assert said(crash_facts(SEGV, MAPERR, 0xFF8, sp=0x1000))[0] == "unmapped"
    assert said(crash_facts(SEGV, MAPERR, 0xFF8, sp=0x2000))[0] == "null_pointer"


@pytest.mark.parametrize("machine", [X86_64, AARCH64, I386])
def test_diagnosis_knows_null_on_other_machines(machine: int) -> None:
    """The 4 bytes of a word, or no registers that are known: what the signal says is enough."""
    segments = [Segment(0x1000_0000, 0x1000, 0, 0, 5)]

    def kind(code: int, address: int) -> str:
        pc, sp = segments[0].start, segments[0].end
        facts = crash_facts(SEGV, code, address, machine=machine, segments=segments, files=(), pc=pc, sp=sp)
        return said(facts)[0]

    assert kind(MAPERR, 8) == "null_pointer"
    assert kind(SI_KERNEL, 0) == ("" if machine == AARCH64 else "no_address")
    assert kind(MAPERR, 0xFFFF_FFFC) == ("negative_address" if machine == I386 else "unmapped")


@pytest.mark.parametrize(
    ("sp", "address", "code", "kind"),
    [
        (THREAD_STACK.start, THREAD_STACK.start - 8, ACCERR, "stack_overflow"),  # a call
        (THREAD_STACK.start + 64, THREAD_STACK.start - 64, ACCERR, "stack_overflow"),  # the red zone
        (GUARD.start + 16, GUARD.start + 3000, ACCERR, "stack_overflow"),  # a large frame
        (GUARD.start - 0x5000, GUARD.start - 0x4000, MAPERR, "stack_overflow"),  # a larger one
        (THREAD_STACK.start + 0x8000, THREAD_STACK.start - 8, ACCERR, "no_access"),  # an array below its beginning
        (GUARD.start + 3000, GUARD.start + 16, ACCERR, "no_access"),  # further below than code writes
        (PAGES[2].start + 0x1000, GUARD.start + 16, ACCERR, "no_access"),  # of another thread
        (0x6000_0000_0000, 0x5FFF_FFFF_FFF8, MAPERR, "unmapped"),  # the stack pointer is simply wrong
        (THREAD_STACK.start + 0x100, THREAD_STACK.start + 0x200, MAPERR, "stack_overflow"),  # MADV_GUARD_INSTALL
        (THREAD_STACK.start + 0x8000, THREAD_STACK.start + 0x200, MAPERR, ""),
        (THREAD_STACK.start + 0x10, 0, SI_KERNEL, "stack_overflow"),  # the frame of a signal
        (THREAD_STACK.start + 0x8000, 0, SI_KERNEL, "no_address"),
    ],
)
def test_stack_overflow_is_where_the_stack_pointer_is(sp: int, address: int, code: int, kind: str) -> None:
    """That an address is in a guard, or below a stack, is not enough."""
    assert said(crash_facts(SEGV, code, address, sp=sp, **THREAD))[0] == kind  # type: ignore[arg-type]


def test_diagnosis_takes_no_guard_for_a_coroutines_stack_unless_the_pointer_is_in_it() -> None:
    """The memory above the guard is no thread's own; the stack pointer must be within the guard right below it."""
    apart = Segment(GUARD.start - 0x10_0000, 0x1000, 0, 0, 0)
    segments = (*PAGES[:2], apart, GUARD, THREAD_STACK, PAGES[2])
    inside = crash_facts(SEGV, ACCERR, GUARD.start + 0x800, sp=GUARD.start + 0x800, segments=segments)
    outside = crash_facts(SEGV, ACCERR, apart.start + 0x800, sp=apart.start + 0x800, segments=segments)
    assert [said(inside)[0], said(outside)[0]] == ["stack_overflow", "no_access"]


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (None, "file_page"),
        (MappedFileState(0, "tmpfs", 0), "past_end_of_file"),
        (MappedFileState(0x1000, "tmpfs", 0), "past_end_of_file"),
        (MappedFileState(0x1001, "tmpfs", 0), "tmpfs_full"),
        (MappedFileState(0x2000, "tmpfs", 4095), "tmpfs_full"),
        (MappedFileState(0x2000, "tmpfs", 4096), "file_page"),
        (MappedFileState(0x2000, "tmpfs", None), "file_page"),
        (MappedFileState(0x2000, "xfs", 0), "file_system_full"),
        (MappedFileState(0x2000, "hugetlbfs", 0), "huge_pages"),
        (MappedFileState(0x1000, "tmpfs", 0, -1), "past_end_of_file"),
        (MappedFileState(0x1000, "tmpfs", 0, 1), "file_page"),
        (MappedFileState(0x2000, "tmpfs", 0, 1), "tmpfs_full"),
        (MappedFileState(0x2000, "hugetlbfs", 0, -1), "file_page"),
    ],
)
def test_diagnosis_of_a_file_goes_by_its_length_first(state: MappedFileState | None, kind: str) -> None:
    """A length that may have changed since is not gone by; a tmpfs without a limit is never full."""
    files = ((DATA, DATA + 0x1000, 1, b"/dev/shm/engine.1"),)
    facts = crash_facts(BUS, 2, DATA + 0x10, files=files, state=lambda _: state)
    assert said(facts)[0] == kind
    assert "access at byte 4112 of /dev/shm/engine.1" in said(facts)[1]


def test_diagnosis_escapes_the_names_of_files() -> None:
    """They are the process's own choice, as are their lengths."""
    files = ((DATA, DATA + 0x1000, 0, b"/" + b"x" * 4000 + b"\x1b[2J\n"),)
    text = said(crash_facts(BUS, 2, DATA + 0x10, files=files))[1]
    assert "\\x1b[2J\\x0a" in text
    assert text.isprintable()
    assert len(text) < 1000


def message(text: bytes, *, size: int = 4096) -> dict[int, bytes]:
    """Return the memory of a C library whose data point to a message."""
    return {
        DATA: bytes(64) + struct.pack("<Q", STACK) + bytes(4096 - 72),
        STACK: struct.pack("<I", size) + text.ljust(4092, b"\0"),
    }


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (message(b"free(): invalid pointer\n"), "aborted: free(): invalid pointer"),
        (message("größe\n".encode()), "aborted: größe"),
        (message(b"--password=hunter2-correct\n"), "aborted: --password=[redacted]"),
        (message(b"free()\n", size=100), "aborted by its own code"),
        (message(b"no end of line"), "aborted by its own code"),
        (message(b"two\0texts\n"), "aborted by its own code"),
        (message(b"\x1b[2J\n"), "aborted by its own code"),
        ({}, "aborted by its own code"),
    ],
)
def test_message_of_an_abort_is_certain_or_not_there(memory: dict[int, bytes], expected: str) -> None:
    files = ((DATA, DATA + 0x1000, 0, b"/lib/libc.so.6"),)
    assert said(crash_facts(ABRT, SI_TKILL, PID, files=files, memory=memory))[1] == expected


def test_message_of_an_abort_is_not_said_of_a_signal_that_was_sent() -> None:
    files = ((DATA, DATA + 0x1000, 0, b"/lib/libc.so.6"),)
    facts = crash_facts(ABRT, SI_USER, 1, files=files, memory=message(b"free(): invalid pointer\n"))
    assert said(facts)[0] == "sent"


def test_message_of_an_abort_is_looked_for_in_a_few_places() -> None:
    """A process may map as many files as it likes under the name of its C library, and fill them with addresses."""
    starts = [DATA + number * 0x2000 for number in range(2000)]
    files = [(start, start + 0x1000, 0, b"/lib/libc.so.6") for start in starts]
    segments = [Segment(start, 0x1000, 0, 0, 6) for start in starts]
    addresses = struct.pack("<512Q", *(DATA + 0x4000_0000 + number * 4096 for number in range(512)))
    memory = dict.fromkeys(starts, addresses)
    facts = crash_facts(ABRT, SI_TKILL, PID, files=files, segments=segments, memory=memory)
    assert said(facts)[1] == "aborted by its own code"
    assert isinstance(facts.image.memory, SparseMemory)
    assert facts.image.memory.reads < 100


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("St13runtime_error", "std::runtime_error"),
        ("N6engine7RefusedE", "engine::Refused"),
        ("*3Own", "Own"),
        ("i", "int"),
        ("NSt10filesystem16filesystem_errorE", "std::filesystem::filesystem_error"),
        ("NSt10filesystem7__cxx1116filesystem_errorE", "std::filesystem::__cxx11::filesystem_error"),
        ("St6vectorIiSaIiEE", "St6vectorIiSaIiEE"),
        ("St", "St"),
        ("99999x", "99999x"),
    ],
)
def test_type_of_an_exception_is_shown_as_in_the_source(name: str, expected: str) -> None:
    assert readable_type(name) == expected


def line(reason: str, kind: MarkerKind = MarkerKind.KERNEL_LOG) -> Marker:
    return Marker(kind=kind, trigger="kernel", at_s=1.0, reason=reason)


AT = "ip 000055d5c0de1139 sp 00007ffc0ffee000 error"


@pytest.mark.parametrize(
    ("reason", "kind", "words"),
    [
        (f"engine[4000077]: segfault at 18 {AT} 4 in engine[1139,55d5c0de1000+1000]", "null_pointer", "read at 0x18: "),
        (f"engine[4000077]: segfault at 0 {AT} 6", "null_pointer", "write at 0x0: a null pointer"),
        (f"engine[4000077]: segfault at 0 {AT} 0", "", ""),
        (f"engine[4000077]: segfault at 1000 {AT} 4", "", ""),
        (f"engine[4000077]: segfault at 55d5c0de2000 {AT} 27", "", ""),
        (f"engine[4000077]: segfault at 55d5c0de1139 {AT} 15", "execute_data", "which is not executable"),
        (f"engine[4000077]: segfault at 55d5c0de1139 {AT} 14", "", ""),
        (f"engine[4000077]: segfault at 7ffc0ffedff8 {AT} 6", "stack_pointer", "where the stack pointer is"),
        (f"engine[4000077]: segfault at 7ffc0ffed000 {AT} 6", "", ""),
        (f"engine[4000077]: segfault at 55d5c0de2000 {AT} 5", "", ""),
        (f"a[1]: segfault[4000077]: segfault at 55d5c0de2000 {AT} 7", "write_read_only", "write to|mapped"),
        (f"segfault at 0 i[4000077]: segfault at 55d5c0de2000 {AT} 6", "", ""),
        ("traps: engine[4000077] general protection fault ip:401139 sp:7ffc error:0 in engine[401000+1000]",
         "general_protection", ", by the code in engine[401000+1000]"),
        ("traps: engine[4000077] general protection ip:401139 sp:7ffc error:0", "general_protection", "not a null"),
        ("traps: engine[4000077] trap divide error ip:401139 sp:7ffc error:0 in engine[401000+1000]", "divide", "zero"),
        ("traps: engine[4000077] trap x ip:401139 sp:7ffc error:0", "", ""),
        ("signal: engine[4000077] overflowed sigaltstack", "stack_overflow", "the alternate stack"),
        ("Out of memory: Killed process 4000077 (engine) total-vm:1kB", "out_of_memory", "of the whole machine"),
        ("Memory cgroup out of memory: Killed process 4000077 (engine)", "out_of_memory", "its memory cgroup"),
        ("Killed process 4000077 (engine) total-vm:1kB", "out_of_memory", "killed by the kernel for memory"),
    ],
)  # fmt: skip
def test_line_of_the_kernel_tells_what_it_can(reason: str, kind: str, words: str) -> None:
    """Its name of the process is the process's own choice."""
    found = kernel_line(line(reason))
    assert (found.kind if found else "") == kind, found
    assert any(word in (found.text if found else "") for word in words.split("|"))
    assert kernel_line(line(reason, MarkerKind.NOTIFICATION)) is None


def test_line_of_the_kernel_adds_what_the_core_cannot_tell() -> None:
    """The core has no number of the exception, the line has."""
    marker = line("traps: engine[4000077] general protection fault ip:401139 sp:7ffc error:0")
    told = with_line(diagnose(crash_facts(SEGV, SI_KERNEL, 0), Redaction()), marker)
    null = with_line(diagnose(crash_facts(SEGV, MAPERR, 0), Redaction()), marker)
    assert [told and told.kind, null and null.kind] == ["general_protection", "null_pointer"]
