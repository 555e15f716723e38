from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fake_core
import pytest

from collector.host import corefile
from collector.host.compression import zstd
from collector.host.corefile import core_reader
from collector.host.elfcore import MAX_DESC_BYTES, CoreError, CoreHeader, Layout, Note, notes, parse_mapped_files

LAYOUT = Layout(word=8, order="<", machine="x86_64")


@pytest.fixture
def core_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "core", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def read(fd: int, data: bytes) -> tuple[CoreHeader, list[Note]]:
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)
    header, found = notes(core_reader(fd))
    return header, list(found)


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
def test_core_that_is_not_a_core_is_refused_with_the_reason(core_fd: int, data: bytes, why: str) -> None:
    """Any file that a crashed process leaves behind gets a clear error message."""
    with pytest.raises(CoreError, match=why):
        read(core_fd, data)


def test_core_notes_end_where_they_are_cut_off(core_fd: int) -> None:
    """A full disk leaves half a core; what is there is read."""
    raw = fake_core.crash()
    whole = fake_core.core(raw)
    header, found = read(core_fd, whole[: whole.index(b"engine --token")])
    assert [note.type for note in found] == [fake_core.NT_PRSTATUS]
    assert header.end_bytes == len(whole)


def test_core_note_of_a_gigabyte_is_not_read(core_fd: int) -> None:
    """Lengths are not trusted: at most 4 MiB of a note are kept."""
    huge = fake_core.note(fake_core.NT_FILE, bytes(5 << 20))
    _, found = read(core_fd, fake_core.core(huge))
    assert [(note.size_bytes, len(note.desc)) for note in found] == [(5 << 20, MAX_DESC_BYTES)]


def test_core_file_list_with_an_absurd_count_is_empty() -> None:
    """The count is checked against the note's length before anything is allocated."""
    assert list(parse_mapped_files(LAYOUT, b"\xff" * 64)) == []


def test_core_notes_of_other_owners_are_ignored(core_fd: int) -> None:
    """Only notes named CORE have these layouts."""
    raw = fake_core.note(1, bytes(336), name=b"LINUX\0") + fake_core.note(fake_core.NT_SIGINFO, bytes(128))
    _, found = read(core_fd, fake_core.core(raw))
    assert [note.type for note in found] == [fake_core.NT_SIGINFO]


def test_core_compressed_by_zstd_is_read(core_fd: int) -> None:
    """As systemd-coredump leaves it."""
    data = zstd.compress(fake_core.core(fake_core.crash(), loads=50))
    header, found = read(core_fd, data)
    assert len(found) == 5
    assert header.segments == 51


def test_core_compressed_and_cut_off_is_read_as_far_as_it_goes(core_fd: int) -> None:
    """Damage after the notes does not hide them."""
    plain = fake_core.core(fake_core.crash(), loads=1) + os.urandom(1 << 20)
    data = zstd.compress(plain)
    assert len(read(core_fd, data[: len(data) // 2])[1]) == 5


def test_core_that_unpacks_without_end_is_abandoned(core_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decompression bomb in front of the notes costs a bounded amount of work."""
    monkeypatch.setattr(corefile, "MAX_UNPACKED_BYTES", 1 << 20)
    bomb = fake_core.note(2, bytes(8 << 20)) + fake_core.crash()
    assert read(core_fd, zstd.compress(fake_core.core(bomb)))[1] == []


def test_core_that_needs_a_huge_window_is_refused(core_fd: int) -> None:
    """The frame's header would make the decoder allocate 128 MiB."""
    options = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    data = zstd.compress(os.urandom(32 << 20), options=options)
    with pytest.raises(CoreError, match="damaged"):
        read(core_fd, data)
