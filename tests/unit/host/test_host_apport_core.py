"""The core within an Apport report."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import random
from collections.abc import Iterator
from pathlib import Path

import fake_core
import fake_report
import pytest

from collector.host import apport_core, unpack
from collector.host.compression import zstd
from collector.host.corefile import core_reader, mapped_files
from collector.host.elfcore import CoreError, notes
from collector.model.artifact import Truncated

PLAIN = fake_core.core(fake_core.crash(), loads=50)
NOISE = random.Random(1).randbytes(2 << 20)


@pytest.fixture
def report_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "_opt_engine.1000.crash", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def report_of(*chunks: bytes, **values: str) -> bytes:
    return fake_report.report(fake_report.values_of(42, **values), chunks)


def read(fd: int, data: bytes) -> tuple[int, bool]:
    """Return the number of the core's notes, and whether it is cut off."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)
    reader = core_reader(fd)
    header, found = notes(reader)
    return len(list(found)), reader.is_cut_off(header.end_bytes)


def core_of(memory: bytes) -> bytes:
    """Return a core with *memory*, a multiple of 4 KiB, in its segments."""
    return fake_core.core(fake_core.crash(), loads=len(memory) // 4096)[: -len(memory)] + memory


@pytest.mark.parametrize(
    "chunks",
    [
        tuple(fake_report.packed(PLAIN)),
        tuple(fake_report.packed(core_of(NOISE))),  # lines longer than what is read at once
        (gzip.compress(PLAIN),),  # had been compressed before: one line
        (zstd.compress(PLAIN),),  # by systemd-coredump
        (lzma.compress(PLAIN),),
        tuple(bytes([byte]) for byte in gzip.compress(PLAIN)),  # each line with its own padding
    ],
)
def test_report_core_is_read(report_fd: int, chunks: tuple[bytes, ...]) -> None:
    """However its lines divide it; and whatever values follow it."""
    whole = report_of(*chunks)
    assert read(report_fd, whole) == (5, False)
    assert read(report_fd, whole + b"VmCore: base64\n AAAA\nTags: bionic\n") == (5, False)
    assert read(report_fd, whole.replace(b"CoreDump:", b"BootLog: base64\n H4sI\n AAAA\nCoreDump:")) == (5, False)


@pytest.mark.parametrize("lookahead", [unpack.LOOKAHEAD_BYTES, 0])
@pytest.mark.parametrize("cut", [1, 7, 40, 100_000])
def test_report_core_that_was_cut_off_says_so(
    report_fd: int, cut: int, lookahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apport was killed or the disk is full: also of a core that is too long to be unpacked to its end."""
    monkeypatch.setattr(unpack, "LOOKAHEAD_BYTES", lookahead)
    whole = report_of(*fake_report.packed(core_of(NOISE)))
    assert read(report_fd, whole) == (5, False)
    assert read(report_fd, whole + b"Tags: bionic\n") == (5, False)
    assert read(report_fd, whole[: -1 - cut]) == (5, True)
    assert read(report_fd, report_of(*fake_report.packed(core_of(NOISE)[:-cut]))) == (5, True)


@pytest.mark.parametrize(
    ("chunks", "why"),
    [
        ((), "not compressed"),
        ((PLAIN,), "not compressed"),
        ((b"\x02\x21\x4c\x18rest of it all",), "lz4 in its legacy format"),
        ((fake_report.HEADER, b"\xff" * 100), "cannot be unpacked"),
        (tuple(fake_report.packed(b"not a core at all")), "not an ELF file"),
    ],
)
def test_report_core_that_cannot_be_read_is_refused_with_the_reason(
    report_fd: int, chunks: tuple[bytes, ...], why: str
) -> None:
    """What is met is named."""
    with pytest.raises(CoreError, match=why):
        read(report_fd, report_of(*chunks))


@pytest.mark.parametrize("core", [PLAIN, core_of(NOISE)])
@pytest.mark.parametrize("damage", [b"!", b"=", b"\xff", b"A", b"\0"])
def test_report_core_with_damaged_base64_is_refused_or_cut_off(report_fd: int, core: bytes, damage: bytes) -> None:
    """Nothing is guessed."""
    whole = report_of(*fake_report.packed(core))
    at = whole.index(b"CoreDump:") + 60
    for data in (whole[:at] + damage + whole[at:], whole[:at] + damage + whole[at + 1 :]):
        with contextlib.suppress(CoreError):
            assert read(report_fd, data)[1]


def test_report_without_a_core_says_so(report_fd: int) -> None:
    """Apport leaves it out if memory is short: the head is all there is."""
    with pytest.raises(CoreError, match="has no core"):
        read(report_fd, fake_report.report(fake_report.values_of(42)))


def test_report_of_an_exception_has_no_core_by_nature(report_fd: int) -> None:
    """Apport reports uncaught exceptions of Python programs, too."""
    with pytest.raises(CoreError, match="leaves no core"):
        read(report_fd, b"ProblemType: Crash\nTraceback:\n Traceback (most recent call last):\n NameError\n")


def test_report_lists_mapped_files_by_its_maps_then_by_its_core(report_fd: int) -> None:
    """ProcMaps has the inodes; if Apport could not read it, the core has the names."""
    read(report_fd, report_of(*fake_report.packed(PLAIN)))
    assert [(file.path, file.inode) for file in mapped_files(report_fd)] == [(b"/opt/engine/bin/engine", 12)]
    read(report_fd, report_of(*fake_report.packed(PLAIN), maps="Error: unable to read /proc maps file"))
    assert [(file.path, file.inode) for file in mapped_files(report_fd)] == [
        (b"/dev/shm/engine.1", None),
        (b"/dev/shm/gone (deleted)", None),
    ]


def test_report_cut_off_within_its_maps_has_no_whole_list(report_fd: int) -> None:
    """What is there is listed, and that more is missing is said."""
    data = fake_report.report(fake_report.values_of(42))
    os.pwrite(report_fd, data[: data.index(b"7ffc0000000")], 0)
    found = mapped_files(report_fd)
    assert next(found).path == b"/opt/engine/bin/engine"
    with pytest.raises(Truncated, match="after 1 entries"):
        next(found)


def test_report_core_of_endless_lines_is_read_to_a_limit(report_fd: int) -> None:
    """A byte per line, or none."""
    for line in (b" QQ==\n", b" \n", b"\n"):
        os.ftruncate(report_fd, 0)
        os.pwrite(report_fd, line * 3_000_000, 0)
        lines = apport_core.Base64Lines(report_fd, 0)
        assert sum(map(len, iter(lambda lines=lines: lines.read(1 << 16), b""))) <= apport_core.MAX_LINES + (1 << 16)


def test_report_core_that_unpacks_to_gigabytes_is_read_to_a_limit(
    report_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As any compressed core."""
    monkeypatch.setattr(unpack, "MAX_UNPACKED_BYTES", 8 << 20)
    os.pwrite(report_fd, report_of(*fake_report.packed(bytes(64 << 20))), 0)
    reader = core_reader(report_fd)
    assert len(reader.read(1 << 30)) == 8 << 20
