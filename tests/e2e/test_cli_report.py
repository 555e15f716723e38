"""`collector report` on incidents of real crashes."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from configuration import config_of, write_config
from copying_fixtures import file_system
from harness import COLLECTOR, NOBODY, Daemon, Victim, as_nobody, make_daemon, open_up, segment, wait_for
from machine import core_pattern, need
from pages import checked_page, words
from stories import INCIDENT, archived_story, manifest

from collector.daemon.requests import watched_of
from collector.model.artifact import ArtifactRecord
from collector.model.incident import StepRecord, StepStatus

MIB = 1 << 20


def report(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COLLECTOR, "report", *map(str, arguments)], capture_output=True, check=False)


@pytest.fixture
def stormed(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon whose archive is on an ext4 of its own, and which records two rows a second."""
    with file_system(tmp_path, "ext4", size=1 << 30) as disk:
        config = config_of(recorder={"period": "500ms", "keep": "10m"}).replace("$archive", str(disk / "archive"))
        daemon = make_daemon(tmp_path, 0, config)
        daemon.archive = disk / "archive"
        try:
            yield daemon
        finally:
            daemon.kill()


@pytest.mark.root
def test_report_of_a_crash_in_a_cp_storm_shows_both(stormed: Daemon, crasher: Path, tmp_path: Path) -> None:
    """The crash, the segment that it held, and what the disk wrote before: from a real incident."""
    need("cp")
    (source := tmp_path / "source").write_bytes(os.urandom(MIB) * 128)
    stormed.start()
    done = threading.Event()

    def copy() -> None:
        while not done.is_set():
            subprocess.run(["cp", source, stormed.archive.parent / "copy"], check=True)

    storm = threading.Thread(target=copy)
    storm.start()
    try:
        wait_for(lambda: watched_of(str(stormed.runtime), 0.0).seconds[6:], "rows of the recorder")
        with core_pattern(f"{stormed.cores}/core.%e.%p"), segment("report", MIB, {0: b"data"}) as path:
            pid = Victim(crasher, path).die()
            (archived,) = stormed.wait_for_incidents(1, 90)
    finally:
        done.set()
        storm.join()
    written = stormed.run("report", archived["id"], "-o", tmp_path / "page.html")
    assert written.returncode == 0, written.stderr
    text = words(checked_page((tmp_path / "page.html").read_text(encoding="utf-8")))
    device = os.stat(stormed.archive).st_dev
    disk = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    for told in (f"{crasher.name[:15]}[{pid}] SIGSEGV", f"Disk {disk}", "which crashed #0", os.path.basename(path)):
        assert told in text
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count('class="crash"') >= 5


def test_report_is_a_new_file_for_its_owner_only(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask; it says what it holds; a second one is refused, and changes nothing."""
    archive, page = archived_story(tmp_path / "archive"), tmp_path / "page.html"
    written = report("latest", "-o", page, "--archive", archive)
    assert (written.returncode, written.stderr) == (0, b"")
    assert written.stdout.startswith(f"{INCIDENT}: ".encode())
    assert b"secrets hidden as they are there" in written.stdout
    assert page.stat().st_mode & 0o777 == 0o600
    before = page.read_bytes()
    checked_page(before.decode())
    (archive / INCIDENT / "manifest.json").write_bytes(b"damaged: it is refused before anything is read")
    again = report("latest", "-o", page, "--archive", archive)
    assert again.returncode == 73
    assert b"exists already" in again.stderr
    assert page.read_bytes() == before


def test_report_goes_to_standard_output_alone(tmp_path: Path) -> None:
    """With ``-o -``: nothing but the page, and no file."""
    archived_story(tmp_path / "archive")
    written = report(INCIDENT, "-o", "-", "--config", write_config(tmp_path, config_of()))
    assert (written.returncode, written.stderr) == (0, b"")
    checked_page(written.stdout.decode())
    assert not Path("-").exists()


@pytest.mark.parametrize(("target", "said"), [("nowhere/page.html", b"cannot create"), ("planted", b"exists already")])
def test_report_writes_nowhere_else(tmp_path: Path, target: str, said: bytes) -> None:
    """Not into a directory that is not there, nor through a symlink."""
    archive = archived_story(tmp_path / "archive")
    (tmp_path / "planted").symlink_to(tmp_path / "victim")
    written = report("latest", "-o", tmp_path / target, "--archive", archive)
    assert written.returncode == 73
    assert said in written.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "planted"]


def test_report_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """A file-size limit stands for a full disk."""
    archive = archived_story(tmp_path / "archive")
    command = [*COLLECTOR, "report", "latest", "-o", str(tmp_path / "page.html"), "--archive", str(archive)]

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    written = subprocess.run(command, capture_output=True, check=False, preexec_fn=limit)
    assert written.returncode == 73
    assert b"File too large" in written.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_report_of_a_large_incident_takes_little_memory(tmp_path: Path) -> None:
    """A segment of 1 GiB and 20,000 files are not read for it: 100 MiB at the most."""
    archive = archived_story(tmp_path / "archive")
    records = tuple(
        ArtifactRecord(path=f"segments/{number:05}", size_bytes=1 << 30, data_bytes=1 << 30, source="/dev/shm/x" * 9)
        for number in range(20_000)
    )
    step = StepRecord(id="segments", collector="shm", status=StepStatus.OK, artifacts=records)
    archived_story(archive, known=manifest(steps=(*manifest().steps[:2], step, manifest().steps[3])))
    with (archive / INCIDENT / "segments/00001").open("wb") as file:
        file.truncate(1 << 30)
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=2); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [*COLLECTOR, "report", "latest", "-o", "-", "--archive", str(archive)]
    measured = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, check=True)
    assert int(measured.stdout) <= 100 << 10
    assert b"more files are left out of this page" in measured.stderr


@pytest.mark.root
def test_report_needs_no_root(tmp_path: Path) -> None:
    """In an archive of one's own."""
    archive = archived_story(tmp_path / "archive")
    for path in (archive, *archive.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    open_up(tmp_path)
    command = [*as_nobody(tmp_path / "layers"), *COLLECTOR, "report", "latest", "-o", "-", "--archive", str(archive)]
    written = subprocess.run(command, capture_output=True, check=False)
    assert (written.returncode, written.stderr) == (0, b"")
    checked_page(written.stdout.decode())
    shutil.rmtree(tmp_path / "layers", ignore_errors=True)
