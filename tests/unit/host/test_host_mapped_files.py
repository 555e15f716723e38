"""The list of mapped files of a core, by address."""

from __future__ import annotations

import tracemalloc

import fake_core
import pytest

from collector.host.elfcore import Layout, MappedFile
from collector.host.mapped_files import MappedFileTable

# A library that is mapped as data, too, below its code; another file between its parts.
FILES = [
    (0x1000, 0x3000, 0, b"/lib/libc.so"),
    (0x5000, 0x6000, 0, b"/lib/libc.so"),
    (0x6000, 0x8000, 1, b"/lib/libc.so"),
    (0x9000, 0xA000, 3, b"/lib/libc.so"),
    (0xB000, 0xC000, 7, b"/dev/shm/ring"),
    (0xC000, 0xD000, 8, b"/dev/shm/ring"),
]


def table(files: list[tuple[int, int, int, bytes]], word: int = 8) -> MappedFileTable:
    return MappedFileTable(Layout(word=word, order="<", machine=""), fake_core.nt_file(files, word=word))


@pytest.mark.parametrize("word", [8, 4])
def test_mapped_files_are_those_of_the_note(word: int) -> None:
    found = table(FILES, word)
    assert list(found) == [MappedFile(start, end, 4096 * page, path) for start, end, page, path in FILES]
    assert found[1:3] == list(found)[1:3]
    assert [found.find(at) for at in (0, 0x3000, 0xD000)] == [None] * 3
    assert [found.find(at) for at in (0x1000, 0x7FFF)] == [found[0], found[2]]


@pytest.mark.parametrize(
    ("address", "begins"),
    [(0x1800, 0x1000), (0x5000, 0x5000), (0x7000, 0x5000), (0x9000, 0x5000), (0xC800, 0xB000), (0x4000, None)],
)
def test_mapped_file_begins_where_this_mapping_of_it_does(address: int, begins: int | None) -> None:
    """Not at the lowest address where the same file is mapped: a program reads its libraries as data, too."""
    first = table(FILES).first_of(address)
    assert (first and first.start) == begins


def test_mapped_files_take_little_memory() -> None:
    """A process has at most 65,530 mappings by default, and their list is read while there is hardly any memory."""
    found = fake_core.nt_file([(at << 12, at + 1 << 12, 0, b"/opt/engine/data/segment") for at in range(1, 65_000)])
    tracemalloc.start()
    try:
        files = MappedFileTable(Layout(word=8, order="<", machine=""), found)
        assert files.find(64_999 << 12) == files[-1 + len(files)]
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
