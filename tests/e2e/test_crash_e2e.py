"""The main job: a process crashes, and its incident is archived."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from harness import Daemon, Victim, segment, steps_of
from machine import core_pattern
from memory_group import MemoryGroup, memory_group

MIB = 1 << 20
pytestmark = pytest.mark.root


class Watcher:
    """Samples a cgroup and keeps the highest shared memory and page cache."""

    def __init__(self, group: MemoryGroup) -> None:
        self._group = group
        self.shmem = self.files = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(0.005):
            shmem, files = self._group.cache()
            self.shmem, self.files = max(self.shmem, shmem), max(self.files, files)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()


def test_crash_is_archived_with_its_segments(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """Signal, PID, command and mapped files from the core; both segments byte for byte, the sparse one sparse."""
    daemon = daemon_factory()
    dense = {n * MIB: os.urandom(MIB) for n in range(256)}
    sparse = {n << 29: os.urandom(MIB) for n in range(8)}
    with (
        memory_group() as group,
        core_pattern(f"{daemon.cores}/core.%e.%p"),
        segment("dense", 256 * MIB, dense) as dense_path,
        segment("sparse", 4096 * MIB, sparse) as sparse_path,
    ):
        for process in (psutil.Process(daemon.pid), *psutil.Process(daemon.pid).children()):
            group.take(process.pid)
        pid = Victim(crasher, dense_path, sparse_path).die()
        watcher = Watcher(group)
        try:
            (manifest,) = daemon.wait_for_incidents(1)
        finally:
            watcher.stop()
        assert manifest["state"] == "complete", manifest
        steps = steps_of(manifest)
        directory = daemon.archive / manifest["id"]
        copies = {one["source"]: one for one in steps["segments"]["artifacts"] if "source" in one}
        for source in (dense_path, sparse_path):
            subprocess.run(["cmp", source, str(directory / copies[source]["path"])], check=True)
    assert watcher.shmem <= MIB
    assert watcher.files <= 8 * MIB
    assert copies[sparse_path]["sparse"]
    assert (directory / copies[sparse_path]["path"]).stat().st_blocks * 512 <= 9 * MIB
    text = "".join(told.read_text() for told in directory.glob("core/*.json*"))
    for fact in (str(pid), "SIGSEGV", str(crasher), dense_path, sparse_path):
        assert fact in text
    assert manifest["markers"][0]["trigger"] == "cores"
    assert (directory / "kernel_log/dmesg.txt").stat().st_size > 0
    assert any("meminfo" in one["path"] for one in steps["memory"]["artifacts"])
    assert steps["processes"]["artifacts"]


def test_crash_artifacts_are_for_root_only(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """Owner root, mode 0600, in directories 0700, whoever the process and its files belonged to."""
    daemon = daemon_factory()
    with core_pattern(f"{daemon.cores}/core.%e.%p"), segment("private", MIB, {0: b"secret"}) as path:
        os.chmod(path, 0o666)
        Victim(crasher, path, user=65534).die()
        (manifest,) = daemon.wait_for_incidents(1)
    for file in (daemon.archive / manifest["id"]).rglob("*"):
        status = file.stat()
        assert status.st_uid == 0, file
        assert status.st_mode & 0o077 == 0, file
