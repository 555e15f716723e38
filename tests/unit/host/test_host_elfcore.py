from __future__ import annotations

import io
import os

import fake_core
import pytest

from collector.host.corefile import core_reader
from collector.host.elfcore import (
    MAX_DESC_BYTES,
    MAX_KEPT_BYTES,
    NT_AUXV,
    CoreError,
    Layout,
    MappedFile,
    notes,
    read_header,
)
from collector.host.mapped_files import MappedFileTable

LAYOUT = Layout(word=8, order="<", machine="x86_64")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not an ELF file: it is empty"),
        (b"\x7fELF", "not an ELF"),
        (b"#!/bin/sh\n" * 10, r'not an ELF file: it begins with "#!/bin/sh\\x0a'),
        (b"ProblemType: Crash\nArchitecture: amd64\n", "the Apport report has no core"),
        (b"ProblemType: KernelOops\nArchitecture: amd64\n", "an Apport report that is not about a process"),
        (b"\x7fELF\x07\x01" + bytes(100), "class"),
        (fake_core.core(b"")[:40], "ELF header"),
        (fake_core.core(b"", kind=2), "not a core: an executable"),
        (fake_core.core(b"", kind=77), "not a core: of type 77"),
        (fake_core.core(b"")[:70], "segment table"),
    ],
)
def test_core_that_is_not_a_core_is_refused_with_the_reason(core_fd: int, data: bytes, why: str) -> None:
    """Any file that a crashed process leaves behind gets a clear error message."""
    with pytest.raises(CoreError, match=why):
        fake_core.read_notes(core_fd, data)


def test_core_notes_end_where_they_are_cut_off(core_fd: int) -> None:
    """A full disk leaves half a core; what is there is read."""
    raw = fake_core.crash()
    whole = fake_core.core(raw)
    header, found = fake_core.read_notes(core_fd, whole[: whole.index(b"engine --token")])
    assert [note.type for note in found] == [fake_core.NT_PRSTATUS]
    assert header.end_bytes == len(whole)


def test_core_note_of_a_gigabyte_is_not_read(core_fd: int) -> None:
    """Lengths are not trusted: at most 4 MiB of a note are kept."""
    huge = fake_core.note(fake_core.NT_FILE, bytes(5 << 20))
    _, found = fake_core.read_notes(core_fd, fake_core.core(huge))
    assert [(note.size_bytes, len(note.desc)) for note in found] == [(5 << 20, MAX_DESC_BYTES)]


def test_core_file_list_with_an_absurd_count_is_empty() -> None:
    """The count is checked against the note's length before anything is allocated."""
    assert list(MappedFileTable(LAYOUT, b"\xff" * 64)) == []


def test_core_notes_of_other_owners_are_ignored(core_fd: int) -> None:
    """Only notes named CORE have these layouts."""
    raw = fake_core.note(1, bytes(336), name=b"LINUX\0") + fake_core.note(fake_core.NT_SIGINFO, bytes(128))
    _, found = fake_core.read_notes(core_fd, fake_core.core(raw))
    assert [note.type for note in found] == [fake_core.NT_SIGINFO]


def changed(data: bytes, changes: dict[int, bytes]) -> bytes:
    """Return *data* with the bytes at some offsets replaced."""
    found = bytearray(data)
    for offset, value in changes.items():
        found[offset : offset + len(value)] = value
    return bytes(found)


WHOLE = fake_core.core(fake_core.crash())
LOADS = fake_core.core(fake_core.crash(), loads=3)
PHOFF, PHENTSIZE, PHNUM = 32, 54, 56  # of a 64-bit ELF header; the segment table follows at 64, 56 bytes an entry
TABLE, ENTRY = 64, 56
KIND, OFFSET, FILE_SIZE, MEMORY_SIZE = 0, 8, 32, 40  # in an entry
SIGNAL_STACK = (0x6474E551).to_bytes(4, "little")  # PT_GNU_STACK


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (changed(WHOLE, {4: b"\3"}), "unknown class or byte order"),
        (changed(WHOLE, {5: b"\3"}), "unknown class or byte order"),
        (WHOLE[:15], "not an ELF file"),
        (WHOLE[:63], "ELF header"),
        (fake_core.core(fake_core.crash(), word=4)[:51], "ELF header"),
        (WHOLE[: TABLE + ENTRY - 1], "segment table"),
        (changed(WHOLE, {PHENTSIZE: b"\x39"}), "segment table is not where"),
        (changed(WHOLE, {PHENTSIZE: b"\x37"}), "segment table is not where"),
        (changed(WHOLE, {0: b"\x7eELF"}), "not an ELF file"),
        (changed(WHOLE, {PHOFF: b"\x3f"}), "segment table is not where"),
        (changed(WHOLE, {PHOFF: ((1 << 20) + 1).to_bytes(8, "little")}), "segment table is not where"),
        (changed(WHOLE, {TABLE: b"\1"}), "has no notes"),
        (changed(WHOLE, {TABLE + OFFSET: b"\x20\0"}), "its notes overlap its headers"),
    ],
)
def test_core_header_that_no_kernel_writes_is_refused(core_fd: int, data: bytes, why: str) -> None:
    """Each check alone."""
    with pytest.raises(CoreError, match=why):
        fake_core.read_notes(core_fd, data)


def test_core_segment_table_may_be_a_mebibyte_away(core_fd: int) -> None:
    """The farthest place at which it is looked for; the notes come after it."""
    start = 1 << 20
    moved = changed(
        WHOLE[:TABLE].ljust(start, b"\0") + WHOLE[TABLE:],
        {PHOFF: start.to_bytes(8, "little"), start + OFFSET: (start + 2 * ENTRY).to_bytes(8, "little")},
    )
    _, found = fake_core.read_notes(core_fd, moved)
    assert len(found) == 5


def test_core_version_byte_is_not_looked_at(core_fd: int) -> None:
    """What does not matter does not make a core unreadable."""
    header, _ = fake_core.read_notes(core_fd, changed(WHOLE, {6: b"\7"}))
    assert header.segments == 2


def test_core_segments_are_counted_as_far_as_asked(core_fd: int) -> None:
    """A trigger reads the first segments only; the rest of the table is skipped to reach the notes."""
    os.pwrite(core_fd, LOADS, 0)
    counts = [read_header(core_reader(core_fd), segments=limit)[0].segments for limit in (1, 3, 4, 5)]
    assert counts == [1, 3, 4, 4]


def test_core_with_more_segments_than_its_header_can_count(core_fd: int) -> None:
    """The table is then read up to the first data, the notes, which follow it without a gap."""
    many = changed(LOADS, {PHNUM: b"\xff\xff"})
    header, found = fake_core.read_notes(core_fd, many)
    assert (header.segments, header.memory_bytes, len(found)) == (4, 3 * 8192, 5)
    os.pwrite(core_fd, many, 0)
    assert read_header(core_reader(core_fd), segments=2)[0].segments == 2


def test_core_segments_that_hold_nothing_count_for_nothing(core_fd: int) -> None:
    """
    The file ends with the last PT_LOAD or PT_NOTE that has data.

    A segment without data may claim any place, one of another kind any size.
    """
    first, second, third = (TABLE + number * ENTRY for number in (1, 2, 3))
    far = (1 << 40).to_bytes(8, "little")
    last = int.from_bytes(LOADS[first + OFFSET : first + OFFSET + 8], "little")
    odd = changed(
        LOADS,
        {
            PHNUM: b"\xff\xff",
            second + KIND: SIGNAL_STACK, second + OFFSET: far,
            third + OFFSET: b"\0" * 8, third + FILE_SIZE: b"\0" * 8,
        },
    )  # fmt: skip
    header, found = fake_core.read_notes(core_fd, odd)
    assert (header.segments, header.end_bytes, header.memory_bytes) == (4, last + 4096, 2 * 8192)
    assert len(found) == 5
    header, _ = fake_core.read_notes(core_fd, changed(odd, {third + OFFSET: far}))
    assert header.end_bytes == last + 4096


def test_core_notes_are_those_of_the_first_note_segment(core_fd: int) -> None:
    """Wherever it is in the table; a second one would not be the kernel's."""
    raw = fake_core.crash()
    note, load = (LOADS[at : at + ENTRY] for at in (TABLE, TABLE + ENTRY))
    swapped = changed(LOADS, {TABLE: load, TABLE + ENTRY: note})
    assert len(fake_core.read_notes(core_fd, swapped)[1]) == 5
    second = changed(LOADS, {TABLE + ENTRY + KIND: b"\4"})
    header, found = fake_core.read_notes(core_fd, second)
    assert (header.note_offset, header.note_bytes, len(found)) == (TABLE + 4 * ENTRY, len(raw), 5)


def test_core_notes_end_with_their_segment(core_fd: int) -> None:
    """What follows is not a note, whatever it looks like; one that leaves the segment is none, either."""
    one = fake_core.note(fake_core.NT_SIGINFO, bytes(128))
    for size, count in (
        (2 * len(one), 2),
        (2 * len(one) - 1, 1),
        (len(one) + 12, 1),
        (len(one) + 11, 1),
        (len(one), 1),
    ):
        whole = changed(fake_core.core(one * 3), {TABLE + FILE_SIZE: size.to_bytes(8, "little")})
        _, found = fake_core.read_notes(core_fd, whole)
        assert [note.type for note in found] == [fake_core.NT_SIGINFO] * count, size


def test_core_notes_follow_one_another_padded(core_fd: int) -> None:
    """Name and description are each padded to four bytes; the last one ends exactly with the segment."""
    raw = b"".join(
        fake_core.note(NT_AUXV, bytes(size), name=name)
        for size in range(1, 9)
        for name in (b"CORE\0", b"CORE\0\0", b"CORE\0\0\0\0", b"CORE")
    )
    _, found = fake_core.read_notes(core_fd, fake_core.core(raw))
    assert [len(note.desc) for note in found] == [size for size in range(1, 9) for _ in range(4)]


@pytest.mark.parametrize(("size", "count"), [(256, 2), (257, 0)])
def test_core_note_with_a_long_name_ends_the_list(core_fd: int, size: int, count: int) -> None:
    """No kernel writes one: whatever follows is not believed."""
    raw = b"".join(fake_core.note(NT_AUXV, b"x", name=b"CORE".ljust(length, b"\0")) for length in (size, 5))
    assert len(fake_core.read_notes(core_fd, fake_core.core(raw))[1]) == count


def test_core_notes_that_nobody_reads_are_not_kept(core_fd: int) -> None:
    """Floating-point registers are most of the bytes."""
    _, found = fake_core.read_notes(core_fd, WHOLE)
    assert [note.type for note in found] == [
        fake_core.NT_PRSTATUS, fake_core.NT_PRPSINFO, fake_core.NT_SIGINFO, fake_core.NT_FILE, fake_core.NT_PRSTATUS
    ]  # fmt: skip


def test_core_notes_are_kept_up_to_the_limit_for_all(core_fd: int) -> None:
    """Exactly 64 MiB are kept, and not a byte more."""
    head = fake_core.note(fake_core.NT_FILE, b"")
    big = head[:4] + MAX_DESC_BYTES.to_bytes(4, "little") + head[8:] + bytes(MAX_DESC_BYTES)
    count = MAX_KEPT_BYTES // MAX_DESC_BYTES
    for last in (b"", fake_core.note(NT_AUXV, b"x")):
        data = changed(
            fake_core.core(last, loads=0), {TABLE + FILE_SIZE: (count * len(big) + len(last)).to_bytes(8, "little")}
        )
        reader = io.BytesIO(data[: TABLE + ENTRY] + big * count + last)
        reader.skip = lambda size, reader=reader: reader.seek(size, os.SEEK_CUR)  # type: ignore[attr-defined]
        assert sum(len(note.desc) for note in notes(reader)[1]) == MAX_KEPT_BYTES  # type: ignore[arg-type]


def test_core_file_list_gives_whole_entries_only() -> None:
    """A name that is cut off is left out; offsets are in pages."""
    desc = fake_core.nt_file([(0x1000, 0x3000, 2, b"/a"), (0x3000, 0x4000, 0, b"/bc")])
    one, two = MappedFile(0x1000, 0x3000, 8192, b"/a"), MappedFile(0x3000, 0x4000, 0, b"/bc")
    assert list(MappedFileTable(LAYOUT, desc)) == [one, two]
    assert list(MappedFileTable(LAYOUT, desc[:-1])) == [one]
    assert list(MappedFileTable(LAYOUT, desc[:15])) == []
    assert (one.addresses, two.addresses) == ("1000-3000", "3000-4000")


def test_core_of_70000_segments_is_counted_to_the_end(core_fd: int) -> None:
    """More than its header can count; what it does count is not exceeded, even with room before the notes."""
    empty = changed(WHOLE[TABLE + ENTRY : TABLE + 2 * ENTRY], {FILE_SIZE: bytes(8)})
    start = TABLE + 70_000 * ENTRY
    note = changed(WHOLE[TABLE : TABLE + ENTRY], {OFFSET: start.to_bytes(8, "little")})
    many = changed(WHOLE[:TABLE], {PHNUM: b"\xff\xff"}) + note + empty * 69_999 + fake_core.crash()
    header, found = fake_core.read_notes(core_fd, many)
    assert (header.segments, header.memory_bytes, len(found)) == (70_000, 69_999 * 8192, 5)
    header, _ = fake_core.read_notes(core_fd, changed(LOADS, {PHNUM: b"\2\0"}))
    assert header.segments == 2
