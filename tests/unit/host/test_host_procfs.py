from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from collector.host.files import Host
from collector.host.process_stat import parse_stat
from collector.host.procfs import Process, ReplacedError, pids

LINE = (
    "{pid} ({comm}) S 1 2 3 0 -1 4194560 10 11 12 13 14 15 16 17 20 0 3 0 {start} 1000 25 184 " + "0 " * 13 + "7 0 0\n"
)


def stat_line(comm: bytes, *, pid: int = 42, start: int = 777) -> bytes:
    return LINE.format(pid=pid, comm="@", start=start).encode().replace(b"@", comm)


@pytest.mark.parametrize("comm", [b"sh", b"a) R 1\nUid: 0", b") (", b"", b"\xff\x1b[2J", b"a b c) S 9 9"])
def test_parse_stat_reads_the_fields_after_the_last_parenthesis(comm: bytes) -> None:
    """A process chooses its own name, which must not be mistaken for fields."""
    stat = parse_stat(stat_line(comm))
    assert (stat.pid, stat.comm, stat.state, stat.ppid, stat.threads, stat.start_ticks) == (42, comm, "S", 1, 3, 777)
    assert (stat.utime_ticks, stat.stime_ticks, stat.rss_pages, stat.processor) == (14, 15, 25, 7)


@pytest.mark.parametrize("raw", [b"", b"42", b"42 (sh", b"42 (sh) S 1", b"x (sh) " + b"1 " * 50])
def test_parse_stat_refuses_what_is_not_a_stat_line(raw: bytes) -> None:
    """A truncated file is refused."""
    with pytest.raises(ValueError, match=r"stat|int"):
        parse_stat(raw)


def test_process_reads_itself() -> None:
    """The numbers are the kernel's."""
    with Process(Host(), os.getpid()) as process:
        assert process.read("comm", limit=64).decode().strip() == Path("/proc/self/comm").read_text().strip()
        assert process.stat().pid == os.getpid()
        process.check()


def test_process_is_refused_when_it_started_at_another_time() -> None:
    """A PID with another start time is another process."""
    with pytest.raises(ReplacedError, match="another process now"):
        Process(Host(), os.getpid(), 1)


def test_process_descriptor_shows_nothing_once_the_process_is_gone() -> None:
    """The directory belongs to the process, not to the number."""
    child = subprocess.Popen(["/bin/sleep", "60"])
    process = Process(Host(), child.pid)
    child.kill()
    child.wait()
    with process, pytest.raises(ProcessLookupError):
        process.check()


def test_process_of_a_zombie_can_still_be_read() -> None:
    """A crashed process that has not been reaped is evidence."""
    child = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with Process(Host(), child.pid) as process:
        assert process.stat().state == "Z"
    child.wait()


def test_process_leaks_no_descriptor_when_there_is_no_such_process() -> None:
    """A refused process leaves nothing open."""
    before = os.listdir("/proc/self/fd")
    for start in (None, 1):
        with pytest.raises((OSError, ReplacedError)):
            Process(Host(), os.getpid() if start else 2**22 - 1, start)
    assert os.listdir("/proc/self/fd") == before


def test_process_notices_that_its_directory_was_swapped(tmp_path: Path) -> None:
    """If the start time under a PID changes, nothing more is trusted."""
    directory = tmp_path / "proc" / "42"
    directory.mkdir(parents=True)
    (directory / "stat").write_bytes(stat_line(b"victim"))
    with Process(Host(str(tmp_path)), 42) as process:
        (directory / "stat").write_bytes(stat_line(b"intruder", start=778))
        with pytest.raises(ReplacedError, match="replaced"):
            process.check()


def test_pids_lists_processes_only(tmp_path: Path) -> None:
    """Names that are not numbers are ignored."""
    for name in ("1", "42", "self", "sys", "4x", "٣"):
        os.makedirs(os.fsencode(tmp_path / "proc") + b"/" + name.encode())
    assert sorted(pids(Host(str(tmp_path)))) == [1, 42]
