"""Real faults: each outcome is recorded truthfully, and the daemon continues."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from configuration import MEMORY, config_of, in_turn
from harness import Daemon, run_now, status_of, steps_of, wait_for

MIB = 1 << 20
pytestmark = pytest.mark.root

BULK = '{id: bulk, collector: files, with: {paths: ["$directory/bulk*"], max_bytes: 64MiB}}'


def config(floor: str, wait: str, **sections: dict[str, object]) -> str:
    held = f"{{id: held, collector: dmesg, pressure: {{floor: {floor}, on_pressure: wait, wait: {wait}}}}}"
    return config_of("{id: first, collector: proc_files}", held, in_turn(MEMORY), BULK, **sections)


QUICK = config("64MiB", "1s")
HELD = config("512TiB", "2s")
"""The second step waits for memory that cannot become available: time to break something."""


@contextmanager
def disk(directory: Path, size: int = 48 * MIB) -> Iterator[str]:
    """Mount a small ext4 at *directory*; yield its device. It becomes read-only on the first error."""
    image = directory.parent / "image"
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    directory.mkdir(mode=0o700)
    options = "loop,errors=remount-ro"
    subprocess.run(["mount", "-o", options, str(image), str(directory)], check=True)
    device = subprocess.run(["findmnt", "-no", "SOURCE", str(directory)], check=True, capture_output=True, text=True)
    directory.chmod(0o700)
    try:
        yield device.stdout.strip()
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Fill the disk to the last block."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file:
        for piece in (MIB, 4096):
            while True:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), piece)
                except OSError:
                    break
    return path


def wait_for_event(daemon: Daemon, event: str) -> dict[str, object]:
    return wait_for(lambda: [one for one in daemon.events() if one["event"] == event][-1:], event)[0]


def assert_works(daemon: Daemon) -> None:
    """The next incident succeeds."""
    assert run_now(daemon).exit_code in (0, 3)
    assert steps_of(daemon.incidents()[-1])["memory"]["status"] == "ok"


def test_runtime_keeps_the_records_of_an_incident_that_meets_a_full_disk(daemon_factory: Callable[..., Daemon]) -> None:
    """With no block free, the manifest is still written; it has what came before and says what is missing."""
    daemon = daemon_factory(HELD, start=False)
    with disk(daemon.archive):
        daemon.start()
        daemon.put_core("core.1")
        wait_for_event(daemon, "step.waiting")
        filler = fill(daemon.archive)
        (manifest,) = daemon.wait_for_incidents(1)
        steps = steps_of(manifest)
        assert manifest["state"] == "incomplete"
        assert steps["first"]["status"] == "ok"
        assert steps["first"]["artifacts"]
        assert steps["held"]["status"] == "skipped"
        assert "No space left" in steps["memory"]["reason"]
        assert not list(daemon.archive.glob("*.partial"))
        assert wait_for_event(daemon, "incident.archived")["state"] == "incomplete"
        filler.unlink()
        assert_works(daemon)
        daemon.stop()


def bulk_beside_a_small_one(daemon: Daemon, size: int) -> dict[str, object]:
    """Copy a file of *size* bytes and a small one to a small disk; return the step."""
    (daemon.directory / "bulk").write_bytes(os.urandom(size))
    (daemon.directory / "bulk.small").write_bytes(b"small")
    with disk(daemon.archive):
        daemon.start()
        assert run_now(daemon).exit_code == 3
        bulk = steps_of(daemon.incidents()[-1])["bulk"]
        daemon.stop()
    assert bulk["status"] == "truncated"
    return bulk


def test_runtime_truncates_bulk_that_does_not_fit(daemon_factory: Callable[..., Daemon]) -> None:
    """A file larger than the disk is reported; the next one, which may be smaller, is still copied."""
    daemon = daemon_factory(QUICK, start=False)
    bulk = bulk_beside_a_small_one(daemon, 64 * MIB)
    assert "do not fit" in bulk["reason"]
    assert any(str(one.get("source", "")).endswith("bulk.small") for one in bulk["artifacts"])


def test_runtime_keeps_the_reserve_of_the_disk(daemon_factory: Callable[..., Daemon]) -> None:
    """A file that would use the reserve is not started; a smaller one is still copied."""
    daemon = daemon_factory(config("64MiB", "1s", archive={"reserve": "20MiB"}), start=False)
    bulk = bulk_beside_a_small_one(daemon, 30 * MIB)
    assert "its 30.0 MiB do not fit" in bulk["reason"]
    assert [Path(one["source"]).name for one in bulk["artifacts"] if one.get("source")] == ["bulk.small"]


def test_runtime_refuses_incidents_on_a_disk_that_turned_read_only(daemon_factory: Callable[..., Daemon]) -> None:
    """The kernel stops writing to a broken disk: the marker's fate says why, and the daemon continues."""
    daemon = daemon_factory(HELD, start=False)
    with disk(daemon.archive) as device:
        daemon.start()
        daemon.put_core("core.1")
        wait_for_event(daemon, "step.waiting")
        Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("test")
        assert "Read-only" in wait_for_event(daemon, "incident.refused")["reason"]
        wait_for(lambda: status_of(daemon).fates.get("failed") == 1, "fate of the marker")
        assert status_of(daemon).ledger_problem
        refused = run_now(daemon)
        assert refused.exit_code == 73
        assert "Read-only" in refused.message
        assert daemon.stop() == 0


def test_runtime_continues_when_the_archive_is_removed(daemon_factory: Callable[..., Daemon]) -> None:
    """During an incident, that one is refused. Between incidents, the next one recreates the directory."""
    daemon = daemon_factory(HELD)
    daemon.put_core("core.1")
    wait_for_event(daemon, "step.waiting")
    shutil.rmtree(daemon.archive)
    assert wait_for_event(daemon, "incident.refused")["reason"]
    assert_works(daemon)
    shutil.rmtree(daemon.archive)
    assert_works(daemon)
    assert len(daemon.incidents()) == 1


def out_of_action(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_runtime_replaces_idle_workers_that_were_lost(daemon_factory: Callable[..., Daemon], number: int) -> None:
    """Killed or stopped between incidents: the next incident is complete, and two workers are idle again."""
    daemon = daemon_factory(QUICK)
    wait_for(lambda: status_of(daemon).workers_idle == 2, "two idle workers: they do maintenance at the start")
    (daemon.directory / "bulk").write_bytes(b"evidence")
    lost = psutil.Process(daemon.pid).children()[-1]
    lost.send_signal(number)
    wait_for(lambda: out_of_action(lost), "effect of the signal")
    assert run_now(daemon).exit_code == 0
    wait_for(lambda: status_of(daemon).workers_idle == 2, "two workers")
    assert not any(worker.is_running() and worker == lost for worker in psutil.Process(daemon.pid).children())


@pytest.mark.slow
def test_runtime_reports_that_no_descriptor_is_left(daemon_factory: Callable[..., Daemon]) -> None:
    """EMFILE in the supervisor: the incident is archived as interrupted, with that reason; no busy loop, no exit."""
    daemon = daemon_factory(QUICK)
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    supervisor = psutil.Process(daemon.pid)
    taken = {int(fd) for fd in os.listdir(f"/proc/{daemon.pid}/fd")}
    lowest_free = next(fd for fd in range(hard) if fd not in taken)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (lowest_free + 1, hard))  # the client takes the last one
    assert run_now(daemon).incident is not None
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (lowest_free, hard))
    before = supervisor.cpu_times().user
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(daemon.runtime / "control.sock"))
        daemon.put_core("core.1")
        time.sleep(4)  # the trigger tries to read its directories twice, in vain
        assert supervisor.cpu_times().user - before < 1, "a client that cannot be accepted keeps nobody busy"
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (hard, hard))
    wait_for(lambda: status_of(daemon).fates.get("collected") == 1, "the core")
    (interrupted, _) = daemon.incidents()
    assert interrupted["state"] == "interrupted"
    assert status_of(daemon).fates == {"collected": 1, "interrupted": 1}
    assert not list(daemon.archive.glob("*.partial"))
    assert any("no descriptor left" in str(event.get("reason")) for event in daemon.events())


@pytest.mark.slow
def test_runtime_waits_for_a_worker_where_none_can_be_forked(daemon_factory: Callable[..., Daemon]) -> None:
    """``pids.max`` reached, EAGAIN for each fork: it is logged and tried again, and the next incident is complete."""
    daemon = daemon_factory(QUICK)
    base = Path("/sys/fs/cgroup/pids")
    if not base.exists():
        base = base.parent
        (base / "cgroup.subtree_control").write_text("+pids")
    group = base / f"collector-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(daemon.pid))
        (group / "pids.max").write_text("1")
        for worker in psutil.Process(daemon.pid).children():
            worker.kill()
        wait_for_event(daemon, "worker.missing")
        (group / "pids.max").write_text("max")
        wait_for(lambda: status_of(daemon).workers_idle == 2, "two workers")
        assert_works(daemon)
    finally:
        daemon.stop()
        group.rmdir()
