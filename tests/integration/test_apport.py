"""A crash that Apport reported: from its file to the marker, the core's notes and the segments."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fake_core
import fake_report
import pytest
from collecting import Collected, collect, context, core_ref, manual
from machine import core_pattern
from watching import drain, opened, told, trigger_context

from collector.collectors.core.core import Core, KeepCore
from collector.collectors.shm.shm import Shm
from collector.model.marker import Marker
from collector.triggers.core_files import CoreFiles

SECRET = "hunter2-correct-horse"
NOBODY = 65_534
CRASH = """
import ctypes, mmap, os, sys
held = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0)
for name in ("maps", "status"):
    with open(name, "wb") as file:
        file.write(open(f"/proc/self/{name}", "rb").read())
ctypes.memset(0x1234, 1, 1)
"""


@pytest.fixture
def segment() -> Iterator[Path]:
    path = Path(f"/dev/shm/collector-test-{os.getpid()}-{time.monotonic_ns()}")
    path.write_bytes(b"evidence" * 1024)
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def crash_file(tmp_path: Path) -> Path:
    (tmp_path / "crash").mkdir()
    return tmp_path / "crash" / "_opt_engine_bin_engine.1000.crash"


def maps_of(path: Path) -> str:
    """Return a line of ``/proc/PID/maps`` for a file."""
    info = path.stat()
    device = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}"
    anonymous = "00400000-00401000 r--p 00000000 00:00 0 \n"
    return f"{anonymous}7f0000000000-7f0000002000 rw-s 00000000 {device} {info.st_ino} {path}"


def noticed(tmp_path: Path, path: Path, data: bytes, *, owner: int | None = None) -> Marker:
    """Write a report as Apport does, with mode 0 while it is being written, and return the one marker of it."""
    with opened(CoreFiles(paths=(str(path.parent),)), trigger_context(tmp_path)) as watch:
        mode = 0 if os.geteuid() == 0 else 0o600  # of a file of mode 0, nobody else can tell whether it is complete
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        if owner is not None:
            os.fchown(fd, owner, -1)
        os.write(fd, data[:10_000])
        assert [*drain(watch), *told(watch.poll())] == []
        os.write(fd, data[10_000:])
        os.fchmod(fd, 0o640)
        os.close(fd)
        (marker,) = drain(watch)
        return marker


def collected_core(path: Path, **fields: object) -> Collected:
    return collect(Core(**fields), context(manual(core=core_ref(str(path)))))  # type: ignore[arg-type]


def test_apport_report_names_the_process_when_it_is_complete(tmp_path: Path, crash_file: Path) -> None:
    """PID, user, signal, name, executable and time; not while Apport still writes."""
    data = fake_report.report(
        fake_report.values_of(4711, uid=os.getuid(), comm="long name of it"), fake_report.packed(os.urandom(1 << 20))
    )
    marker = noticed(tmp_path, crash_file, data)
    assert marker.process is not None
    assert (marker.process.pid, marker.uid, marker.signal) == (4711, os.getuid(), 11)
    assert (marker.comm, marker.exe) == ("long name of it", "/opt/engine/bin/engine")
    assert marker.at_s == time.mktime((2026, 11, 28, 8, 56, 14, 0, 0, -1))
    assert marker.attributes["writer"] == "apport"


@pytest.mark.root
def test_apport_report_of_a_user_is_about_that_user(tmp_path: Path, crash_file: Path) -> None:
    """Apport gives the file to the user whose process crashed; what another user claims is kept as a claim."""
    marker = noticed(tmp_path, crash_file, fake_report.report(fake_report.values_of(4711, uid=0)), owner=NOBODY)
    assert (marker.uid, marker.attributes["claimed_uid"]) == (NOBODY, "0")


@pytest.mark.root
def test_apport_report_of_a_user_names_no_process_of_another(tmp_path: Path, crash_file: Path) -> None:
    """Whatever user it claims; a process of the user's own it may name, also one that is gone."""
    with subprocess.Popen(["sleep", "60"], user=NOBODY) as own, subprocess.Popen(["true"]) as gone:
        gone.wait()
        for pid, named in ((1, None), (own.pid, own.pid), (gone.pid, gone.pid)):
            data = fake_report.report(fake_report.values_of(pid, uid=NOBODY))
            marker = noticed(tmp_path, crash_file, data, owner=NOBODY)
            assert (marker.process and marker.process.pid) == named
            assert marker.attributes.get("claimed_pid") == (None if named else "1")
            crash_file.unlink()
        own.kill()


def test_apport_report_that_its_hooks_rewrite_is_one_crash(tmp_path: Path, crash_file: Path) -> None:
    """whoopsie and the desktop add to a complete report seconds later; the next crash makes a new file."""
    data = fake_report.report(fake_report.values_of(4711), fake_report.packed(b"core"))
    with opened(CoreFiles(paths=(str(crash_file.parent),)), trigger_context(tmp_path)) as watch:
        crash_file.write_bytes(data)
        assert len(drain(watch)) == 1
        with crash_file.open("r+b") as file:
            file.write(fake_report.report(fake_report.values_of(4711, Tags="noble"), fake_report.packed(b"core")))
        with crash_file.open("ab") as file:
            file.write(b"JournalErrors: none\n")
        assert drain(watch) == []
        crash_file.unlink()
        crash_file.write_bytes(data.replace(b"08:56:14", b"08:56:20"))
        assert len(drain(watch)) == 1


def test_apport_report_is_known_under_another_name(tmp_path: Path, crash_file: Path) -> None:
    """Somebody may have renamed it; and any name may end in ``.crash``."""
    marker = noticed(tmp_path, crash_file.with_name("engine.crash"), fake_report.report(fake_report.values_of(4711)))
    assert (marker.attributes["writer"], marker.process and marker.process.pid) == ("apport", 4711)
    crash_file.with_name("engine.crash").unlink()
    marker = noticed(tmp_path, crash_file.with_name("other.crash"), fake_core.core(b""))
    assert (marker.attributes["writer"], marker.process) == ("unknown", None)


def test_apport_report_that_says_nothing_is_known_by_its_name(tmp_path: Path, crash_file: Path) -> None:
    """As before the report is written, or of another kind."""
    marker = noticed(tmp_path, crash_file, b"ProblemType: Package\nProcStatus:\n Pid:\t1\n")
    assert (marker.process, marker.signal, marker.comm) == (None, None, "engine")


def test_apport_report_fills_the_summary_of_its_core(crash_file: Path) -> None:
    """The notes of the core within, and of the head what it has more of: arguments, mapped files, the package."""
    values = fake_report.values_of(42, Package="engine 1.2-3\x1b[2J")
    crash_file.write_bytes(fake_report.report(values, fake_report.packed(fake_core.core(fake_core.crash(), loads=3))))
    collected = collected_core(crash_file)
    core = collected.document("core.json")
    assert (core["signal"]["code_name"], core["signal"]["fault_address"]) == ("SEGV_MAPERR", "0xdead")
    assert (core["pid"], core["command"], core["threads"], core["mapped_files"]) == (42, "engine", 2, 1)
    assert core["arguments"] == "/opt/engine/bin/engine --name a b --password [redacted]"
    assert core["attributes"]["Package"] == r"engine 1.2-3\x1b[2J"
    assert len(collected.rows("threads.jsonl")) == 2
    assert [row["path"] for row in collected.rows("mapped_files.jsonl")] == ["/opt/engine/bin/engine"]
    assert collected["core"] == crash_file.read_bytes()
    assert (collected.error, collected.missing) == (None, "")


def test_apport_report_without_a_core_still_tells_what_its_head_says(crash_file: Path) -> None:
    """Apport leaves the core out if memory is short; the step is not ok."""
    crash_file.write_bytes(fake_report.report(fake_report.values_of(4711, comm="a\x1b[2J")))
    collected = collected_core(crash_file, keep=KeepCore.NONE)
    core = collected.document("core.json")
    assert core["signal"] == {"number": 11, "name": "SIGSEGV"}
    assert (core["pid"], core["ppid"], core["uid"], core["gid"], core["threads"]) == (4711, 7, 1000, 1001, 3)
    assert core["command"] == r"a\x1b[2J"
    assert [row["path"] for row in collected.rows("mapped_files.jsonl")] == ["/opt/engine/bin/engine"]
    assert SECRET.encode() not in collected.everything()
    assert "has no core" in collected.missing
    assert collected.error is None


def test_apport_report_whose_core_is_damaged_still_tells_what_its_head_says(crash_file: Path) -> None:
    """The step fails with the reason, and the report is kept."""
    chunks = (fake_report.HEADER, b"\xff" * 100)
    crash_file.write_bytes(fake_report.report(fake_report.values_of(4711), chunks))
    collected = collected_core(crash_file)
    assert collected.document("core.json")["pid"] == 4711
    assert len(collected.rows("mapped_files.jsonl")) == 1
    assert collected["core"] == crash_file.read_bytes()
    assert "cannot be unpacked" in str(collected.error)


def test_apport_report_tells_the_segments_by_their_inodes(crash_file: Path, segment: Path) -> None:
    """Of the crash is only the file that was mapped, not another that has its name now."""
    crash_file.write_bytes(fake_report.report(fake_report.values_of(42, maps=maps_of(segment))))
    marker = manual(core=core_ref(str(crash_file)))
    collected = collect(Shm(), context(marker))
    assert (collected["segments/0001"], collected.missing) == (b"evidence" * 1024, "")
    other = segment.with_name(segment.name + ".new")
    other.write_bytes(b"another")
    other.replace(segment)
    collected = collect(Shm(), context(marker))
    (row,) = collected.rows("segments.jsonl")
    assert (row["name"], row["not_taken"]) == (segment.name, "deleted, or replaced since")
    assert "segments/0001" not in collected
    assert segment.name in collected.missing


@pytest.mark.root
def test_apport_report_of_a_real_crash_is_read(tmp_path: Path, crash_file: Path, segment: Path) -> None:
    """A real core, ``maps`` and ``status`` of a real process, packed as Apport does."""
    with core_pattern(f"{tmp_path}/core.%p"):
        child = subprocess.Popen(
            [sys.executable, "-c", CRASH, segment],
            cwd=tmp_path,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, -1)),
        )
        assert child.wait() == -11
    texts = {
        "ProcMaps": (tmp_path / "maps").read_text(encoding="utf-8").strip(),
        "ProcStatus": (tmp_path / "status").read_text(encoding="utf-8").strip(),
    }
    plain = (tmp_path / f"core.{child.pid}").read_bytes()
    marker = noticed(
        tmp_path, crash_file, fake_report.report(fake_report.values_of(0) | texts, fake_report.packed(plain))
    )
    assert marker.process is not None
    assert (marker.process.pid, marker.uid, marker.comm) == (child.pid, 0, Path(sys.executable).name[:15])
    collected = collected_core(crash_file, keep=KeepCore.NONE)
    bare = collected_core(tmp_path / f"core.{child.pid}", keep=KeepCore.NONE)
    assert collected["threads.jsonl"] == bare["threads.jsonl"]
    core = collected.document("core.json")
    assert (core["pid"], core["signal"]["fault_address"], core.get("cut_off", False)) == (child.pid, "0x1234", False)
    by_maps, by_core = collected.rows("mapped_files.jsonl"), bare.rows("mapped_files.jsonl")
    assert [(row["start"], row["path"]) for row in by_core] == [(row["start"], row["path"]) for row in by_maps]
    assert collect(Shm(), context(manual(core=core_ref(str(crash_file)))))["segments/0001"] == b"evidence" * 1024
