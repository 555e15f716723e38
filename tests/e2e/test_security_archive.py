"""Attacks on what the collector writes: names planted or swapped, in the archive and in its own directories."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from configuration import CORE, CORES, HOLD, KERNEL_LOG, MEMORY, NOTIFY, TABLE, config_of, in_turn
from harness import COLLECTOR, Daemon, contents, held, wait_for
from machine import core_pattern

pytestmark = pytest.mark.root
NOBODY = 65534


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A directory in which the collector must not write or delete anything."""
    directory = tmp_path / "victim"
    (directory / "inner").mkdir(parents=True)
    for name in ("file", "inner/file"):
        (directory / name).write_bytes(b"precious")
    yield directory
    assert contents(directory) == {"file": b"precious", "inner/file": b"precious"}
    assert sorted(path.name for path in directory.rglob("*")) == ["file", "file", "inner"]


@contextmanager
def racing(move: Callable[[], None]) -> Iterator[None]:
    """Repeat *move* in a thread during the block."""
    over = threading.Event()

    def race() -> None:
        while not over.is_set():
            with suppress(OSError):
                move()

    thread = threading.Thread(target=race)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("kind", ["symlink", "hard link", "FIFO"])
def test_names_planted_in_an_incident_are_not_followed(
    daemon_factory: Callable[..., Daemon], victim: Path, kind: str
) -> None:
    """Each write fails or replaces the planted name, and touches nothing else."""
    after = map(in_turn, (MEMORY, TABLE, KERNEL_LOG))
    daemon = daemon_factory(config_of(HOLD, *after, triggers=()), start=False)
    os.mkfifo(daemon.directory / "hold")
    names = ("memory", "processes/processes.tsv", "kernel_log/dmesg.jsonl.part")
    records = ("steps.jsonl", "artifacts.jsonl", "manifest.json", "manifest.json.new")
    command = [*COLLECTOR, "run", "--now", "--config", str(daemon.config)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with held(daemon.directory / "hold"):
        (partial,) = daemon.archive.glob("*.partial")
        for name in (*names, *records):
            path = partial / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.unlink(missing_ok=True)
            if kind == "symlink":
                path.symlink_to(victim if name == "memory" else victim / "file")
            elif kind == "hard link":
                os.link(victim / "file", path)
            else:
                os.mkfifo(path)
    _, said = running.communicate(timeout=40)
    assert running.returncode in {3, 73}, said


def test_directory_swapped_for_a_symlink_is_not_followed(daemon_factory: Callable[..., Daemon], victim: Path) -> None:
    """A step's directory may be replaced between any two of its artifacts."""
    daemon = daemon_factory(config_of(MEMORY, triggers=()), start=False)

    def swap() -> None:
        for partial in daemon.archive.glob("*.partial"):
            os.rename(partial / "memory", partial / "aside")
            (partial / "memory").symlink_to(victim)
            time.sleep(0.0005)
            (partial / "memory").unlink()
            os.rename(partial / "aside", partial / "memory")
            time.sleep(0.0005)

    with racing(swap):
        for _ in range(2):
            assert daemon.run("run", "--now").returncode in {0, 3, 73}


def test_unsafe_archive_is_refused(daemon_factory: Callable[..., Daemon], victim: Path) -> None:
    """A symlink, and a directory in which another user can create names."""
    daemon = daemon_factory(config_of(MEMORY, triggers=()), start=False)
    daemon.archive.symlink_to(victim)
    assert daemon.run("run", "--now").returncode == 73
    daemon.archive.unlink()
    daemon.archive.mkdir()
    os.chown(daemon.archive, NOBODY, NOBODY)
    assert daemon.run("run", "--now").returncode == 73
    assert list(daemon.archive.iterdir()) == []


def test_planted_sockets_and_ledger_are_not_followed(daemon_factory: Callable[..., Daemon], victim: Path) -> None:
    """Symlinks at the daemon's own names are replaced or refused and reported; the crash is still collected."""
    daemon = daemon_factory(config_of(MEMORY, triggers=(CORES, NOTIFY)), start=False)
    names = ((daemon.runtime, "control.sock"), (daemon.runtime, "notify.sock"), (daemon.archive, "ledger.sqlite"))
    for directory, name in names:
        directory.mkdir(mode=0o700, exist_ok=True)
        (directory / name).symlink_to(victim / "file")
    daemon.start()
    with core_pattern("core"):
        (daemon.cores / "core.engine.1").write_bytes(b"x")
        daemon.wait_for_incidents(1)
    status = json.loads(daemon.run("status", "--json").stdout)
    assert "is not a socket of this user" in status["triggers"]["told"]
    assert "ledger.sqlite" in status["ledger_problem"]
    assert (daemon.runtime / "control.sock").is_socket()


def test_owner_of_a_core_cannot_change_what_is_archived(daemon_factory: Callable[..., Daemon]) -> None:
    """The file remains its owner's; what the incident holds does not."""
    daemon = daemon_factory(config_of(CORE))
    core = daemon.cores / "core.engine.1"
    with core_pattern("core"):
        core.with_name("x").write_bytes(b"evidence")
        os.chown(core.with_name("x"), NOBODY, NOBODY)
        core.with_name("x").rename(core)
        (manifest,) = daemon.wait_for_incidents(1)
    assert (daemon.archive / manifest["id"] / "core/core").read_bytes() == b"evidence"
    wait_for(lambda: "incident.sealed" in daemon.log.read_text(), "digests")
    assert daemon.run("verify").returncode == 0
    subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "sh", "-c", f"printf forgery! > {core}"], check=True)
    assert core.read_bytes() == b"forgery!"
    assert (daemon.archive / manifest["id"] / "core/core").read_bytes() == b"evidence"
    assert daemon.run("verify").returncode == 0


def test_deleting_old_incidents_deletes_nothing_else(daemon_factory: Callable[..., Daemon], victim: Path) -> None:
    """Symlinks inside incidents, instead of them, and swapped in during deletion."""
    config = config_of(MEMORY, triggers=(), archive={"keep": {"count": 1}})
    daemon = daemon_factory(config, start=False)
    daemon.archive.mkdir(mode=0o700)
    old = daemon.archive / "20200101T000000.000000Z-000000"
    for number in range(300):
        (old / f"step/{number}").mkdir(parents=True)
    (old / "step/link").symlink_to(victim)
    (old / "step/hardlink").hardlink_to(victim / "file")
    planted = daemon.archive / "20200101T000000.000000Z-000001"
    planted.symlink_to(victim)
    (daemon.archive / "20200101T000000.000000Z-000002.deleting").symlink_to(victim)
    deleting = old.with_name(f"{old.name}.deleting")

    def swap() -> None:
        for number in range(300):
            with suppress(FileNotFoundError):
                os.rmdir(deleting / f"step/{number}")
                (deleting / f"step/{number}").symlink_to(victim)

    with racing(swap):
        assert daemon.run("run", "--now").returncode == 0
    assert daemon.run("run", "--now").returncode == 0
    left = {path.name for path in daemon.archive.iterdir()} - {planted.name}
    assert not [name for name in left if name.startswith("2020")]
    assert len(daemon.incidents()) == 1
