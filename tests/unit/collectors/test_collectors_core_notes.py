from __future__ import annotations

import struct
from pathlib import Path

import fake_core
import pytest
from fake_core import (
    AARCH64,
    ALPHA,
    ARM,
    I386,
    LOONGARCH,
    M68K,
    MIPS,
    PARISC,
    PPC,
    PPC64,
    RISCV,
    S390,
    SH,
    SPARC,
    SPARC64,
    X86_64,
)

from collector.collectors.core.notes import parse_process, parse_signal, parse_thread
from collector.host.corefile import core_reader
from collector.host.elfcore import Layout, notes
from collector.host.mapped_files import MappedFileTable

MACHINES = [
    (X86_64, 8, "<", 27),
    (X86_64, 4, "<", 27),  # x32
    (AARCH64, 8, "<", 34),
    (I386, 4, "<", 17),
    (ARM, 4, "<", 18),
    (PPC64, 8, ">", 48),
    (M68K, 4, ">", 20),
    (MIPS, 4, ">", 45),
    (MIPS, 4, "<", 45),
    (MIPS, 8, ">", 45),
    (MIPS, 8, "<", 45),
    (MIPS, 4, ">", 90),  # n32: registers of 64 bits
    (ARM, 4, ">", 18),
    (AARCH64, 8, ">", 34),
    (PPC, 4, ">", 48),
    (PPC64, 8, "<", 48),
    (S390, 8, ">", 27),
    (S390, 4, ">", 36),
    (RISCV, 8, "<", 32),
    (RISCV, 4, "<", 32),
    (LOONGARCH, 8, "<", 45),
    (SPARC, 4, ">", 38),
    (SPARC64, 8, ">", 36),
    (SPARC64, 4, ">", 38),
    (ALPHA, 8, "<", 33),
    (PARISC, 4, ">", 80),
    (SH, 4, "<", 23),
]
LAYOUT = Layout(word=8, order="<", machine="x86_64")


@pytest.mark.parametrize(("machine", "word", "order", "registers"), MACHINES)
def test_core_has_signal_process_threads_and_files(
    core_fd: int, machine: int, word: int, order: str, registers: int
) -> None:
    """The same values in every layout: 64 and 32 bits, both byte orders."""
    raw = fake_core.crash(machine=machine, word=word, order=order, registers=registers)
    header, found = fake_core.read_notes(core_fd, fake_core.core(raw, machine=machine, word=word, order=order, loads=3))
    layout = header.layout
    by_type = {note.type: note.desc for note in reversed(found)}
    process = parse_process(layout, by_type[fake_core.NT_PRPSINFO])
    signal = parse_signal(layout, by_type[fake_core.NT_SIGINFO])
    threads = [parse_thread(layout, note.desc) for note in found if note.type == fake_core.NT_PRSTATUS]
    files = list(MappedFileTable(layout, by_type[fake_core.NT_FILE]))
    assert process is not None
    assert (process.pid, process.uid, process.gid, process.ppid) == (42, 1000, 1001, 1)
    assert (process.command, process.arguments) == (b"engine", b"engine --token abc")
    assert signal is not None
    assert (signal.number, signal.code_name, signal.fault_address) == (11, "SEGV_MAPERR", "0xdead")
    assert [thread.tid for thread in threads if thread is not None] == [42, 43]
    assert threads[0] is not None
    assert (threads[0].user_s, threads[0].system_s, threads[0].signal) == (3.5, 1.25, 11)
    assert [(file.start, file.end, file.offset, file.path) for file in files] == [
        (0x1000, 0x3000, 8192, b"/dev/shm/engine.1"),
        (0x3000, 0x4000, 0, b"/dev/shm/gone (deleted)"),
    ]
    assert (header.segments, header.memory_bytes) == (4, 3 * 8192)


@pytest.mark.parametrize(
    ("machine", "word", "registers", "first", "last"),
    [
        (X86_64, 8, 27, "r15", "gs"),
        (X86_64, 4, 27, "r15", "gs"),
        (AARCH64, 8, 34, "x0", "pstate"),
        (I386, 4, 17, "ebx", "ss"),
        (ARM, 4, 18, "r0", "orig_r0"),
    ],
)
def test_core_names_the_registers(core_fd: int, machine: int, word: int, registers: int, first: str, last: str) -> None:
    """The first and the last register are where the machine's structure has them."""
    raw = fake_core.crash(machine=machine, word=word, registers=registers)
    header, found = fake_core.read_notes(core_fd, fake_core.core(raw, machine=machine, word=word))
    thread = parse_thread(header.layout, found[0].desc)
    assert thread is not None
    assert len(thread.registers) == registers
    assert (thread.registers[first], thread.registers[last]) == ("0x64", hex(100 + registers - 1))


def test_core_of_an_unknown_machine_is_read_without_registers(core_fd: int) -> None:
    """Everything but the registers is laid out alike."""
    header, found = fake_core.read_notes(core_fd, fake_core.core(fake_core.crash(machine=999), machine=999))
    thread = parse_thread(header.layout, found[0].desc)
    assert thread is not None
    assert (header.layout.machine, thread.tid, thread.registers) == ("999", 42, {})


def test_core_signal_names_its_sender() -> None:
    """A signal that somebody sent has a sender instead of an address."""
    signal = parse_signal(LAYOUT, fake_core.siginfo(6, -6, 7 | 1000 << 32))
    assert signal is not None
    assert (signal.code_name, signal.sender_pid, signal.sender_uid, signal.fault_address) == ("SI_TKILL", 7, 1000, None)


def test_core_signal_of_a_timer_has_no_address() -> None:
    """Codes below zero are of what a program asked for: in place of the address is the timer's number."""
    signal = parse_signal(LAYOUT, fake_core.siginfo(11, -2, 0x1234))
    assert signal is not None
    assert (signal.code_name, signal.sender_pid, signal.fault_address) == ("SI_TIMER", None, None)


@pytest.mark.parametrize("loose", [0, 6])
def test_core_of_m68k_has_its_ids_at_even_addresses(loose: int) -> None:
    """Its structures are aligned to two bytes, whatever the size of the note."""
    layout = Layout(word=4, order=">", machine="m68k")
    desc = fake_core.prstatus(41, 11, (0,) * 20, machine=M68K, word=4, order=">")
    assert len(desc) == 154  # as elfutils and binutils have it
    thread = parse_thread(layout, desc + bytes(loose))
    assert thread is not None
    assert (thread.tid, thread.pending, thread.blocked, thread.user_s) == (41, "0x1", "0x2", 3.5)


@pytest.mark.parametrize(
    ("number", "code", "name", "code_name", "address"),
    [
        (11, 2, "SIGSEGV", "SEGV_ACCERR", "0x1234"),
        (10, 1, "SIGBUS", "BUS_ADRALN", "0x1234"),
        (8, 1, "SIGFPE", "FPE_INTDIV", "0x1234"),
        (7, 0x80, "SIGEMT", "SI_KERNEL", None),
        (12, 0x80, "SIGSYS", "SI_KERNEL", None),
        (16, -3, "SIGUSR1", "SI_TIMER", None),
        (40, -2, "SIGRTMIN+6", "SI_ASYNCIO", None),
    ],
)
def test_core_of_mips_has_its_own_signal_numbers(
    number: int, code: int, name: str, code_name: str, address: str | None
) -> None:
    """10 is SIGUSR1 on x86 and SIGBUS on MIPS."""
    desc = fake_core.siginfo(number, code, 0x1234, machine=MIPS, word=4, order=">")
    signal = parse_signal(Layout(word=4, order=">", machine="mips"), desc)
    assert signal is not None
    assert (signal.number, signal.name, signal.code_name) == (number, name, code_name)
    assert signal.fault_address == address


@pytest.mark.parametrize(
    ("machine", "number", "code", "name", "code_name"),
    [
        ("sparc", 10, 1, "SIGBUS", "BUS_ADRALN"),
        ("sparc", 30, 0, "SIGUSR1", "SI_USER"),
        ("alpha", 12, 0, "SIGSYS", "SI_USER"),
        ("parisc", 10, 2, "SIGBUS", "BUS_ADRERR"),
        ("parisc", 31, 0, "SIGSYS", "SI_USER"),
        ("s390", 7, 1, "SIGBUS", "BUS_ADRALN"),
        ("sparc", 11, 1, "SIGSEGV", "SEGV_MAPERR"),
    ],
)
@pytest.mark.parametrize("word", [4, 8])
def test_core_of_other_machines_has_their_signal_numbers(
    machine: str, number: int, code: int, name: str, code_name: str, word: int
) -> None:
    """10 is SIGBUS on sparc, alpha and parisc, too, and 31 is SIGUSR2 or SIGSYS."""
    desc = fake_core.siginfo(number, code, 0x1234, word=word, order=">")
    signal = parse_signal(Layout(word=word, order=">", machine=machine), desc)
    assert signal is not None
    assert (signal.name, signal.code_name) == (name, code_name)


@pytest.mark.parametrize("padding", [0, 0xFFFF_FFFF])
def test_core_of_sparc64_has_its_microseconds_in_half_a_word(padding: int) -> None:
    """Before 5.6; the other half was never written."""
    desc = bytearray(fake_core.prstatus(41, 11, (0,) * 36, machine=SPARC64, order=">"))
    struct.pack_into(">QIIQII", desc, 48, 3, 500_000, padding, 1, 250_000, padding)
    thread = parse_thread(Layout(word=8, order=">", machine="sparc"), bytes(desc))
    assert thread is not None
    assert (thread.user_s, thread.system_s) == (3.5, 1.25)


def core_of(name: str) -> tuple[Layout, dict[int, bytes]]:
    """Return the layout and the notes, by type, of a core in ``cores``."""
    with (Path(__file__).parent / "cores" / name).open("rb") as file:
        header, found = notes(core_reader(file.fileno()))
        return header.layout, {note.type: note.desc for note in found}


def test_core_of_an_x32_process_has_registers_of_64_bits() -> None:
    """They are wider than its words."""
    layout, found = core_of("x32.core")
    thread = parse_thread(layout, found[fake_core.NT_PRSTATUS])
    assert thread is not None
    assert (thread.tid, thread.signal, thread.registers["rip"], thread.registers["rsp"]) == (
        41, 11, "0x400380", "0xffc0e070",
    )  # fmt: skip


def test_core_of_a_mips_process_has_its_code_before_its_errno() -> None:
    """A SIGSEGV of code 0 would have no address."""
    layout, found = core_of("mips.core")
    signal = parse_signal(layout, found[fake_core.NT_SIGINFO])
    assert signal is not None
    assert (signal.name, signal.code_name, signal.fault_address) == ("SIGSEGV", "SEGV_MAPERR", "0x1234")


def test_core_of_an_m68k_process_has_its_thread() -> None:
    """Two bytes before where others have it."""
    layout, found = core_of("m68k.core")
    thread = parse_thread(layout, found[fake_core.NT_PRSTATUS])
    assert thread is not None
    assert (layout.machine, thread.tid, thread.signal) == ("m68k", 41, 11)
