"""Apport reports: what their head says, whoever wrote it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import fake_report
import pytest

from collector.host import apport
from collector.host.apport import MAX_HEAD_BYTES, MAX_NOTICED_BYTES, CrashReport, read_report

MAPS = "".join(
    f"{start:012x}-{start + 0x1000:012x} r--s 00002000 fd:01 {number + 1} {' ' * 20}/dev/shm/engine.{number}\n"
    for number, start in enumerate(range(0x7F0000000000, 0x7F0000000000 + 0x1000 * 65_530, 0x1000))
)


@pytest.fixture
def report_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "_opt_engine.1000.crash", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def read(fd: int, data: bytes, *, limit: int = MAX_HEAD_BYTES) -> CrashReport | None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)
    return read_report(fd, limit=limit)


def well(report: CrashReport | None) -> CrashReport:
    assert report is not None
    return report


def test_report_tells_the_process(report_fd: int) -> None:
    """PID, user, name and executable, signal, time and arguments."""
    report = well(read(report_fd, fake_report.report(fake_report.values_of(4711), fake_report.packed(b"core"))))
    assert (report.pid, report.uid, report.comm, report.exe) == (4711, 1000, "engine", "/opt/engine/bin/engine")
    assert (report.number(b"Signal"), report.text(b"DistroRelease")) == (11, "Ubuntu 24.04")
    assert report.at_s == int(time.mktime((2026, 11, 28, 8, 56, 14, 0, 0, -1)))
    assert report.arguments == [b"/opt/engine/bin/engine", b"--name", b"a b", b"--password", b"hunter2-correct-horse"]
    (file,) = report.mapped_files()
    assert (file.start, file.end, file.path) == (0x400000, 0x401000, b"/opt/engine/bin/engine")
    assert (file.device, file.inode) == (os.makedev(8, 1), 12)


@pytest.mark.parametrize("limit", [MAX_NOTICED_BYTES, MAX_HEAD_BYTES])
def test_report_tells_the_process_behind_many_mappings(report_fd: int, limit: int) -> None:
    """ProcStatus and Signal come after ProcMaps: of 10,000 mappings for the trigger, of 65,530 for the step."""
    count = 10_000 if limit == MAX_NOTICED_BYTES else 65_530
    maps = "\n".join(MAPS.splitlines()[:count])
    report = well(read(report_fd, fake_report.report(fake_report.values_of(42, maps=maps), [b"x"]), limit=limit))
    assert (report.pid, report.number(b"Signal")) == (42, 11)
    files = list(report.mapped_files())
    assert (len(files), files[-1].path, files[-1].inode) == (count, f"/dev/shm/engine.{count - 1}".encode(), count)
    assert not report.ends_within_maps


def test_report_of_an_interpreted_program_has_the_interpreter_as_its_executable(report_fd: int) -> None:
    """ExecutablePath is the script, and no process has that as its exe."""
    values = fake_report.values_of(1, ExecutablePath="/opt/job.py", InterpreterPath="/usr/bin/python3.12")
    assert well(read(report_fd, fake_report.report(values))).exe == "/usr/bin/python3.12"


@pytest.mark.parametrize(("written", "comm"), [(r"a\nb", "a\nb"), (r"a\\nb", r"a\nb"), ("a: b", "a: b")])
def test_report_has_the_name_as_the_process_set_it(report_fd: int, written: str, comm: str) -> None:
    """In ``/proc/PID/status`` the kernel escapes line breaks and backslashes."""
    assert well(read(report_fd, fake_report.report(fake_report.values_of(1, comm=written)))).comm == comm


@pytest.mark.parametrize("problem", ["Package", "KernelOops", "Bug", "KernelCrash", ""])
def test_report_about_something_else_is_none_of_a_crash(report_fd: int, problem: str) -> None:
    """Its ProcStatus would be that of Apport's own tools."""
    assert read(report_fd, fake_report.report(fake_report.values_of(1, ProblemType=problem))) is None


def test_report_with_a_key_given_twice_tells_neither(report_fd: int) -> None:
    """Nobody can know which of them is meant."""
    data = fake_report.report(fake_report.values_of(1))
    report = well(read(report_fd, data + b"ProcStatus:\n Name:\tx\n Pid:\t1\nSignal: 6\nProcMaps:\n x\n"))
    assert (report.pid, report.uid, report.comm, report.number(b"Signal")) == (None, None, None, None)
    assert list(report.mapped_files()) == []


def test_report_takes_no_key_from_within_a_value(report_fd: int) -> None:
    """Apport puts a blank before every further line of a value."""
    values = fake_report.values_of(41, ProcCmdline="engine\nProcStatus:\n Pid:\t1\nCoreDump: base64\nSignal: 9")
    report = well(read(report_fd, fake_report.report(values, [b"x"])))
    assert (report.pid, report.number(b"Signal")) == (41, 11)


@pytest.mark.parametrize("maps", ["Error: [Errno 13] Permission denied: 'maps'", "Error: unable\nto read", "\0\n\xff"])
def test_report_whose_maps_could_not_be_read_has_no_mapped_files(report_fd: int, maps: str) -> None:
    """Apport writes the error instead."""
    assert list(well(read(report_fd, fake_report.report(fake_report.values_of(1, maps=maps)))).mapped_files()) == []


def test_report_that_ends_within_its_maps_says_so(report_fd: int) -> None:
    """Apport was killed, or the disk is full."""
    whole = fake_report.report(fake_report.values_of(1, maps=MAPS[:50_000]), [b"x"])
    report = well(read(report_fd, whole[: whole.index(b"/dev/shm/engine.300") + 12]))
    assert report.ends_within_maps
    assert len(list(report.mapped_files())) == 300
    assert report.pid is None


@pytest.mark.parametrize("month", ["Foo 28 08:56:14 2026", "Nov 99 08:56:14 9999999", "Nov 28 25:61:61 0000", "Mai 1"])
def test_report_with_a_date_that_is_none_has_no_time(report_fd: int, month: str) -> None:
    """Also in another language, which Apport does not write."""
    at_s = well(read(report_fd, fake_report.report(fake_report.values_of(1, Date=f"Sat {month}")))).at_s
    assert at_s is None or abs(at_s) < 1 << 62


@pytest.mark.parametrize(
    "data",
    [
        b"ProblemType: Crash\n" + b"".join(b"key%d:\n" % number for number in range(200_000)),
        b"ProblemType: Crash\n" + b" \n" * 2_000_000,
        b"ProblemType: Crash\n" + b"\n" * 4_000_000,
        b"ProblemType: Crash\n" + b"x" * 4_000_000,
        b"ProblemType: Crash\r\nProcStatus:\r\n Pid:\t-1\r\n Uid:\t\xff\r\n",
        b"ProblemType: Crash\nProcStatus:\n Pid:\t" + b"9" * 100_000,
        b"ProblemType: Crash\nProcCmdline: " + b"\\" * 100_001,
    ],
)
def test_report_made_by_an_enemy_is_read_to_a_limit(report_fd: int, data: bytes) -> None:
    """Endless keys, lines and numbers, CRLF: it names nobody."""
    report = well(read(report_fd, data, limit=MAX_NOTICED_BYTES))
    assert len(report.head) <= MAX_NOTICED_BYTES
    assert len(report.spans) <= 1000
    assert (report.pid, report.uid, report.number(b"Signal"), report.at_s) == (None, None, None, None)
    assert list(report.mapped_files()) == []
    assert len(b"".join(report.arguments)) <= apport.MAX_VALUE_BYTES


def test_report_of_four_gigabytes_is_read_to_a_limit(report_fd: int) -> None:
    """A sparse file costs its owner nothing."""
    os.pwrite(report_fd, b"ProblemType: Crash\n", 0)
    os.ftruncate(report_fd, 4 << 30)
    assert len(well(read_report(report_fd)).head) == MAX_HEAD_BYTES
