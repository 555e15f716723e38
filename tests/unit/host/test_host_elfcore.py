from __future__ import annotations

import fake_core
import pytest

from collector.host.elfcore import MAX_DESC_BYTES, CoreError, Layout, parse_mapped_files

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
    assert list(parse_mapped_files(LAYOUT, b"\xff" * 64)) == []


def test_core_notes_of_other_owners_are_ignored(core_fd: int) -> None:
    """Only notes named CORE have these layouts."""
    raw = fake_core.note(1, bytes(336), name=b"LINUX\0") + fake_core.note(fake_core.NT_SIGINFO, bytes(128))
    _, found = fake_core.read_notes(core_fd, fake_core.core(raw))
    assert [note.type for note in found] == [fake_core.NT_SIGINFO]
