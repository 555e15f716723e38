"""Apport reports by anybody: read to a limit, and nothing but the errors that are promised."""

from __future__ import annotations

import contextlib
import random
import tempfile

import fake_core
import fake_report
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.host.apport import MAX_KEYS, read_report
from collector.host.corefile import core_reader, mapped_files
from collector.host.elfcore import MAX_KEPT_BYTES, CoreError, notes
from collector.model.artifact import Truncated
from collector.triggers.core_names import identify

WHOLE = fake_report.report(fake_report.values_of(42), fake_report.packed(fake_core.core(fake_core.crash())))

PIECES = [
    b"ProblemType: Crash\n", b"ProblemType: Hang", b"CoreDump: base64\n ", b"CoreDump: base64\n", b"ProcMaps:\n ",
    b"ProcStatus:\n Pid:\t", b" Uid:\t", b"Signal: ", b"Date: ", b"ProcCmdline: ", b"\n", b"\r\n", b" ", b"\0", b"\\",
    b"=", b"H4sI", b"9" * 30, b"\xff\xfe", b"Sat Nov 28 08:56:14 2026", b"1000-2000 r--p 0 00:01 1  /dev/shm/x",
]  # fmt: skip


def read_all(data: bytes) -> None:
    """Read a report by every way there is."""
    with tempfile.NamedTemporaryFile(prefix="_a.", suffix=".0.crash") as file:
        file.write(data)
        file.flush()
        fd = file.fileno()
        report = read_report(fd)
        if report is not None:
            assert len(report.spans) <= MAX_KEYS
            assert sum(map(len, report.arguments)) <= len(data)
            assert report.pid is None or report.pid >= 0
            assert report.at_s is None or isinstance(report.at_s, int)
        identify(file.name, fd, -1, None)  # type: ignore[arg-type]
        with contextlib.suppress(CoreError, Truncated):
            assert sum(len(mapped.path) for mapped in mapped_files(fd)) <= len(data)
        with contextlib.suppress(CoreError):
            reader = core_reader(fd)
            header, found = notes(reader)
            assert sum(len(note.desc) for note in found) <= MAX_KEPT_BYTES
            reader.is_cut_off(header.end_bytes)


@given(seed=st.integers(), flips=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_report_with_flipped_bytes_is_read_or_refused(seed: int, flips: int) -> None:
    """Damage anywhere."""
    chance = random.Random(seed)
    data = bytearray(WHOLE)
    for _ in range(flips):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    read_all(bytes(data))


@given(cut=st.integers(0, len(WHOLE)), more=st.binary(max_size=50))
@settings(max_examples=100, deadline=None)
def test_report_that_ends_anywhere_is_read_or_refused(cut: int, more: bytes) -> None:
    """A full disk, and whatever comes after."""
    read_all(WHOLE[:cut] + more)


@given(parts=st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=60))
@settings(max_examples=300, deadline=None)
def test_report_of_anything_is_read_or_refused(parts: list[bytes]) -> None:
    """Keys, line breaks, numbers and bytes in any order."""
    read_all(b"ProblemType: Crash\n" + b"".join(parts))
