from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import fake_core
import pytest
import zstandard
from fake_core import AARCH64, ARM, I386, PPC64, X86_64

from collector.host import corefile
from collector.host.corefile import core_reader
from collector.host.corenotes import mapped_files, parse_process, parse_signal, parse_thread
from collector.host.elfcore import MAX_DESC_BYTES, CoreError, Header, Layout, Note, notes

MACHINES = [(X86_64, 8, "<", 27), (AARCH64, 8, "<", 34), (I386, 4, "<", 17), (ARM, 4, "<", 18), (PPC64, 8, ">", 48)]
LAYOUT = Layout(word=8, order="<", machine="x86_64")


@pytest.fixture
def core_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "core", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def read(fd: int, data: bytes) -> tuple[Header, list[Note]]:
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)
    header, found = notes(core_reader(fd))
    return header, list(found)


@pytest.mark.parametrize(("machine", "word", "order", "registers"), MACHINES)
def test_core_tells_signal_process_threads_and_files(
    core_fd: int, machine: int, word: int, order: str, registers: int
) -> None:
    """Every layout gives the same story: 64 and 32 bits, both byte orders."""
    raw = fake_core.crash(machine=machine, word=word, order=order, registers=registers)
    header, found = read(core_fd, fake_core.core(raw, machine=machine, word=word, order=order, loads=3))
    layout = header.layout
    by_type = {note.type: note.desc for note in reversed(found)}
    process = parse_process(layout, by_type[fake_core.NT_PRPSINFO])
    signal = parse_signal(layout, by_type[fake_core.NT_SIGINFO])
    threads = [parse_thread(layout, note.desc) for note in found if note.type == fake_core.NT_PRSTATUS]
    files = list(mapped_files(layout, by_type[fake_core.NT_FILE]))
    assert process is not None
    assert (process.pid, process.uid, process.gid, process.state, process.nice) == (42, 1000, 1001, "R", 5)
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
        (AARCH64, 8, 34, "x0", "pstate"),
        (I386, 4, 17, "ebx", "ss"),
        (ARM, 4, 18, "r0", "orig_r0"),
    ],
)
def test_core_names_the_registers(core_fd: int, machine: int, word: int, registers: int, first: str, last: str) -> None:
    """The first and the last register stand where the machine's structure has them."""
    raw = fake_core.crash(machine=machine, word=word, registers=registers)
    header, found = read(core_fd, fake_core.core(raw, machine=machine, word=word))
    thread = parse_thread(header.layout, found[0].desc)
    assert thread is not None
    assert len(thread.registers) == registers
    assert (thread.registers[first], thread.registers[last]) == ("0x64", hex(100 + registers - 1))


def test_core_of_an_unknown_machine_is_read_without_registers(core_fd: int) -> None:
    """Everything but the registers is laid out alike."""
    header, found = read(core_fd, fake_core.core(fake_core.crash(machine=999), machine=999))
    thread = parse_thread(header.layout, found[0].desc)
    assert thread is not None
    assert (header.layout.machine, thread.tid, thread.registers) == ("999", 42, {})


def test_core_signal_names_its_sender() -> None:
    """A signal that somebody sent has a sender instead of an address."""
    signal = parse_signal(LAYOUT, fake_core.siginfo(6, -6, 7 | 1000 << 32))
    assert signal is not None
    assert (signal.code_name, signal.sender_pid, signal.sender_uid, signal.fault_address) == ("SI_TKILL", 7, 1000, None)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not an ELF"),
        (b"\x7fELF", "not an ELF"),
        (b"#!/bin/sh\n" * 10, "not an ELF"),
        (b"\x7fELF\x07\x01" + bytes(100), "class"),
        (fake_core.core(b"")[:40], "ELF header"),
        (fake_core.core(b"", kind=2), "not a core"),
        (fake_core.core(b"")[:70], "segment table"),
        (b"\x04\x22\x4d\x18" + bytes(60), "lz4"),
    ],
)
def test_core_that_is_none_is_refused_with_the_reason(core_fd: int, data: bytes, why: str) -> None:
    """Whatever a crashed process leaves behind ends in a sentence."""
    with pytest.raises(CoreError, match=why):
        read(core_fd, data)


def test_core_notes_end_where_they_are_cut_off(core_fd: int) -> None:
    """A disk that was full leaves half a core: what is there is read."""
    raw = fake_core.crash()
    whole = fake_core.core(raw)
    header, found = read(core_fd, whole[: whole.index(b"engine --token")])
    assert [note.type for note in found] == [fake_core.NT_PRSTATUS]
    assert header.end_bytes == len(whole)


def test_core_note_of_a_gigabyte_is_not_read(core_fd: int) -> None:
    """A length is a claim: at most 4 MiB of a note are held."""
    huge = fake_core.note(fake_core.NT_FILE, bytes(5 << 20))
    _, found = read(core_fd, fake_core.core(huge))
    assert [(note.size_bytes, len(note.desc)) for note in found] == [(5 << 20, MAX_DESC_BYTES)]


def test_core_file_list_with_an_absurd_count_is_empty() -> None:
    """The count is checked against the note's length before anything is allocated."""
    assert list(mapped_files(LAYOUT, b"\xff" * 64)) == []


def test_core_notes_of_other_owners_are_passed_over(core_fd: int) -> None:
    """Only notes named CORE have these layouts."""
    raw = fake_core.note(1, bytes(336), name=b"LINUX\0") + fake_core.note(fake_core.NT_AUXV, bytes(32))
    _, found = read(core_fd, fake_core.core(raw))
    assert [note.type for note in found] == [fake_core.NT_AUXV]


def test_core_compressed_by_zstd_is_read(core_fd: int) -> None:
    """As systemd-coredump leaves it."""
    data = zstandard.ZstdCompressor().compress(fake_core.core(fake_core.crash(), loads=50))
    header, found = read(core_fd, data)
    assert len(found) == 5
    assert header.segments == 51


def test_core_compressed_and_cut_off_is_read_as_far_as_it_goes(core_fd: int) -> None:
    """Damage behind the notes does not hide them."""
    plain = fake_core.core(fake_core.crash(), loads=1) + os.urandom(1 << 20)
    data = zstandard.ZstdCompressor().compress(plain)
    assert len(read(core_fd, data[: len(data) // 2])[1]) == 5


def test_core_that_unpacks_to_no_end_is_given_up(core_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decompression bomb in front of the notes costs a bounded amount of work."""
    monkeypatch.setattr(corefile, "MAX_UNPACKED_BYTES", 1 << 20)
    bomb = fake_core.note(2, bytes(8 << 20)) + fake_core.crash()
    packed = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(packed, closefd=False) as writer:
        writer.write(fake_core.core(bomb))
    assert read(core_fd, packed.getvalue())[1] == []


def test_core_that_asks_for_a_huge_window_is_refused(core_fd: int) -> None:
    """The frame's header would make the decoder allocate 128 MiB."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    data = zstandard.ZstdCompressor(compression_params=parameters).compress(os.urandom(32 << 20))
    with pytest.raises(CoreError, match="damaged"):
        read(core_fd, data)
