"""A handler that writes every core to the same file: each incident holds its own crash, whatever comes after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_core
import pytest
from configuration import CORE, CORES, config_of
from copying_fixtures import file_system
from harness import Daemon, Victim, steps_of, wait_for
from machine import core_pattern

from collector.collectors.core.notes import parse_process
from collector.host.corefile import FileReader
from collector.host.elfcore import NT_PRPSINFO, notes

pytestmark = pytest.mark.root
EVERY_CRASH = {"coalesce": "0s"}


def config(keep: str = "auto", **archive: object) -> str:
    core = CORE.replace("core}", f"core, with: {{keep: {keep}}}}}")
    return config_of(core, triggers=(CORES,), storm=EVERY_CRASH, archive=archive)


@contextmanager
def handler(daemon: Daemon, script: str) -> Iterator[None]:
    """Let a shell script receive every core, with its standard input; ``$cores`` is the watched directory."""
    program = daemon.directory / "handler"
    program.write_text(f"#!/bin/sh\nexport PATH=/usr/bin:/bin cores={daemon.cores}\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    with core_pattern(f"|{program}"):
        yield


def core_of(daemon: Daemon, manifest: dict[str, Any]) -> tuple[int, Path]:
    """Return the PID in an incident's ``core.json``, and its core."""
    directory = daemon.archive / manifest["id"] / "core"
    (core,) = (one for one in steps_of(manifest)["core"]["artifacts"] if one["path"] == "core/core")
    assert not core.get("truncated"), core
    return pid_in(directory / "core"), directory / "core"


def pid_in(core: Path) -> int:
    """Return the PID that a core's notes name."""
    with core.open("rb") as file:
        header, found = notes(FileReader(file.fileno()))
        (note,) = (note for note in found if note.type == NT_PRPSINFO)
        process = parse_process(header.layout, note.desc)
    assert process is not None
    return process.pid


@pytest.mark.parametrize("keep", ["auto", "link", "copy"])
def test_core_that_is_rewritten_in_place_is_each_crashs_own(
    daemon_factory: Callable[..., Daemon], crasher: Path, keep: str
) -> None:
    """Four crashes into one file: four incidents, none refused, each with the core of its own process."""
    daemon = daemon_factory(config(keep))
    pids = []
    with handler(daemon, 'cat > "$cores/core.engine"'):
        for count in range(1, 5):
            pids.append(Victim(crasher).die())
            manifests = daemon.wait_for_incidents(count)
    cores = [core_of(daemon, manifest) for manifest in manifests]
    assert [pid for pid, _ in cores] == pids
    assert [manifest["state"] for manifest in manifests] == ["complete"] * 4
    wait_for(lambda: daemon.ledger("fate") == [("collected",)] * 4, "end of all four")
    source = (daemon.cores / "core.engine").stat()
    assert not any(os.path.samestat(core.stat(), source) for _, core in cores)
    (daemon.cores / "core.engine").unlink()  # as a site's own jobs do
    assert daemon.run("verify").returncode == 0


def test_core_that_is_rewritten_shares_blocks_where_the_file_system_can(
    daemon_factory: Callable[..., Daemon], crasher: Path, tmp_path: Path
) -> None:
    """On xfs an incident takes no space for its core, and holds it all the same after the next crash."""
    with file_system(tmp_path, "xfs") as disk:
        daemon = daemon_factory(config(path=str(disk / "archive")), start=False)
        daemon.archive = disk / "archive"
        daemon.cores.rmdir()
        (disk / "cores").mkdir()
        daemon.cores.symlink_to(disk / "cores")
        try:
            daemon.start()
            pids = []
            with handler(daemon, 'cat > "$cores/core.engine"'):
                for count in (1, 2):
                    pids.append(Victim(crasher).die())
                    manifests = daemon.wait_for_incidents(count)
            assert [core_of(daemon, manifest)[0] for manifest in manifests] == pids
            kept = steps_of(manifests[0])["core"]["artifacts"][-1]
            assert (kept["path"], kept["method"]) == ("core/core", "reflink")
        finally:
            daemon.kill()


def test_core_that_an_earlier_version_linked_is_not_refused(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """The second link is the archive's own; anybody else's is still refused."""
    daemon = daemon_factory(config(), start=False)
    core = daemon.cores / "core.engine"
    core.write_bytes(b"the last crash")
    os.utime(core, (1, 1))
    kept = daemon.archive / "20200101T000000.000000Z-000000/core/core"
    kept.parent.mkdir(parents=True, mode=0o700)
    kept.hardlink_to(core)
    (daemon.directory / "other").write_bytes(b"x")
    daemon.start()
    with handler(daemon, 'cat > "$cores/core.engine"'):
        pid = Victim(crasher).die()
        (manifest,) = daemon.wait_for_incidents(1)
    assert core_of(daemon, manifest)[0] == pid
    (daemon.cores / "core.planted").hardlink_to(daemon.directory / "other")
    wait_for(lambda: ("refused",) in daemon.ledger("fate"), "refusal")


def test_core_of_systemd_is_linked_and_never_collected_twice(daemon_factory: Callable[..., Daemon]) -> None:
    """The archive's own link is no reason to refuse it, whatever is done to the original."""
    daemon = daemon_factory(config(), start=False)
    daemon.cores.chmod(0o755)
    name = f"core.engine.0.{'a' * 32}.4711.1700000000000000"
    hidden = daemon.cores / "hidden"
    hidden.write_bytes(fake_core.core(fake_core.crash()))
    hidden.chmod(0o640)
    try:
        os.setxattr(hidden, "user.coredump.pid", b"4711")
    except OSError:
        pytest.skip("this file system has no user attributes")
    daemon.start()
    core = hidden.rename(daemon.cores / name)
    (manifest,) = daemon.wait_for_incidents(1)
    kept = daemon.archive / manifest["id"] / "core/core"
    assert steps_of(manifest)["core"]["artifacts"][-1]["method"] == "link"
    assert kept.samefile(core)
    os.utime(core)
    core = core.rename(daemon.cores / f"core.{name}")
    daemon.stop()
    os.utime(core)
    daemon.start()
    core.rename(daemon.cores / "core.again")
    daemon.put_core("core.last")
    daemon.wait_for_incidents(2)
    wait_for(lambda: daemon.ledger("fate") == [("collected",)] * 2, "end of both")
    (daemon.cores / "core.again").unlink()
    assert daemon.run("verify").returncode == 0
    assert kept.stat().st_nlink == 1
