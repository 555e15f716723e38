"""Attacks by what is collected: planted, endless, hanging and swapped files."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from configuration import CORE, HOLD, MEMORY, config_of, in_turn
from hanging_fuse import mounted
from harness import COLLECTOR, Daemon, contents, held, steps_of, wait_for
from machine import core_pattern

pytestmark = pytest.mark.root
MIB = 1 << 20
NOBODY = 65534
SECRET = b"only root may read this"
PLANTED = ("fifo", "socket", "symlink", "hardlink", "device", "directory")


def plant(directory: Path, prefix: str, secret: Path) -> None:
    """Create one of each kind, owned by nobody where the kernel allows it."""
    paths = {kind: directory / f"{prefix}{kind}" for kind in PLANTED}
    os.mkfifo(paths["fifo"])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(paths["socket"]))
    paths["symlink"].symlink_to(secret)
    os.link(secret if secret.stat().st_dev == directory.stat().st_dev else paths["socket"], paths["hardlink"])
    os.mknod(paths["device"], 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero, endless
    paths["directory"].mkdir()
    for kind in ("fifo", "socket", "symlink", "directory"):
        os.chown(paths[kind], NOBODY, NOBODY, follow_symlinks=False)


def fates(daemon: Daemon) -> dict[str, tuple[str, str]]:
    """Return fate and reason of every marker by the name of its core."""
    rows = daemon.ledger("json_extract(marker, '$.core.path'), fate, reason")
    return {os.path.basename(path): (fate, reason) for path, fate, reason in rows}


def test_only_regular_files_are_read(daemon_factory: Callable[..., Daemon], tmp_path: Path) -> None:
    """FIFO, socket, symlink, hard link, device and directory, planted among cores, segments and files."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    files, shm = tmp_path / "files", Path(f"/dev/shm/planted-{os.getpid()}")
    files.mkdir()
    shm.mkdir()
    steps = (
        "{id: core, collector: core, with: {keep: copy}}",
        f'{{id: segments, collector: shm, with: {{from: none, segments: ["{shm.name}/*"]}}}}',
        f'{{id: files, collector: files, with: {{paths: ["{files}/x*"]}}}}',
    )
    daemon = daemon_factory(config_of(*steps))
    try:
        plant(files, "x", secret)
        plant(shm, "x", secret)
        (files / "xhardlink").unlink()  # a log file may have two names: it is read, for root only
        for directory in (files, shm):
            (directory / "x-regular").write_bytes(b"evidence")
        with core_pattern("core"):
            plant(daemon.cores, "core.", secret)
            wait_for(lambda: "core.hardlink" in fates(daemon), "fates of what is planted")
            (daemon.cores / "core.regular").write_bytes(b"evidence")
            (manifest,) = daemon.wait_for_incidents(1)
    finally:
        for path in shm.iterdir():
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        shm.rmdir()
    assert manifest["markers"][0]["core"]["path"] == str(daemon.cores / "core.regular")
    found = contents(daemon.archive / manifest["id"])
    assert [path for path, data in found.items() if data == b"evidence"] == [
        "core/core",
        "files/files/0001",
        "segments/segments/0001",
    ]
    assert [path for path, data in found.items() if SECRET in data] == []
    unread = found["files/unread.jsonl"].decode()
    for kind in set(PLANTED) - {"hardlink"}:
        assert f"x{kind}" in unread
    for kind in ("fifo", "socket", "symlink", "hardlink", "device"):
        assert fates(daemon).get(f"core.{kind}", ("not seen",))[0] in {"refused", "not seen"}
    assert fates(daemon)["core.hardlink"] == ("refused", "2 hard links: a new file has one")
    assert daemon.process is not None
    assert daemon.process.poll() is None


@pytest.mark.parametrize("step", [CORE, in_turn(CORE)], ids=["notes read first", "in turn"])
def test_core_that_its_owner_swaps_is_not_collected(daemon_factory: Callable[..., Daemon], step: str) -> None:
    """Another file has the name by the time the step runs: the marker identifies the core by its inode."""
    daemon = daemon_factory(config_of(HOLD, step))
    os.mkfifo(daemon.directory / "hold")
    other = daemon.directory / "other"
    other.write_bytes(SECRET)
    with core_pattern("core"):
        core = daemon.cores / "core.engine.1"
        core.write_bytes(b"x")
        with held(daemon.directory / "hold"):
            os.rename(other, core)
        (manifest,) = daemon.wait_for_incidents(1)
    core_step = steps_of(manifest)["core"]
    assert core_step["status"] == "failed"
    assert "is gone" in core_step["reason"]
    assert [path for path, data in contents(daemon.archive).items() if SECRET in data] == []


# ru_maxrss includes the time before exec: the test's own memory must not count.
MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(done.returncode)
"""


def test_endless_and_hanging_sources_cost_only_their_own_step(
    daemon_factory: Callable[..., Daemon], tmp_path: Path
) -> None:
    """A command that prints a gigabyte, an endless one, and a file that hangs: each is cut, memory stays bounded."""
    mountpoint = tmp_path / "fuse"
    mountpoint.mkdir()
    steps = (
        "{id: gigabyte, collector: command, with: {argv: [/usr/bin/head, -c, 1G, /dev/zero], max_output: 1MiB}}",
        "{id: endless, collector: command, timeout: 2s, with: {argv: [/bin/sleep, '600']}}",
        f'{{id: silent, collector: files, timeout: 1s, with: {{paths: ["{mountpoint}/slow"]}}}}',
        MEMORY,
    )
    daemon = daemon_factory(config_of(*steps), start=False)
    with mounted(mountpoint):
        command = [sys.executable, "-c", MEASURED, *COLLECTOR, "run", "--now", "--json", "--config", str(daemon.config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    told = {step["id"]: step["status"] for step in json.loads(done.stdout)["steps"]}
    assert told["gigabyte"] == told["endless"] == "truncated"
    assert told["silent"] in {"timeout", "abandoned"}
    assert told["memory"] == "ok"
    (directory,) = daemon.archive.glob("*Z-??????")
    assert (directory / "gigabyte/output.txt").stat().st_size == MIB
    assert int(done.stderr.split()[-1]) * 1024 < 128 * MIB, "of the largest of all its processes"
