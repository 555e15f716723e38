"""Attacks on what the archive keeps: a user who makes files grow, fills the disk, or crashes without end."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from configuration import CORE, CORES, MEMORY, UNBOUNDED, config_of
from copying_fixtures import file_system
from fake_core import NT_PRPSINFO, NT_PRSTATUS, core, note, prpsinfo, prstatus
from harness import Daemon, open_up, steps_of, wait_for
from machine import core_pattern

pytestmark = pytest.mark.root
MIB = 1 << 20
NOBODY = 65534
OTHER = 65533
PID = 4000077
UID_AT = 16
"""Offset of the uid in ``struct elf_prpsinfo``."""
BULK = '{id: bulk, collector: files, with: {paths: ["$directory/bulk"], max_bytes: 64MiB}}'


def as_user(uid: int, *command: object) -> None:
    words = [str(word) for word in command]
    subprocess.run(["setpriv", f"--reuid={uid}", "--clear-groups", *words], check=True, capture_output=True)


def sealed(daemon: Daemon) -> list[str]:
    """Return the ids of all incidents, oldest first."""
    return [manifest["id"] for manifest in daemon.incidents()]


def put_core(daemon: Daemon, number: int, uid: int, size: int) -> None:
    """Create the core of a user's process by a rename, *size* bytes longer than its notes."""
    info = prpsinfo(PID, b"program", b"program")
    notes = note(NT_PRSTATUS, prstatus(PID, 11, (0,) * 27))
    notes += note(NT_PRPSINFO, info[:UID_AT] + struct.pack("<I", uid) + info[UID_AT + 4 :])
    hidden = daemon.directory / "unfinished"
    with hidden.open("wb") as file:
        file.write(core(notes))
        for _ in range(0, size, MIB):
            file.write(os.urandom(MIB))
    os.chown(hidden, uid, uid)
    hidden.rename(daemon.cores / f"core.program{uid}.{number}")


@contextmanager
def shared_disk(daemon: Daemon, size: int) -> Iterator[Path]:
    """Mount a small ext4 that holds the archive, and a directory in which users can write; yield that directory."""
    with file_system(daemon.directory, "ext4", size=size) as disk:
        daemon.archive = disk / "archive"
        text = daemon.config.read_text(encoding="utf-8")
        text = text.replace(str(daemon.directory / "archive"), str(daemon.archive))
        daemon.config.write_text(text, encoding="utf-8")
        scratch = disk / "scratch"
        scratch.mkdir()
        scratch.chmod(0o1777)
        open_up(disk)
        try:
            yield scratch
        finally:
            daemon.kill()


def test_core_that_grows_in_the_archive_displaces_nothing(daemon_factory: Callable[..., Daemon]) -> None:
    """A core that an earlier release has linked stays its user's: what was sealed counts, not what it became."""
    daemon = daemon_factory(config_of(MEMORY, triggers=(), archive={"keep": {"size": "64MiB"}}), start=False)
    grows = daemon.cores / "core.program.1"
    for _ in range(3):
        assert daemon.run("run", "--now").returncode == 0
    before = sealed(daemon)
    as_user(NOBODY, "sh", "-c", f"printf evidence > {grows}")
    linked = daemon.archive / before[-1]
    os.link(grows, linked / "memory/core")
    manifest = json.loads((linked / "manifest.json").read_text(encoding="utf-8"))
    del manifest["sealed_bytes"], manifest["owner"]
    record = {"path": "memory/core", "size_bytes": 8, "data_bytes": 8, "method": "link"}
    manifest["steps"][0]["artifacts"].append(record)
    (linked / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    as_user(NOBODY, "fallocate", "-l", "100MiB", grows)
    as_user(NOBODY, "rm", grows)
    assert daemon.run("run", "--now").returncode == 0
    assert sealed(daemon)[:-1] == before
    assert (linked / "memory/core").stat().st_blocks * 512 >= 100 * MIB


def test_user_who_fills_the_disk_erases_nothing(daemon_factory: Callable[..., Daemon]) -> None:
    """The archive is within its rules: a new incident is refused, with the reason, until there is room again."""
    daemon = daemon_factory(config_of(MEMORY, BULK, triggers=(), archive={"reserve": "5%"}), start=False)
    (daemon.directory / "bulk").write_bytes(os.urandom(6 * MIB))
    with shared_disk(daemon, 96 * MIB) as scratch:
        for _ in range(3):
            assert daemon.run("run", "--now").returncode == 0
        before = sealed(daemon)
        filler = scratch / "filler"
        as_user(NOBODY, "sh", "-c", f"! cat /dev/zero > {filler}")
        for _ in range(2):
            refused = daemon.run("run", "--now")
            assert refused.returncode == 75
            assert "within archive.keep" in refused.stderr
        assert "nothing to delete" in daemon.run("prune").stderr
        assert sealed(daemon) == before
        filler.unlink()
        assert daemon.run("run", "--now").returncode == 0
        assert sealed(daemon)[:-1] == before


def test_user_who_crashes_without_end_displaces_only_his_own(daemon_factory: Callable[..., Daemon]) -> None:
    """Of too many incidents, the oldest of the user who has most goes; everybody else's stay."""
    config = config_of(MEMORY, triggers=(CORES,), archive={"keep": {"count": 5}}, storm=UNBOUNDED)
    daemon = daemon_factory(config)
    with core_pattern("core"):
        for number, uid in enumerate([0, OTHER, *[NOBODY] * 6], 1):
            put_core(daemon, number, uid, 0)
            wait_for_count(daemon, number)
        left = [manifest["owner"] for manifest in daemon.incidents()]
    assert left == ["root", f"uid {OTHER}", *[f"uid {NOBODY}"] * 3]


def wait_for_count(daemon: Daemon, number: int) -> None:
    """Wait until retention has been applied after the incident of that number."""

    def done() -> bool:
        events = [event["event"] for event in daemon.events()]
        pruned = events.count("incident.pruned")
        return events.count("incident.archived") == number and number - pruned <= 5

    wait_for(done, f"{number} incidents")


def test_user_leaves_room_on_the_disk_for_root(daemon_factory: Callable[..., Daemon]) -> None:
    """A user's core that takes more than his share is left out, with the reason; one of root's size is kept."""
    daemon = daemon_factory(config_of(MEMORY, CORE, triggers=(CORES,), storm=UNBOUNDED), start=False)
    with shared_disk(daemon, 128 * MIB), core_pattern("core"):
        daemon.start()
        put_core(daemon, 1, NOBODY, 60 * MIB)
        daemon.wait_for_incidents(1)
        put_core(daemon, 2, 0, 60 * MIB)
        first, second = (steps_of(manifest)["core"] for manifest in daemon.wait_for_incidents(2))
    assert "archive.reserve and the shares of others" in first["reason"]
    assert "core/core" not in {artifact["path"] for artifact in first["artifacts"]}
    assert {artifact["path"]: artifact["size_bytes"] for artifact in second["artifacts"]}["core/core"] > 60 * MIB


def test_users_slow_copy_delays_neither_roots_copy_nor_the_evidence_of_others(
    daemon_factory: Callable[..., Daemon],
) -> None:
    """Its copy takes 8 s here; root's goes on beside it, and a third worker reads what vanishes meanwhile."""
    daemon = daemon_factory(config_of(MEMORY, CORE, triggers=(CORES,), storm=UNBOUNDED, copy={"rate": "2MiB/s"}))

    def owners() -> list[str]:
        return [manifest["owner"] for manifest in daemon.incidents()]

    def evidence_read() -> int:
        return [event["event"] for event in daemon.events()].count("evidence.read")

    with core_pattern("core"):
        put_core(daemon, 1, NOBODY, 16 * MIB)
        wait_for(lambda: evidence_read() == 1, "the user's copy")
        put_core(daemon, 2, 0, 4 * MIB)
        wait_for(lambda: evidence_read() == 2, "root's copy")
        put_core(daemon, 3, OTHER, 1 * MIB)
        wait_for(lambda: evidence_read() == 3, "the third evidence")
        assert owners() == [], "both copies are under way"
        wait_for(lambda: owners() == ["root"], "root's incident", timeout_s=15)
        daemon.wait_for_incidents(3)
    wait_for(lambda: len(psutil.Process(daemon.pid).children()) == 2, "two workers again")
